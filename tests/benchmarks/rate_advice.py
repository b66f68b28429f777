"""The peak rate advised for a size from sweeps of smaller ones, and its cost.

    python tests/benchmarks/rate_advice.py --json sweeps.json

Trains a GRU over bytes of Python's standard library with AdamW under a cosine, at four widths and
six peak rates, on one core. With a file that is there already, the sweeps in it are scored.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from probe_tasks import Recurrent, windows
from torch import Generator

from lossforecast import LRSchedule, RunInfo
from lossforecast.ladder import FinalLoss, best_peak

WIDTHS = (24, 48, 96, 192)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
STEPS, BATCH, HELD_BATCHES = 500, 16, 16


def plan_of(peak: float) -> LRSchedule:
    return LRSchedule.cosine(STEPS, peak, warmup=STEPS // 20)


def trained(width: int, peak: float) -> tuple[int, float]:
    """Number of parameters and the final loss on held-out text."""
    torch.manual_seed(0)
    model, plan = Recurrent(width), plan_of(peak)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak)
    generator = Generator().manual_seed(1)
    for rate in plan.to_array():
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = model(*windows(BATCH, generator, False))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    held = Generator().manual_seed(2)
    with torch.no_grad():
        losses = [float(model(*windows(64, held, True))) for _ in range(HELD_BATCHES)]
    return sum(each.numel() for each in model.parameters()), float(np.mean(losses))


def finals_of(size: dict[str, float | list[float]]) -> list[FinalLoss]:
    run = info(float(size["n_params"]))  # type: ignore[arg-type]
    pairs = zip(RATES, size["losses"], strict=True)  # type: ignore[arg-type]
    return [FinalLoss(run, plan_of(rate), loss) for rate, loss in pairs]


def info(n_params: float) -> RunInfo:
    return RunInfo("val", "adamw", "bytes", n_params=n_params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the sweeps")
    path = parser.parse_args().json
    if not path.exists():
        torch.set_num_threads(1)
        made = []
        for width in WIDTHS:
            runs = [trained(width, rate) for rate in RATES]
            made.append({"n_params": runs[0][0], "losses": [loss for _, loss in runs]})
        path.write_text(json.dumps(made, indent=1) + "\n")
    sizes = json.loads(path.read_text())
    for i, size in enumerate(sizes[1:], 1):
        smaller = [final for each in sizes[:i] for final in finals_of(each)]
        found = best_peak(smaller, info(size["n_params"]), plan_of(RATES[0]))
        assert found is not None
        losses = np.array(size["losses"])
        at = float(np.interp(np.log(found.best), np.log(RATES), losses))
        cost = at / losses.min() - 1
        best = RATES[int(losses.argmin())]
        sys.stdout.write(
            f"{size['n_params']:,} parameters from {i} smaller sizes: advised {found.best!r}, best "
            f"of the grid {best:g}, cost {cost:.2%}; twice or half costs "
            f"{float(found.cost_of_factor_2):.2%}\n"
        )


if __name__ == "__main__":
    main()
