"""One trial of the sweeps: a small GPT over peak rate, length of the decay and weight decay."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from gpt import GPT, Batches
from torch import Tensor

from lossforecast import LRSchedule

__all__ = ["plan_of", "train"]


def plan_of(config: Mapping[str, float], steps: int) -> LRSchedule:
    """Return the learning rates of a trial."""
    return LRSchedule.wsd(steps, config["lr"], warmup=steps // 20, decay_fraction=config["decay"])


def train(
    config: Mapping[str, float], steps: int, text: Tensor, state: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Train with fixed seeds; yield 25 times the steps taken, the validation loss and the state.

    With a state that it yielded before, the training goes on from there.
    """
    rates = plan_of(config, steps).to_array()
    torch.manual_seed(0)
    model = GPT(width=48)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config["weight_decay"])
    batches = Batches(text[:-200_000], batch=16, length=64, seed=1)
    unseen = Batches(text[-200_000:], batch=128, length=64, seed=2)()
    done = 0
    if state is not None:
        done = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        batches.generator.set_state(state["batches"])
    every = max(steps // 25, 1)
    for step in range(done, steps):
        optimizer.param_groups[0]["lr"] = float(rates[step])
        model(*batches()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == steps:
            with torch.no_grad():
                loss = float(model(*unseen))
            yield (
                step + 1,
                loss,
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "batches": batches.generator.get_state(),
                },
            )
