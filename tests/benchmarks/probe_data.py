"""Reads the runs that probe_pairs.py recorded: stable phases with gaps, and decays from them."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.prior.prior import Prior
from lossforecast.prior.probe_gaps import Gap, GapRule

RESULTS = Path(__file__).with_name("results")
FloatArray = NDArray[np.float64]

SHARES = (80, 20)  # a horizon of the probe is the length of the run over one of these


@dataclass(frozen=True)
class Curve:
    """One branch of a run: steps, learning rates and losses, each (n,), and gaps by step."""

    step: NDArray[np.int64]
    rate: FloatArray
    loss: FloatArray
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Pair:
    """A decay that branched off a run, and the drop of the loss in it."""

    decay: str
    begin: int
    steps: int
    drop: float
    drop_stderr: float
    loss_after: float


@dataclass(frozen=True)
class Recorded:
    """One recorded run."""

    name: str
    task: str
    optimizer: str
    rate: float
    steps: int
    branches: dict[str, Curve]
    pairs: dict[str, Pair]

    @property
    def warmup(self) -> int:
        return self.steps // 20

    @property
    def horizons(self) -> list[int]:
        return sorted({gap.horizon for gap in self.branches["main"].gaps})

    def plan(self, pair: Pair) -> LRSchedule:
        held = LRSchedule.constant(pair.begin + pair.steps, self.rate, warmup=self.warmup)
        return held.with_decay(start=pair.begin, steps=pair.steps)

    @cached_property
    def wsd(self) -> LRSchedule:
        return self.plan(self.pairs["linear"])

    def predicted_drop(self, pair: Pair, now: int, rule: GapRule) -> tuple[float, float] | None:
        """Mean and standard deviation of the drop, predicted from losses and gaps until `now`."""
        main = self.branches["main"]
        seen = main.step <= now
        gaps = [gap for gap in main.gaps if gap.step <= now]
        variance = np.full(int(seen.sum()), 1.0)
        steps, losses = main.step[seen], main.loss[seen]
        drop = rule.drop(gaps, self.plan(pair), now, step=steps, loss=losses, variance=variance)
        return None if drop is None else (drop.mean, drop.std)


def recorded(folder: Path = RESULTS, shares: Sequence[int] = SHARES) -> list[Recorded]:
    """Read all recorded runs."""
    curves: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read(folder / "probe_curves.csv"):
        curves[row["run"], row["branch"]].append(row)
    pairs: dict[str, dict[str, Pair]] = defaultdict(dict)
    for row in read(folder / "probe_pairs.csv"):
        pairs[row["run"]][row["decay"]] = Pair(
            decay=row["decay"],
            begin=int(row["begin"]),
            steps=int(row["steps"]),
            drop=float(row["drop"]),
            drop_stderr=float(row["drop_stderr"]),
            loss_after=float(row["loss_after"]),
        )
    return [
        Recorded(
            name=f"{row['task']}-{row['optimizer']}-{row['rate']}-b{row['batch']}",
            task=row["task"],
            optimizer=row["optimizer"],
            rate=float(row["rate"]),
            steps=int(row["steps"]),
            branches={
                branch: curve(curves[run, branch], int(row["steps"]), shares)
                for run, branch in curves
                if run == row["run"]
            },
            pairs=pairs[row["run"]],
        )
        for row in read(folder / "probe_runs.csv")
    ]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(rows: Sequence[dict[str, str]], steps: int, shares: Sequence[int]) -> Curve:
    """One branch; gaps from three horizons on, when the averages have forgotten their start."""
    gaps = [
        Gap(int(row["step"]), float(row[f"gap{share}"]), float(row[f"stderr{share}"]), horizon)
        for row in rows
        for share in shares
        if row[f"gap{share}"] and int(row["step"]) >= 3 * (horizon := steps // share)
    ]
    step, rate, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("step", "rate", "loss")
    )
    return Curve(step.astype(np.int64), rate, loss, tuple(gaps))


def forecaster_of(
    run: Recorded, rule: GapRule | None, seen: float, plan: LRSchedule | None = None
) -> Forecaster:
    """A forecaster after a share of a WSD run, with the gaps of the probe if a rule is given."""
    prior = Prior() if rule is None else replace(Prior(), gaps=rule)
    forecaster = Forecaster(plan or run.wsd, RunInfo("val", run.optimizer), prior=prior)
    main, now = run.branches["main"], round(seen * run.steps)
    early = main.step <= now
    forecaster.observe_many(main.step[early], main.loss[early])
    for gap in main.gaps:
        if rule is not None and gap.step <= now:
            forecaster.observe_gap(*gap)
    return forecaster
