"""Tables of the scores of stopping rules on recorded sweeps (needs rich)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest import LARGE_SWEEP_RUNS, SweepScore
from lossforecast.cli.tables import empty_table, escaped, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["sweep_tables"]

_HEADINGS = ("sweep", "runs", "compute used", "regret", "worst", "false kills", "before decay")
_ARRIVALS = {
    "parallel": "in parallel, all at the same share of their steps",
    "sequential": "one after the other, means over ten random orders",
}


def sweep_tables(scores: Sequence[SweepScore]) -> Iterator["Table"]:
    """One table per order of arrival: each rule on the large sweeps together, then on each."""
    for arrival in dict.fromkeys(score.arrival for score in scores):
        table = empty_table(f"runs arrive {_ARRIVALS[arrival]}", "policy", _HEADINGS)
        of_arrival = [score for score in scores if score.arrival == arrival]
        for policy in dict.fromkeys(score.policy for score in of_arrival):
            sweeps = [score for score in of_arrival if score.policy == policy]
            large = [score for score in sweeps if score.runs >= LARGE_SWEEP_RUNS]
            if len(large) > 1:
                name = f"{len(large)} of {LARGE_SWEEP_RUNS} runs or more"
                table.add_row(policy, *_row(name, large))
            for score in sweeps:
                table.add_row(policy, *_row(score.sweep, [score]), end_section=score is sweeps[-1])
        yield table


def _row(name: str, scores: Sequence[SweepScore]) -> list[str]:
    regrets = [score.regret for score in scores]
    return [
        escaped(name),
        str(sum(score.runs for score in scores)),
        percent(float(np.mean([score.compute_used for score in scores]))),
        percent(float(np.mean(regrets))),
        percent(max(regrets)),
        f"{sum(score.false_kills for score in scores):.3g}",
        f"{sum(score.before_decay for score in scores):.3g}",
    ]
