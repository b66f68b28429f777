"""One run, forecast with the annealing probe and without it.

python examples/probe.py
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from gpt import GPT, Batches, standard_library, wsd_factor
from torch import Tensor

from lossforecast.callbacks import AnnealingProbe, TorchLossForecast
from lossforecast.plot import plot


def loss_of(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of a batch."""
    device = next(model.parameters()).device
    loss: Tensor = model(*(part.to(device) for part in batch))
    return loss


def main() -> None:
    """Train at a constant rate until the decay in the last fifth; forecast the end before it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--rate", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--out", type=Path, default=Path("runs/probe"))
    args = parser.parse_args()

    torch.manual_seed(0)
    model = GPT().to("cuda" if torch.cuda.is_available() else "cpu")
    text = standard_library()
    train = Batches(text[:-400_000], batch=16, length=64, seed=1)
    held_out = Batches(text[-400_000:], batch=256, length=64, seed=2)()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.1)
    factor = partial(wsd_factor, total=args.steps, warmup=max(args.steps // 20, 1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def measured() -> float:
        with torch.no_grad():
            return float(loss_of(model, held_out))

    # a run as short as this gets too few measurements for the usual cost of 1%
    probe = AnnealingProbe(loss_of, model, cost=0.05)
    watch = partial(TorchLossForecast, optimizer, scheduler, args.steps, metric="val")
    with watch() as without, watch(probe=probe) as probed:
        for step, batch in enumerate(probe.watch(train() for _ in range(args.steps)), 1):
            loss = loss_of(model, batch)
            for monitor in (without, probed):
                monitor.step(loss)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if step % max(args.steps // 50, 1) == 0:
                value = measured()
                for monitor in (without, probed):
                    monitor.validation(value)
            if step in [round(share * args.steps) for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)]:
                for name, monitor in (("without", without), ("with the probe", probed)):
                    forecast = monitor.forecaster.forecast()
                    low, high = forecast.interval(0.8)
                    gain = forecast.anneal_gain
                    print(
                        f"step {step}, {name}: {forecast.median:.3f} ({low:.3f} to "
                        f"{high:.3f}); annealing: {gain.mean:.3f} +- {gain.std:.3f} ({gain.source})"
                    )
                    if step == round(0.5 * args.steps):
                        args.out.mkdir(parents=True, exist_ok=True)
                        path = args.out / f"{name.split()[0]}.png"
                        plot(forecast, monitor.forecaster.history).savefig(path)
    print(f"outcome: {measured():.3f}; pictures of the forecasts at half of the run: {args.out}")


if __name__ == "__main__":
    main()
