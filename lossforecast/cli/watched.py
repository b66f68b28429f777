"""`Watched`: the runs below some folders, each with its latest forecast."""

import contextlib
import io
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lossforecast.cli.live import LiveForecast, file_versions
from lossforecast.cli.options import LogOptions
from lossforecast.cli.tables import interval80, number
from lossforecast.display import after_start, chance, four_digits
from lossforecast.errors import ConfigurationError, LossForecastError
from lossforecast.policies import Action, Reason, overfitting, target_miss
from lossforecast.printable import printable
from lossforecast.readers import FORMATS, find_log
from lossforecast.runs import outcome_of

__all__ = ["QUIET_S", "Watched", "WatchedRun", "logs_of"]

QUIET_S = 600.0
"""Seconds after which a log that does not grow is called quiet."""
_OTHER_LOGS = (".csv", ".tsv", ".jsonl")  # in a folder that has no log with a usual name
_SHARED_NAMES = {name for log_format in FORMATS for name in log_format.file_names}
_PARTS_OF_RUNS = ("metrics", "plots")  # folders inside that of a run
_SPARK_POINTS = 16
_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=*#%@"


@dataclass
class WatchedRun:
    """A log, and the forecast from its latest reading."""

    path: Path
    name: str
    files: dict[Path, tuple[int, int]]
    live: LiveForecast | None = None
    problem: str = ""
    is_guess: bool = False
    """True if only the suffix of the file suggests that it is a log."""
    says_length: bool = True
    """False once the log itself has turned out not to say how long the run is."""
    misses: int = 0
    """Readings in a row at which the target was out of reach."""

    @property
    def quiet_s(self) -> float:
        """Seconds since the log was written."""
        return time.time() - max((_written(file) for file in self.files), default=0.0)

    @property
    def is_active(self) -> bool:
        """True if the log is readable, has grown lately and the run is not over."""
        return self.live is not None and not self.live.over and self.quiet_s < QUIET_S

    def alarm(self) -> Reason | None:
        """The reason to stop the run; the target must be out of reach at two readings."""
        if self.live is None or self.live.over or self.live.advice.action is not Action.STOP:
            return None
        reason = self.live.advice.reason
        return None if reason is Reason.TARGET_MISS and self.misses < 2 else reason

    def row(self, *, ascii_only: bool) -> list[str]:
        """The cells of a table: name, progress, losses, latest loss, forecast, interval, advice."""
        live = self.live
        if live is None:
            return [printable(self.name), "", "", "", "", "", printable(self.problem)]
        bins, total = live.log.history.bins(), live.forecaster.total_steps
        finite = bins.mean[np.isfinite(bins.mean)]
        return [
            printable(self.name),
            f"{min(100 * live.log.steps_taken // total, 100)}% of {total:,}",
            _spark(finite, _ASCII_BLOCKS if ascii_only else _BLOCKS),
            *map(_loss, (finite[-1] if finite.size else math.nan, live.forecast.median)),
            " to ".join(map(_loss, live.forecast.interval(0.8))),
            printable(self._advice(live)),
        ]

    def line(self) -> str:
        """The same in one line, for output that is not a terminal."""
        if self.live is None:
            return f"{self.name}: {self.problem}"
        live = self.live
        return (
            f"{self.name}  step {live.log.steps_taken:,} of {live.forecaster.total_steps:,}  "
            f"{number(live.forecast.median)} (80%: {interval80(live.forecast)})  "
            f"{self._advice(live)}"
        )

    def _advice(self, live: LiveForecast) -> str:
        if live.over:
            total, taken = live.forecaster.total_steps, live.log.steps_taken
            end = outcome_of(live.log.history, total, taken)
            return "finished" if end is None else f"finished at {number(end.loss)}"
        said = {Action.CONTINUE: "go on", Action.ABSTAIN: "no advice yet"}.get(live.advice.action)
        if said is None:
            said = f"{live.advice.action}: {live.advice.reason}".replace("_", " ")
        if live.target is not None and live.advice.action is not Action.STOP:
            said += f", {chance(live.forecast.prob_below(live.target))} below {live.target:g}"
        if self.quiet_s >= QUIET_S:
            said += f"; quiet {self.quiet_s / 60:,.0f} min"
        return said


class Watched:
    """The runs below some places; logs that appear later are found, too.

    Args:
        places: logs, folders of runs, or folders of many.
        options: how to read the logs.
        target: final loss to reach.
    """

    def __init__(self, places: Sequence[Path], options: LogOptions, target: float | None) -> None:
        self._runs: dict[Path, WatchedRun] = {}
        self._places, self._options, self._target = places, options, target

    @property
    def runs(self) -> list[WatchedRun]:
        """All runs, in the order of their paths, without files that turned out not to be logs."""
        return [run for _, run in sorted(self._runs.items()) if run.live or not run.is_guess]

    def read(self) -> list[WatchedRun]:
        """Read the logs that are new or have grown; return their runs."""
        changed = []
        for place in self._places:
            for path, is_guess in logs_of(place):
                try:
                    files = file_versions(path)
                except OSError:  # it has just been moved away
                    continue
                name = _name(path, place)
                run = self._runs.setdefault(path, WatchedRun(path, name, {}, is_guess=is_guess))
                if run.files != files:
                    run.files = files
                    self._forecast(run)
                    changed += [run] if run.live or not is_guess else []
        return changed

    def _forecast(self, run: WatchedRun) -> None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # notes of the reader
                run.live = self._live(run)
        except (LossForecastError, OSError) as error:
            run.problem = " ".join(str(error).split())
            return
        missed = run.live.advice.reason is Reason.TARGET_MISS
        run.misses = run.misses + 1 if missed else 0

    def _live(self, run: WatchedRun) -> LiveForecast:
        """Forecast; the given length is for runs whose logs do not state theirs."""
        given = self._options
        if run.says_length and given.total_steps is not None:
            try:
                return self._from_log(run.path, replace(given, total_steps=None))
            except ConfigurationError:
                run.says_length = False
        return self._from_log(run.path, given)

    def _from_log(self, path: Path, options: LogOptions) -> LiveForecast:
        policy = [target_miss(checks=1), overfitting()]
        return LiveForecast.from_log(path, options, self._target, policy=policy)


def logs_of(place: Path) -> Iterator[tuple[Path, bool]]:
    """The logs in a folder and the folders below, and whether each is only a guess.

    A file is its own log.

    Raises:
        ConfigurationError: there is no such file or folder.
    """
    if not place.is_dir():
        if not place.exists():
            raise ConfigurationError(f"cannot watch {place}: no such file or folder")
        yield place, False
        return
    for where, folders, files in os.walk(place):
        folder = Path(where)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "checkpoint-")) and name not in _PARTS_OF_RUNS
        )
        try:
            yield find_log(folder), False
        except (ConfigurationError, OSError):
            guesses = (name for name in sorted(files) if name.endswith(_OTHER_LOGS))
            yield from ((folder / name, True) for name in guesses)


def _name(path: Path, place: Path) -> str:
    """The path below the place that is watched, without names that many runs share."""
    if path == place:
        return path.name
    below = path.relative_to(place)
    if path.name in _SHARED_NAMES:
        below = below.parent
    if below.name.startswith("checkpoint-"):
        below = below.parent
    return str(below) if below.parts else place.resolve().name


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _loss(loss: float) -> str:
    """A loss in four digits, to be read in a column; "-" for nan."""
    return "-" if math.isnan(loss) else four_digits(loss)


def _spark(losses: np.ndarray, blocks: str) -> str:
    """Losses (n,) as a line of characters of different heights."""
    losses = after_start(losses)
    if losses.size == 0:
        return ""
    parts = np.array_split(losses, min(_SPARK_POINTS, losses.size))
    means = np.array([float(np.median(part)) for part in parts])
    low, high = means.min(), means.max()
    share = (means - low) / (high - low) if high > low else np.zeros_like(means)
    return "".join(blocks[index] for index in np.rint(share * (len(blocks) - 1)).astype(int))
