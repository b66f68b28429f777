"""Two processes say what each recognises of a model that both train."""

from typing import Any

import torch
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.torch_run.recognise import recognise
from support.models import LanguageModel, optimizer_of


def model() -> LanguageModel:
    return LanguageModel(layers=6)


def recognised(trained: Any) -> list[Any]:
    seen = recognise(trained)
    return [seen.n_params, seen.task]


def recognised_in_processes() -> dict[str, list[Any]]:
    """Number of parameters and task, by the way in which the model is spread over processes."""
    # deprecated code of torch runs when it is imported
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ddp = DistributedDataParallel(model())
    sharded = model()
    fully_shard(sharded)
    wrapped: dict[str, torch.nn.Module] = {"ddp": ddp, "fully_shard": sharded}
    for name, original in (("fsdp", False), ("fsdp, original parameters", True)):
        wrapped[name] = FullyShardedDataParallel(
            model(), use_orig_params=original, device_id=torch.device("cpu")
        )
    optimizers = {f"{name}, optimizer": optimizer_of(each) for name, each in wrapped.items()}
    zero = ZeroRedundancyOptimizer(ddp.parameters(), torch.optim.AdamW)
    flat = torch.optim.SGD([torch.nn.Parameter(torch.ones(100))], lr=0.1)
    trained = wrapped | optimizers | {"zero, optimizer": innermost(zero), "flat, optimizer": flat}
    return {name: recognised(each) for name, each in trained.items()}
