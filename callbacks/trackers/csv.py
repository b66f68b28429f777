"""`CSVSink`: appends forecasts to a table in a file."""

import csv
import os
from pathlib import Path
from typing import Any

from lossforecast.callbacks.monitor import Update
from lossforecast.errors import ConfigurationError

__all__ = ["CSVSink"]

_COLUMNS = (
    *("at", "step", "median", "lower80", "upper80", "lower95", "upper95"),
    *("gain_mean", "gain_source", "status", "target", "prob_target"),
    *("action", "reason", "message"),
)


class CSVSink:
    """Appends every forecast to a file as a row: made at step `at` for step `step`.

    Unknown numbers are left empty. Rows are added to an existing file, for example after a resume.

    Args:
        path: the file; its folder is created.

    Raises:
        ConfigurationError: the file is another table.
    """

    reads_trail = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = ",".join(_COLUMNS)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                if file.readline().strip() != header:
                    raise ConfigurationError(f"{path} is not a table of forecasts: choose another")

    def __call__(self, update: Update) -> None:
        """Append one forecast."""
        forecast, target = update.forecast, update.target
        row: dict[str, Any] = {
            **forecast.summary(),
            **update.recommendation.to_dict(),
            "at": update.step,
            "target": target,
            "prob_target": None if target is None else forecast.prob_below(target),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
            if file.tell() == 0:
                table.writeheader()
            table.writerow(row)
