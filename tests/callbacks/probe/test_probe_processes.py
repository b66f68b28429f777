"""The annealing probe among processes with replicas and with shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import torchrun

WORKER = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from torch import nn
from lossforecast.callbacks import TorchLossForecast, AnnealingProbe
from lossforecast.callbacks.distributed import team

mode, out = sys.argv[1], Path(sys.argv[2])
dist.init_process_group("gloo")
rank = dist.get_rank()
asked = []
reduced = team.Channel._all_reduce
team.Channel._all_reduce = lambda *a: asked.append(1) or reduced(*a)

def run(on, total=400, every=20):
    asked.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.LayerNorm(24), nn.ReLU(), nn.Dropout(0.1),
                          nn.Linear(24, 1))
    if mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1 + rank)
    torch.manual_seed(5 + rank)
    batches = [(x := torch.randn(16, 6, generator=generator), x.sum(1, keepdim=True)
                + torch.randn(16, 1, generator=generator)) for _ in range(total)]
    loss_of = lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1])
    probe = AnnealingProbe(loss_of, model, cost=0.05) if on else None
    with TorchLossForecast(optimizer, None, total, every_n_steps=every, probe=probe) as monitor:
        for batch in probe.watch(batches) if on else batches:
            loss = loss_of(model, batch)
            monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    weights = [(p.to_local() if mode == "fsdp" else p).detach().clone()
               for p in model.parameters()]
    assert probe is None or probe.switched_off == (total < 100)
    return weights, monitor.forecaster._gaps, len(asked)

bare, _, before = run(False)
watched, gaps, after = run(True)
_, _, short = run(False, 20, 5)
_, _, too_short = run(True, 20, 5)
torch.save({"same": all(map(torch.equal, bare, watched)), "gaps": [tuple(g) for g in gaps],
            "asked": [before, after], "short": [short, too_short]}, out / f"{mode}{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_among_processes_with_replicas_and_shards(tmp_path: Path) -> None:
    """Bit-identical weights, no exchange more than without, and shards measure as replicas do."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    found = {}
    for mode in ("ddp", "fsdp"):
        torchrun(script, mode, tmp_path, limit=180)
        for rank in range(2):
            found[mode, rank] = torch.load(tmp_path / f"{mode}{rank}.pt")
    gaps = found["ddp", 0]["gaps"]
    assert len(gaps) >= 4
    for result in found.values():
        assert result["same"]
        np.testing.assert_allclose(result["gaps"], gaps, rtol=1e-4, atol=1e-6)
        assert result["asked"][0] == result["asked"][1]
        assert result["short"][0] == result["short"][1] > 1
