"""Tables with a row for each value: the metrics that MLflow's page downloads."""

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lossforecast.readers.cells import step_in, value_in
from lossforecast.readers.columns import SPLIT_COLUMNS, in_run, is_loss, metric_of
from lossforecast.readers.formats.table import header_of, rows_of
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text import open_text

__all__ = ["LongTable", "pivoted"]

_NAMES = ("metric", "metricname", "key", "name", "tag", "variable")
_VALUES = ("value", "metricvalue")
_STEPS = ("step", "epoch")
_GROUPS = (_NAMES, _VALUES, _STEPS)
_BETWEEN = re.compile(r"[_ .]")
_MAX_CACHED = 1024  # sets of names that are remembered: rows of JSON repeat them
_RUNS = ("run", "group", "runid", "runhash", "runname", "experimentkey")
_IDS = ("runid", "runhash")
_SPLITS = (*SPLIT_COLUMNS, "data", "dataset", "set")


class LongTable(LogFormat):
    """A header with `metric`, `step` and `value` (or `key`, ...), perhaps of several runs."""

    description = "CSV of one value a row (downloads of MLflow)"

    def matches(self, start: FileStart) -> bool:
        """True if the first line names a metric, a step and a value."""
        header = {_plain(name) for name in header_of(start.first_line)[0]}
        return not any(header.isdisjoint(names) for names in _GROUPS)

    def open(self, path: Path, step_column: str | None) -> Source:
        """Read the header; the columns become known only while the file is read."""
        with open_text(path) as file:
            header, delimiter = header_of(file.readline())
        reader = partial(_points, header=header, delimiter=delimiter, step_column=step_column)
        return Source(path, "CSV of metrics", reader, runs_have_names=True)


def _plain(name: str) -> str:
    return _BETWEEN.sub("", name.lower())


@lru_cache(_MAX_CACHED)
def _group_columns(names: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
    """The columns of a name, of its value and of a step, the first of each; None without one."""
    columns = {_plain(name): name for name in reversed(names)}
    name, value, step = (next((columns[n] for n in g if n in columns), None) for g in _GROUPS)
    return name, value, step


def pivoted(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a name, its value and a step as one whose column has that name; others as is."""
    name, value, step = _group_columns(tuple(row))
    if name is None or value is None or step is None or not isinstance(row[name], str):
        return row
    if any(map(is_loss, row)):
        return row
    kept = (step, *(other for other in row if _plain(other) in _STEPS and row[other] is not None))
    return {**{other: row[other] for other in kept}, row[name]: row[value]}


def _points(
    source: Source, wanted: Wanted, *, header: list[str], delimiter: str, step_column: str | None
) -> Points:
    columns = {_plain(name): name for name in reversed(header)}
    name_column, value, counter = (
        next(columns[name] for name in names if name in columns) for names in _GROUPS
    )
    run_column = next((columns[name] for name in _RUNS if name in columns), None)
    split_column = next((columns[name] for name in _SPLITS if name in columns), "")
    id_column = next((columns[name] for name in _IDS if name in columns), run_column or "")
    step = step_column or counter
    runs: dict[str, str] = {}  # their names by their ids
    for where, row in rows_of(source, header=header, delimiter=delimiter):
        name = str(row[name_column]).strip()
        of_validation = metric_of(str(row.get(split_column, ""))) == "val"
        if of_validation and is_loss(name) and metric_of(name) != "val":
            name = f"val/{name}"
        if run_column is not None:
            key, run = str(row[id_column]), str(row[run_column])
            if key not in runs:
                runs[key] = f"{run} ({key})" if run in runs.values() else run
            name = in_run(runs[key], name)
        at = step_in(row.get(step), where, step)
        if at is None:
            continue
        source.columns[name] = at
        number = value_in(row[value], where, value) if wanted(name) else None
        if number is not None:
            yield name, at, number
