"""The command `demo`: trains a small network, forecasts its final loss, and compares."""

import csv
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lossforecast.cli.demo_training import N_PARAMS, training_losses
from lossforecast.cli.options import JSON_HELP
from lossforecast.cli.output import (
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    console,
    draw,
    errors_in_one_line,
    write_json,
)
from lossforecast.cli.tables import empty_table, interval80, number, percent, print_line
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.plot import plot
from lossforecast.runs import History, RunInfo, outcome_of
from lossforecast.schedule import LRSchedule

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_demo"]

_SHARES = (0.1, 0.25, 0.5, 0.75)  # of the run, whose forecasts are compared with the outcome
_DRAWN_SHARE = 0.5
_PEAK_RATE = 0.02


def add_demo(app: "typer.Typer") -> None:
    """Add `demo`."""
    import typer

    @app.command("demo", epilog=EXIT_CODES)
    def command(
        out: Annotated[Path, typer.Option(help="Folder for the log and the picture.")] = Path(
            "lossforecast-demo"
        ),
        steps: Annotated[int, typer.Option(help="Optimizer steps.", min=500)] = 12_000,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Train a small network while forecasting its final loss, compare, and say where to look.

        It needs NumPy alone, and takes about half a minute.
        """
        with errors_in_one_line():
            check_outputs({"--json": json_})
            if out.exists() and not out.is_dir():
                raise ConfigurationError(f"cannot write into {out}: it is a file")
            page = console(to_stderr=json_ == STANDARD_OUTPUT)
            print_line(page, f"training a network of {N_PARAMS:,} parameters for {steps:,} steps")
            run = _train(LRSchedule.cosine(steps, _PEAK_RATE, warmup=steps // 50))
            files = _write(run, out)
            write_json("demo", {**run.to_dict(), "files": [str(file) for file in files]}, json_)
            page.print(run.table())
            for line in _hints(files):
                print_line(page, line)


@dataclass
class _Run:
    """A run of the demo: its plan, its losses, and some of the forecasts made on the way."""

    plan: LRSchedule
    losses: list[float] = field(default_factory=list)
    forecasts: dict[float, Forecast] = field(default_factory=dict)

    @property
    def history(self) -> History:
        history, steps = History(), np.arange(len(self.losses))
        history.observe_many(steps, self.losses, self.plan.to_array())
        return history

    @property
    def outcome(self) -> float:
        end = outcome_of(self.history, self.plan.total_steps, self.plan.total_steps)
        assert end is not None
        return end.loss

    def to_dict(self) -> dict[str, Any]:
        rows = [{"share": share, **each.summary()} for share, each in self.forecasts.items()]
        return {"outcome": self.outcome, "results": rows}

    def table(self) -> "Table":
        table = empty_table(
            f"it ended at {number(self.outcome)}", "seen", ["forecast", "80% interval", "error"]
        )
        for share, each in self.forecasts.items():
            error = f"{percent(each.median / self.outcome - 1)}%"
            table.add_row(f"{share:.0%}", number(each.median), interval80(each), error)
        return table


def _train(plan: LRSchedule) -> _Run:
    """Train, with the callback for loops without a framework."""
    from lossforecast.callbacks import LossForecast

    run, total = _Run(plan), plan.total_steps
    due = list(_SHARES)

    def keep(update: Any) -> None:
        while due and update.step >= due[0] * total:
            run.forecasts[due.pop(0)] = update.forecast

    facts = RunInfo(optimizer="adam", n_params=N_PARAMS, task="classification")
    with LossForecast(plan, run=facts, sinks=[keep], verbose=True, store=False) as forecast:
        for loss in training_losses(plan):
            forecast.step(loss)
            run.losses.append(loss)
    return run


def _write(run: _Run, folder: Path) -> list[Path]:
    """Write the log, and the picture where matplotlib is installed; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "log.csv"]
    with files[0].open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", "train_loss", "lr"])
        rates = run.plan.to_array().tolist()
        for step, (loss, rate) in enumerate(zip(run.losses, rates, strict=True)):
            table.writerow([step, f"{loss:.6g}", f"{rate:.6g}"])
    if importlib.util.find_spec("matplotlib") is not None:
        drawn = run.forecasts[_DRAWN_SHARE]
        files.append(folder / "forecast.png")
        whole = run.history
        draw(plot(drawn, whole.until(drawn.made_at), outcome=whole), files[-1])
    return files


def _hints(files: list[Path]) -> list[str]:
    log, *pictures = files
    return [
        "Where to look:",
        *(
            f"  {each}: the forecast at half of the run, and the losses that followed"
            for each in pictures
        ),
        f"  lossforecast replay {log}: what would have been forecast on the way",
        "  lossforecast forecast LOG: a run of yours in progress, from its log",
        "In a training script, from lossforecast.callbacks:",
        "  callbacks=[LightningLossForecast()], or TransformersLossForecast, KerasLossForecast",
        "  with TorchLossForecast(optimizer, scheduler, steps) as monitor: ... monitor.step(loss)",
    ]
