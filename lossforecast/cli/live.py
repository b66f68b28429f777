"""`LiveForecast`: the forecast of a run in progress, from the present state of its log."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossforecast.cli.log_summary import log_headline, log_to_dict
from lossforecast.cli.options import LogOptions
from lossforecast.cli.output import STANDARD_OUTPUT, console, draw, print_note, write_json
from lossforecast.cli.tables import details_table, interval80, number, print_line
from lossforecast.display import STATUS_WORDS, chance
from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.estimate import Minimum
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.plot import plot as plot_run
from lossforecast.policies import Policy, Recommendation
from lossforecast.readers import Log, find_log
from lossforecast.runs import observed, outcome_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LiveForecast", "file_versions", "wait_for_first_loss"]


@dataclass(frozen=True)
class LiveForecast:
    """The forecast of a run in progress.

    Attributes:
        log: the log so far.
        forecaster: the forecaster that has observed its losses.
        forecast: forecast of the final loss.
        advice: the recommendation for it.
        target: the final loss to reach, if one was given.
    """

    log: Log
    forecaster: Forecaster
    forecast: Forecast
    advice: Recommendation
    target: float | None

    @classmethod
    def from_log(
        cls,
        path: Path,
        options: LogOptions,
        target: float | None = None,
        policy: Policy | Sequence[Policy] | None = None,
    ) -> "LiveForecast":
        """Read a log as it is now, and forecast; `policy` as in `Forecaster.recommend`.

        Raises:
            ConfigurationError: the log cannot be read, or the length of the run is unknown.
        """
        log = options.read(path)
        if options.total_steps is None and log.total_steps is None:
            raise ConfigurationError(
                f"{log.path} ({log.format}) does not say how long the run is: give --total-steps"
            )
        plan, run = options.plan(log), options.run_info(log)
        forecaster = Forecaster(plan, run, prior=options.prior(run, plan))
        for step, name in log.history.events:
            forecaster.event(step, name)
        steps, losses = observed(log.history)
        if target is not None and policy is None:  # a stop takes two checks in a row
            due = forecaster.every_n_steps * (log.history.last_step // forecaster.every_n_steps)
            earlier = steps < due
            forecaster.observe_many(steps[earlier], losses[earlier])
            forecaster.recommend(target, policy)
            steps, losses = steps[~earlier], losses[~earlier]
        forecaster.observe_many(steps, losses)
        forecast = forecaster.forecast()
        return cls(
            log=log,
            forecaster=forecaster,
            forecast=forecast,
            advice=forecaster.recommend(target, policy),
            target=target,
        )

    @property
    def over(self) -> bool:
        """True if the run has reached its last step."""
        return self.log.steps_taken >= self.forecaster.total_steps

    def show(self, json_: Path | None, plot: Path | None, *, brief: bool) -> None:
        """Write JSON and picture where asked for, and print a table or, if brief, one line."""
        write_json("forecast", self.to_dict(), json_)
        if plot is not None:
            draw(plot_run(self.forecast, self.forecaster.history, target=self.target), plot)
        out = console(to_stderr=STANDARD_OUTPUT in (json_, plot))
        if brief:
            taken = self.log.steps_taken
            line = f"{datetime.now():%H:%M:%S}  step {taken:,}  {number(self.forecast.median)}"
            out.print(f"{line} (80%: {interval80(self.forecast)})  {self.advice.action}")
            return
        print_line(out, log_headline(self.log, self.forecaster.schedule))
        out.print(self._table())
        if self.over:
            print_line(out, self._end())

    def to_dict(self) -> dict[str, Any]:
        """Log, forecast and advice as plain values."""
        return {
            **log_to_dict(self.log, self.forecaster.total_steps),
            "target": self.target,
            **self.forecast.to_dict(),
            "minimum": _minimum_to_dict(self.forecast.minimum),
            "prob_below_target": (
                None if self.target is None else self.forecast.prob_below(self.target)
            ),
            **self.advice.to_dict(),
        }

    def _end(self) -> str:
        """The line for a run that has finished."""
        total = self.forecaster.total_steps
        end = outcome_of(self.log.history, total, self.log.steps_taken)
        outcome = "" if end is None else f" at {number(end.loss)} ({end})"
        return (
            f"The run has finished{outcome}: 'lossforecast replay LOG' shows what would have been "
            "forecast on the way."
        )

    def _table(self) -> "Table":
        forecast, gain, minimum = self.forecast, self.forecast.anneal_gain, self.forecast.minimum
        lower, upper = forecast.interval(0.95)
        rows = {
            f"loss at step {forecast.step:,}": number(forecast.median),
            "80% interval": interval80(forecast),
            "95% interval": f"{number(lower)} to {number(upper)}",
            "annealing still to bring": f"{number(gain.mean)} (from: {gain.source})",
            **({} if minimum is None else {"lowest validation loss": _in_words(minimum)}),
            "status": f"{forecast.status} ({STATUS_WORDS[forecast.status]})",
            "caveats": ", ".join(map(str, forecast.caveats)) or "none",
            "advice": self.advice.message,
        }
        if self.target is not None:
            rows[f"chance to end below {self.target:g}"] = chance(forecast.prob_below(self.target))
        return details_table("forecast", rows)


def _in_words(minimum: Minimum) -> str:
    loss = minimum.loss
    return f"{number(loss)} ({number(loss.lower)} to {number(loss.upper)}); so far {minimum}"


def _minimum_to_dict(minimum: Minimum | None) -> dict[str, Any] | None:
    if minimum is None:
        return None
    return {
        "median": float(minimum.loss),
        "lower80": minimum.loss.lower,
        "upper80": minimum.loss.upper,
        "so_far": minimum.so_far,
        "step": minimum.step,
        "prob_passed": minimum.prob_passed,
    }


def wait_for_first_loss(
    path: Path, options: LogOptions, every: float
) -> dict[Path, tuple[int, int]]:
    """Read a log every `every` seconds until it has a loss; returns its `file_versions` by then."""
    announced = False
    while True:
        try:
            versions = file_versions(path)
            options.read(path, notes=False)
            return versions
        except NothingLoggedError as error:
            if not announced:
                print_note(f"{error}; waiting for the first loss")
            announced = True
            time.sleep(every)


def file_versions(path: Path) -> dict[Path, tuple[int, int]]:
    """Size in bytes and time of the last change in ns of each file of a log."""
    place = find_log(path) if path.is_dir() else path
    files = [file for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    return {file: (stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]}
