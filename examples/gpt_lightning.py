"""The demo: train a small GPT with Lightning, forecast its final loss on the way, compare.

There are two runs: one with a cosine schedule, and one with warm-up, stable phase and decay (WSD),
whose decay begins after the forecasts that are compared.

    python examples/gpt_lightning.py                 # about two minutes on two CPU cores
    python examples/gpt_lightning.py --steps 300     # a quick look
"""

import argparse
import json
import logging
import shlex
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from gpt import GPT, Batches, cosine_factor, standard_library, wsd_factor
from lightning.pytorch.loggers import TensorBoardLogger
from narrator import FRACTIONS, Narrator

from lossforecast import Forecast, History
from lossforecast.callbacks import LightningLossForecast
from lossforecast.plot import plot
from lossforecast.runs import outcome_of

SCHEDULES = {"cosine": cosine_factor, "wsd": wsd_factor}
PEAK = 3e-3  # learning rate


class ByteModel(pl.LightningModule):
    """The GPT with AdamW and a scheduler; nothing in it concerns forecasts."""

    def __init__(self, schedule: str, steps: int) -> None:
        super().__init__()
        self.gpt = GPT()
        self.factor = partial(SCHEDULES[schedule], total=steps, warmup=max(steps // 20, 1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the cross-entropy of the next bytes."""
        return self.gpt(*batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """Log the same for held-out windows."""
        self.log("val_loss", self.gpt(*batch))

    def configure_optimizers(self) -> Any:
        """Return AdamW and a scheduler that is stepped after each optimizer step."""
        optimizer = torch.optim.AdamW(self.gpt.parameters(), lr=PEAK, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Windows(torch.utils.data.IterableDataset[tuple[torch.Tensor, ...]]):
    """An endless stream of batches."""

    def __init__(self, text: torch.Tensor, seed: int) -> None:
        self.batches = Batches(text, batch=16, length=64, seed=seed)

    def __iter__(self) -> Any:
        while True:
            yield self.batches()


class DemoNarrator(Narrator):
    """Prints the name of the run and its fraction before each forecast."""

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(steps)
        self.name = name

    def label(self, step: int) -> str:
        """Return the beginning of a line."""
        return f"  {self.name:>6} {step / self.steps:4.0%} "


def main() -> None:
    """Train, forecast, compare, write `summary.json`, a picture and TensorBoard logs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where to write")
    parser.add_argument("--runs", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    args = parser.parse_args()
    quiet()
    text = standard_library()
    began = time.perf_counter()
    summaries = [one_run(name, args.steps, text, args.out) for name in args.runs]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps({"runs": summaries}, indent=2) + "\n")
    report(summaries)
    tensorboard = shlex.quote(relative(Path(sys.executable).parent / "tensorboard"))
    print(f"\nBoth runs took {time.perf_counter() - began:.0f} s. Written to {args.out}/:")
    print("  cosine.png, wsd.png: the forecast made at half of the run, and the losses after it")
    print("  summary.json: the table above")
    print("\nTo see all forecasts and try other schedules, open the tab *Loss forecast*:")
    print(f"  {tensorboard} --logdir {shlex.quote(str(args.out / 'logs'))}")
    print("  http://localhost:6006/#lossforecast")


def relative(path: Path) -> str:
    """Return the path relative to the working directory, if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def one_run(name: str, steps: int, text: torch.Tensor, out: Path) -> dict[str, Any]:
    """Train once; return the outcome and the forecasts made at 25, 50 and 75% of the run."""
    print(f"{name}: a GPT on the bytes of Python's standard library, {steps} steps", flush=True)
    pl.seed_everything(0, verbose=False)
    narrator = DemoNarrator(name, steps)
    watcher = LightningLossForecast(monitor="val_loss", sinks=[narrator])
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[watcher],
        logger=TensorBoardLogger(out / "logs", name=name, version=""),
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=False,
        val_check_interval=max(steps // 100, 1),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
    held_out = text.numel() // 20
    train = torch.utils.data.DataLoader(Windows(text[held_out:], seed=1), batch_size=None)
    windows = Batches(text[:held_out], batch=256, length=64, seed=2)()
    trainer.fit(ByteModel(name, steps), train, torch.utils.data.DataLoader([windows], None))
    forecaster = watcher.forecaster
    assert forecaster is not None
    end = outcome_of(forecaster.history, forecaster.total_steps)
    assert end is not None
    rows = []
    for fraction in FRACTIONS:
        due = round(fraction * steps)
        then = next(update.forecaster for update in narrator.trail if update.step >= due)
        forecast = then.forecast(step=end.step)
        low80, high80 = forecast.interval(0.8)
        low95, high95 = forecast.interval(0.95)
        rows.append(
            {
                "fraction": fraction,
                "median": forecast.median,
                "lower80": low80,
                "upper80": high80,
                "lower95": low95,
                "upper95": high95,
            }
        )
        if fraction == 0.5:
            picture(forecast, then.history, forecaster.history, name, out)
    return {"name": name, "actual": end.loss, "forecasts": rows}


def picture(forecast: Forecast, then: History, in_the_end: History, name: str, out: Path) -> None:
    """Draw the forecast made at half of the run and the losses that followed."""
    out.mkdir(parents=True, exist_ok=True)
    figure = plot(forecast, then, outcome=in_the_end)
    figure.savefig(out / f"{name}.png", dpi=110)


def report(summaries: list[dict[str, Any]]) -> None:
    """Print a table of forecasts against outcomes."""
    print("\n  run     made at   forecast   80% interval      95% interval      outcome   error")
    for run in summaries:
        for row in run["forecasts"]:
            error = row["median"] / run["actual"] - 1
            inside = row["lower95"] <= run["actual"] <= row["upper95"]
            print(
                f"  {run['name']:<7} {row['fraction']:>6.0%}   {row['median']:>8.4f}   "
                f"{row['lower80']:.4f}..{row['upper80']:.4f}    "
                f"{row['lower95']:.4f}..{row['upper95']:.4f}    "
                f"{run['actual']:.4f}   {error:+6.2%}{'' if inside else '   outside of 95%'}"
            )


def quiet() -> None:
    """Silence everything but the forecasts."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


if __name__ == "__main__":
    main()
