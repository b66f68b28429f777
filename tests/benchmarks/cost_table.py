"""Ratios of costs, as a table, and what became slower since the last recorded table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cost_turns import Times

from lossforecast.arrays import FloatArray

__all__ = ["Ratio", "added", "of_all", "ratios_from", "ratios_to", "slower", "table"]

TOLERANCE = 1.2  # times the recorded ratio, beyond which something became slower
N_ERRORS = 2.0  # standard errors by which the ratio must lie beyond that
N_BLOCKS = 10  # of consecutive turns, for the standard error


@dataclass(frozen=True)
class Ratio:
    """The cost of a subject in terms of a baseline of the same run.

    Attributes:
        what: the subject, and the steps or calls that were counted.
        over: the baseline.
        value: the cost of the subject divided by that of the baseline.
        error: its standard error.
        limit: the largest value that is aimed at; None without an aim.
    """

    what: str
    over: str
    value: float
    error: float
    limit: float | None = None

    @property
    def key(self) -> str:
        """The name under which it is recorded."""
        return f"{self.what} / {self.over}"


def added(
    times: Times, subject: str, baseline: str, bare: str, what: str, over: str, limit: float | None
) -> Ratio:
    """Compare what two callbacks add to the bare loop: (subject - bare) / (baseline - bare)."""
    return _ratio(times[subject] - times[bare], times[baseline] - times[bare], what, over, limit)


def of_all(
    times: Times, subject: str, baseline: str, what: str, over: str, limit: float | None = None
) -> Ratio:
    """Compare all that two loops take: subject / baseline."""
    return _ratio(times[subject], times[baseline], what, over, limit)


def _ratio(
    above: FloatArray, below: FloatArray, what: str, over: str, limit: float | None
) -> Ratio:
    """Return the ratio of two sums; its error is that of the jackknife over blocks of turns."""
    blocks = np.array_split(np.arange(above.size), min(N_BLOCKS, above.size))
    sums = np.array([[above[block].sum(), below[block].sum()] for block in blocks])
    value, n = float(sums[:, 0].sum() / sums[:, 1].sum()), len(blocks)
    if n == 1:
        return Ratio(what, over, value, 0.0, limit)
    left = sums.sum(axis=0) - sums
    without = left[:, 0] / left[:, 1]
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return Ratio(what, over, value, error, limit)


def slower(now: list[Ratio], recorded: list[Ratio]) -> list[Ratio]:
    """Return the ratios that are surely more than 20% above those recorded under their names."""
    before = {ratio.key: ratio.value for ratio in recorded}
    return [
        ratio
        for ratio in now
        if ratio.value - N_ERRORS * ratio.error > TOLERANCE * before.get(ratio.key, np.inf)
    ]


def table(ratios: list[Ratio], recorded: list[Ratio]) -> str:
    """Return a Markdown table of ratios, their aims and what was recorded before."""
    lines = [
        "| cost of | over | ratio | standard error | aim: at most | recorded before |",
        "|---|---|---:|---:|---:|---:|",
    ]
    before = {ratio.key: _number(ratio.value) for ratio in recorded}
    for ratio in ratios:
        limit, was = "" if ratio.limit is None else f"{ratio.limit:g}", before.get(ratio.key, "")
        value, error = _number(ratio.value), _number(ratio.error)
        lines.append(f"| {ratio.what} | {ratio.over} | {value} | {error} | {limit} | {was} |")
    return "\n".join(lines) + "\n"


def ratios_to(path: Path, ratios: list[Ratio], **facts: Any) -> None:
    """Write ratios, and facts about their run, as JSON."""
    document = {**facts, "ratios": [asdict(ratio) for ratio in ratios]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def ratios_from(path: Path) -> list[Ratio]:
    """Return the recorded ratios; none if there is no such file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["ratios"]
    return [Ratio(**row) for row in rows]


def _number(value: float) -> str:
    return (
        f"{value:.2g}"
        if abs(value) < 1
        else f"{value:.2f}"
        if abs(value) < 100
        else f"{value:,.0f}"
    )
