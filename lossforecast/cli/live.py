"""`Look`: a look at a run in progress, and how a log and its forecast are told."""

import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossforecast.cli.options import SPEC, LogOptions
from lossforecast.cli.output import STANDARD_OUTPUT, console, draw, note, write_json
from lossforecast.cli.tables import empty_table
from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.plot import plot as plot_run
from lossforecast.policies import Recommendation
from lossforecast.readers import Log, find_log
from lossforecast.runs import observed
from lossforecast.status import Caveat

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Look", "awaited", "headline", "interval", "number", "of_log", "sizes"]


@dataclass(frozen=True)
class Look:
    """A look at a run in progress.

    Attributes:
        log: of the run.
        forecaster: what was made of it.
        forecast: of its final loss.
        advice: given with it.
        target: the final loss hoped for, if any.
    """

    log: Log
    forecaster: Forecaster
    forecast: Forecast
    advice: Recommendation
    target: float | None

    @classmethod
    def at(cls, path: Path, options: LogOptions, target: float | None = None) -> "Look":
        """The look at a log as it is now."""
        log = options.read(path)
        if options.total_steps is None and log.total_steps is None:
            raise ConfigurationError(
                f"{log.path} ({log.format}) does not say how long the run is: give --total-steps"
            )
        plan, run = options.plan(log), options.run(log.metric, log.column)
        if Caveat.LR_ASSUMED in plan.caveats:
            note(
                f"the learning rate after step {log.rate_steps[-1]:,} is not known: the last one "
                f"is taken to be held. Give --schedule, {SPEC}"
            )
        forecaster = Forecaster(plan, run, prior=options.prior(run, plan))
        forecaster.observe_many(*observed(log.history))
        forecast = forecaster.forecast()
        return cls(log, forecaster, forecast, forecaster.recommend(target), target)

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        return self.log.steps_taken >= self.forecaster.total_steps

    def show(self, json_: Path | None, plot: Path | None, *, brief: bool) -> None:
        """Write it for people and for programs."""
        write_json(self.to_dict(), json_)
        if plot is not None:
            draw(plot_run(self.forecast, self.forecaster.history, target=self.target), plot)
        out = console(to_stderr=STANDARD_OUTPUT in (json_, plot))
        if brief:
            taken = self.log.steps_taken
            line = f"{datetime.now():%H:%M:%S}  step {taken:,}  {number(self.forecast.mean)}"
            out.print(f"{line} (80%: {interval(self.forecast)})  {self.advice.action}")
            return
        out.print(headline(self.log, self.forecaster.total_steps), markup=False)
        out.print(self._table())

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            **of_log(self.log, self.forecaster.total_steps),
            "target": self.target,
            **self.forecast.to_dict(),
            "prob_below_target": (
                None if self.target is None else self.forecast.prob_below(self.target)
            ),
            **self.advice.to_dict(),
        }

    def _table(self) -> "Table":
        forecast, gain = self.forecast, self.forecast.anneal_gain
        lower, upper = forecast.interval(0.95)
        rows = {
            f"loss at step {forecast.step:,}": number(forecast.mean),
            "80% interval": interval(forecast),
            "95% interval": f"{number(lower)} to {number(upper)}",
            "annealing still to bring": f"{number(gain.mean)} ({gain.source})",
            "how it is known": str(forecast.status),
            "caveats": ", ".join(map(str, forecast.caveats)) or "none",
            "advice": self.advice.message,
        }
        if self.target is not None:
            rows[f"chance to end below {self.target:g}"] = f"{forecast.prob_below(self.target):.0%}"
        table = empty_table("forecast", "", [""])
        table.show_header = False
        table.columns[1].justify = "left"
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def awaited(path: Path, options: LogOptions, every: float) -> dict[Path, int]:
    """Wait for the first loss of a run that is about to begin; the sizes of its log then."""
    said = False
    while True:
        try:
            seen = sizes(path)
            options.read(path, tell=False)
            return seen
        except NothingLoggedError as error:
            if not said:
                note(f"{error}; waiting for the first loss")
            said = True
            time.sleep(every)


def sizes(path: Path) -> dict[Path, int]:
    """Of the files of a log, to see whether it has grown."""
    place = find_log(path) if path.is_dir() else path
    files = place.glob("*") if place.is_dir() else [place]
    return {each: each.stat().st_size for each in files if each.is_file()}


# ---------------------------------------------------------------------- words


def of_log(log: Log, total_steps: int) -> dict[str, Any]:
    """What a log is, for programs."""
    return {
        "log": str(log.path),
        "format": log.format,
        "column": log.column,
        "metric": log.metric,
        "lr_column": log.rate_column,
        "losses": log.history.n_observed,
        "last_step": log.history.last_step,
        "total_steps": total_steps,
        "notes": list(log.notes),
    }


def headline(log: Log, total_steps: int) -> str:
    """What a log is and what was taken of it."""
    seen = log.steps_taken
    others = f"; also there: {', '.join(log.others[:4])}" if log.others else ""
    rate = log.rate_column or "as given"
    return (
        f"{log.name} ({log.format}): {log.history.n_observed:,} losses {log.column!r} "
        f"({log.metric}) up to step {seen:,} of {total_steps:,} "
        f"({min(seen / total_steps, 1):.0%}), learning rate {rate}{others}"
    )


def interval(forecast: Forecast) -> str:
    """80% of it."""
    lower, upper = forecast.interval(0.8)
    return f"{number(lower)} to {number(upper)}"


def number(value: float) -> str:
    """In four digits."""
    return "-" if math.isnan(value) else f"{value:.4g}"
