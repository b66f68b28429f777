"""A plain PyTorch loop with a forecast: a small GPT on the bytes of Python's standard library.

python examples/gpt_loop.py --schedule wsd --target 1.9
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from gpt import GPT, Batches, cosine_factor, standard_library, wsd_factor

from lossforecast.callbacks import TorchLossForecast
from lossforecast.plot import plot


def main() -> None:
    """Train, print a forecast every tenth of the run, and draw the last one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--schedule", choices=["cosine", "wsd"], default="wsd")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--target", type=float, help="stop when this loss is out of reach")
    parser.add_argument("--out", type=Path, default=Path("runs/loop.png"))
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT().to(device)
    batches = Batches(standard_library(), batch=16, length=64, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    shape = {"cosine": cosine_factor, "wsd": wsd_factor}[args.schedule]
    factor = partial(shape, total=args.steps, warmup=max(args.steps // 20, 1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    with TorchLossForecast(
        optimizer, scheduler, total_steps=args.steps, target=args.target, stop=True
    ) as monitor:
        for step in range(args.steps):
            for _ in range(args.accumulate):
                loss = model(*(part.to(device) for part in batches()))
                monitor.step(loss)
                (loss / args.accumulate).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if monitor.forecast and (step + 1) % max(args.steps // 10, 1) == 0:
                low, high = monitor.forecast.interval(0.8)
                median, status = monitor.forecast.median, monitor.forecast.status.value
                print(
                    f"step {step + 1}: heading for {median:.3f} ({low:.3f} to {high:.3f}), {status}"
                )
            if monitor.should_stop:
                break

    assert monitor.recommendation is not None
    print(monitor.recommendation.message)
    if monitor.forecast is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        plot(monitor.forecast, monitor.forecaster.history, target=args.target).savefig(args.out)
        print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
