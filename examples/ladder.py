"""A large run forecast from five small ones: small GPTs on the bytes of Python's standard library.

python examples/ladder.py --tokens-per-parameter 10
"""

import argparse
from pathlib import Path

import torch
from gpt import GPT, Batches, standard_library

from lossforecast import Forecast, LRSchedule, RunInfo, RunStore
from lossforecast.callbacks import TorchLossForecast
from lossforecast.plot import plot
from lossforecast.store import plot_plan

WIDTHS = (24, 32, 48, 64, 96)
LARGE_WIDTH = 144
BATCH, LENGTH = 16, 64
PEAK = 3e-3
N_VALIDATIONS, HELD_BATCHES = 40, 8
SHARES = (0.1, 0.25, 0.5)  # of the large run, at which it is forecast again
PROJECT = "byte ladder"


def recipe(width: int, tokens_per_parameter: float) -> tuple[GPT, RunInfo, LRSchedule]:
    """Return a model with heads of 8 values, its description and its schedule."""
    torch.manual_seed(0)
    model = GPT(width, depth=2, heads=width // 8, length=LENGTH)
    n_params = sum(weight.numel() for weight in model.parameters())
    steps = max(round(tokens_per_parameter * n_params / (BATCH * LENGTH)), N_VALIDATIONS)
    run = RunInfo(
        "val",
        "adamw",
        PROJECT,
        "language modelling",
        n_params=n_params,
        batch_size=BATCH * LENGTH,
    )
    plan = LRSchedule.cosine(steps, PEAK, end=PEAK / 10, warmup=max(steps // 20, 1))
    return model, run, plan


def trained(
    model: GPT, run: RunInfo, plan: LRSchedule, text: torch.Tensor, store: RunStore
) -> tuple[TorchLossForecast, list[Forecast]]:
    """Train a model; return its monitor and the forecasts at `SHARES` of the run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    n_held = len(text) // 10
    batches = Batches(text[:-n_held], BATCH, LENGTH, seed=1)
    held = Batches(text[-n_held:], BATCH, LENGTH, seed=2)
    held_batches = [[part.to(device) for part in held()] for _ in range(HELD_BATCHES)]
    total = plan.total_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: plan.lr(min(step + 1, total))
    )
    validated = {round(total * i / N_VALIDATIONS) for i in range(1, N_VALIDATIONS + 1)}
    forecasts: list[Forecast] = []
    with TorchLossForecast(
        optimizer, scheduler, total, metric="val", run=run, store=store, verbose=False
    ) as monitor:
        for step in range(1, total + 1):
            loss = model(*(part.to(device) for part in batches()))
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if step in validated:
                with torch.no_grad():
                    losses = [model(*batch).item() for batch in held_batches]
                monitor.validation(sum(losses) / len(losses))
            if len(forecasts) < len(SHARES) and step >= SHARES[len(forecasts)] * total:
                forecasts.append(monitor.forecaster.forecast())
    return monitor, forecasts


def described(run: RunInfo, plan: LRSchedule) -> str:
    """Return size and length of a run."""
    return f"{run.n_params:>9,} parameters, {plan.total_steps:>6,} steps"


def final_loss(monitor: TorchLossForecast) -> float:
    """Return the last validation loss."""
    return float(monitor.forecaster.history.bins().mean[-1])


def main() -> None:
    """Train the small runs, plan the large one, train it and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens-per-parameter", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    store = RunStore(args.out / "runs.db")
    text = standard_library()
    for width in WIDTHS:
        model, run, plan = recipe(width, args.tokens_per_parameter)
        monitor, _ = trained(model, run, plan, text, store)
        print(f"{described(run, plan)}: {final_loss(monitor):.3f}", flush=True)

    model, run, plan = recipe(LARGE_WIDTH, args.tokens_per_parameter)
    planned = store.plan(run, plan)
    plot_plan(planned).savefig(args.out / "plan.png", dpi=120)
    known = f"before the first step, from {planned.n_smaller_runs} smaller runs"
    print(f"{described(run, plan)}: {planned.forecast.estimate!r} {known}", flush=True)

    monitor, forecasts = trained(model, run, plan, text, store)
    for share, forecast in zip(SHARES, forecasts, strict=True):
        print(f"after {share:.0%}: {forecast.estimate!r}")
    print(f"outcome: {final_loss(monitor):.3f}")
    history = monitor.forecaster.history
    plot(planned.forecast, history, outcome=history).savefig(args.out / "large.png", dpi=120)
    print(f"pictures: {args.out}")


if __name__ == "__main__":
    main()
