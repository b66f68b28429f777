"""A Lightning Fabric loop with a forecast: a small GPT on the bytes of Python's own sources.

python examples/gpt_fabric.py                 # about a minute on two CPU cores
python examples/gpt_fabric.py --resume        # continues from the checkpoint at half of the run
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from gpt import GPT, Batches, standard_library, wsd_factor
from lightning.fabric import Fabric, seed_everything
from narrator import Narrator, report

from lossforecast.callbacks import TorchLossForecast


def main() -> None:
    """Train, print forecasts on the way, and compare them with the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--precision", default="32-true", help="as in Fabric: bf16-mixed, ...")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--out", type=Path, default=Path("runs/fabric"), help="for checkpoints")
    args = parser.parse_args()
    half = args.out / "half.ckpt"
    if args.resume and not half.exists():
        parser.error(f"there is no {half} to resume from: run it without --resume first")

    fabric = Fabric(devices=1, precision=args.precision)
    seed_everything(0, verbose=False)
    text = standard_library()
    held_out = len(text) // 20
    windows = [fabric.to_device(part) for part in Batches(text[:held_out], 128, 64, seed=2)()]
    batches = Batches(text[held_out:], batch=16, length=64, seed=1)

    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    factor = partial(wsd_factor, total=args.steps, warmup=max(args.steps // 20, 1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model, optimizer = fabric.setup(model, optimizer)

    narrator = Narrator(args.steps)
    with TorchLossForecast(
        optimizer, scheduler, args.steps, metric="val", sinks=[narrator]
    ) as monitor:
        state = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "monitor": monitor,  # so that a resumed run makes the same forecasts
            "batches": batches.generator.get_state(),
            "step": 0,
        }
        if args.resume:
            fabric.load(half, state)
            batches.generator.set_state(state["batches"])
        for step in range(state["step"], args.steps):
            for micro_batch in range(args.accumulate):
                last = micro_batch == args.accumulate - 1
                with fabric.no_backward_sync(model, enabled=not last):
                    loss = model(*(fabric.to_device(part) for part in batches()))
                    monitor.step(loss)
                    fabric.backward(loss / args.accumulate)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if (step + 1) % max(args.steps // 50, 1) == 0:
                monitor.validation(validated(model, windows))
            if step + 1 == args.steps // 2:
                state |= {"batches": batches.generator.get_state(), "step": step + 1}
                fabric.save(half, state)
    report(narrator, validated(model, windows))


@torch.no_grad()
def validated(model: torch.nn.Module, windows: list[torch.Tensor]) -> float:
    """Return the loss on the held-out windows."""
    return float(model(*windows))


if __name__ == "__main__":
    main()
