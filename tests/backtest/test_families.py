"""Scores by family and by kind, against slow and obvious versions of them."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lossforecast.backtest.backtest import Backtest, backtest
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.families import (
    FamilyScore,
    family_scores,
    kind_scores,
    select_per_family,
)
from lossforecast.backtest.replay import Record, Told
from lossforecast.runs import RunKind

LLM, SMALL, OTHER = RunKind


def record(truth: float, lower: float, upper: float, **more: Any) -> Record:
    """A forecast whose 95% interval is twice as wide as its 80% interval."""
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    values: dict[str, Any] = {
        "source": "made", "run_id": "r", "metric": "val", "fraction": 0.5, "truth": truth,
        "median": middle, "mean": 99.0, "lower80": lower, "upper80": upper,
        "lower95": middle - 2 * half, "upper95": middle + 2 * half, "status": "identified",
        "seconds": 0.0, "crps": 0.0, "group": "g", "fold": "f", "cluster": "c",
        "schedule_type": "wsd", "kind": SMALL, "told": Told.FOUND, "last_value": 4.0, "seen": False,
    }  # fmt: skip
    return Record(**(values | more))


def random_records(n: int, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    truth = np.exp(0.3 * rng.normal(size=n))
    middle = truth * np.exp(0.1 * rng.normal(size=n))
    width = 0.2 * rng.exponential(size=n)
    return [
        record(t, m - w, m + w, last_value=1.5 * t, cluster=f"c{rng.integers(4)}")
        for t, m, w in zip(truth, middle, width, strict=True)
    ]


def slow_ratio(records: list[Record]) -> float:
    """The ratio as it is defined, with the best interval searched among all pairs of changes."""

    def score(low: float, high: float, change: float) -> float:
        return high - low + 10 * max(low - change, 0) + 10 * max(change - high, 0)

    changes = [np.log(r.truth / r.last_value) for r in records]
    ours = [
        score(np.log(r.lower80 / r.last_value), np.log(r.upper80 / r.last_value), change)
        for r, change in zip(records, changes, strict=True)
    ]
    pairs = itertools.combinations_with_replacement(sorted(changes), 2)
    best = min(np.mean([score(a, b, change) for change in changes]) for a, b in pairs)
    return float(np.mean(ours) / best)


@pytest.mark.parametrize("n", [5, 8, 23])
def test_a_family_is_scored_by_its_definitions(n: int) -> None:
    records = [r for r in random_records(2 * n, seed=n) if r.lower80 > 0][:n]
    (score,) = family_scores(records)
    errors = [abs(r.median / r.truth - 1) for r in records]
    assert (score.kind, score.fold, score.metric, score.fraction) == (SMALL, "f", "val", 0.5)
    assert (score.n, score.left_out, score.name) == (n, 0, "f val")
    assert score.clusters == len({r.cluster for r in records})
    assert score.median_error == pytest.approx(np.median(errors))
    assert score.last_value_error == pytest.approx(0.5)
    assert score.ratio == pytest.approx(slow_ratio(records), rel=1e-9)
    shares = [
        np.mean([r.lower80 <= r.truth <= r.upper80 for r in records if r.cluster == cluster])
        for cluster in {r.cluster for r in records}
    ]
    assert score.coverage80 == pytest.approx(np.mean(shares))
    assert score.coverage95 >= score.coverage80


def test_a_ratio_by_hand() -> None:
    # log changes 0, .1, .2, .3, .4 of a last value of 1; the best interval is all of them, .4 wide
    changes = np.arange(5) / 10
    truths = np.exp(changes)
    records = [record(t, np.exp(0.0), np.exp(0.3), last_value=1.0) for t in truths]
    (score,) = family_scores(records)
    assert score.ratio == pytest.approx((0.3 + 10 * 0.1 / 5) / 0.4)


def test_a_family_of_four_has_no_ratio_and_one_without_spread_neither() -> None:
    few, same = random_records(4), [record(3.0, 2.0, 4.0)] * 6
    assert np.isnan(family_scores(few)[0].ratio)
    assert np.isnan(family_scores(same)[0].ratio)
    assert family_scores(same)[0].median_error == 0


def test_forecasts_without_a_logarithm_are_left_out_of_the_ratio_and_counted() -> None:
    positive = [r for r in random_records(20) if r.lower80 > 0][:7]
    others = [
        record(-1.0, 0.5, 1.5),
        record(1.0, -0.5, 1.5),
        record(1.0, 0.0, 1.5),
        record(1.0, 0.5, 1.5, last_value=-1.0),
    ]
    (score,) = family_scores([*positive, *others])
    assert (score.n, score.left_out) == (11, 4)
    assert score.ratio == pytest.approx(slow_ratio(positive))
    (score,) = family_scores([*positive[:4], *others])
    assert score.left_out == 4
    assert np.isnan(score.ratio)


def test_families_differ_by_kind_fold_and_metric_and_come_sorted() -> None:
    records = [
        record(3.0, 2.0, 4.0, kind=kind, fold=fold, metric=metric, fraction=fraction)
        for kind, fold, metric, fraction in itertools.product(
            (OTHER, LLM), "ba", ("val", "train"), (0.9, 0.1)
        )
    ]
    scores = family_scores(records)
    cells = [(s.kind, s.name, s.fraction) for s in scores]
    assert cells == [
        (kind, f"{fold} {metric}", fraction)
        for kind, fold, metric, fraction in itertools.product(
            (LLM, OTHER), "ab", ("train", "val"), (0.1, 0.9)
        )
    ]
    assert family_scores([replace(r, seen=True) for r in records]) == []


def family(fold: str, **more: Any) -> FamilyScore:
    values: dict[str, Any] = {
        "kind": SMALL, "fold": fold, "metric": "val", "fraction": 0.5, "n": 10, "clusters": 5,
        "median_error": 0.1, "last_value_error": 0.2, "coverage80": 0.8, "coverage95": 0.9,
        "ratio": 1.0, "left_out": 1,
    }  # fmt: skip
    return FamilyScore(**(values | more))


def test_every_family_counts_once_in_its_kind() -> None:
    families = [
        family("a", n=1_000, median_error=0.3, coverage80=0.2, ratio=3.0),
        family("b", median_error=0.1, coverage80=0.6, ratio=np.nan),
        family("c", metric="train", median_error=0.2, coverage80=1.0, ratio=1.0, coverage95=0.0),
    ]
    together, val, train = kind_scores(families)
    assert [s.name for s in (together, val, train)] == [
        "small model", "small model val", "small model train"
    ]  # fmt: skip
    assert (together.families, together.n, together.left_out) == (3, 1_020, 3)
    assert (together.median_error, together.last_value_error) == (0.2, 0.2)
    assert together.coverage80 == pytest.approx(0.6)
    assert together.coverage95 == pytest.approx(0.6)
    assert (together.ratio, together.ratio_families) == (2.0, 2)
    assert (val.families, val.median_error, val.ratio) == (2, 0.2, 3.0)
    assert (train.families, train.median_error, train.ratio_families) == (1, 0.2, 1)
    assert np.isnan(kind_scores([families[1]])[0].ratio)


def test_kinds_come_in_their_order_and_by_fraction() -> None:
    families = [family("a", kind=kind, fraction=f) for kind in (OTHER, LLM) for f in (0.9, 0.1)]
    cells = [(s.name, s.fraction) for s in kind_scores(families)]
    assert cells == [
        (name, fraction)
        for name in (
            "large language model",
            "large language model val",
            "other",
            "other val",
        )
        for fraction in (0.1, 0.9)
    ]
    assert kind_scores([]) == []


def test_a_family_is_worse_above_one_and_a_half_times_the_last_value() -> None:
    assert family("a", median_error=0.16, last_value_error=0.1).is_worse
    assert not family("a", median_error=0.14, last_value_error=0.1).is_worse


def run(name: str, cluster: str, fold: str = "f", level: float = 2.0, **more: Any) -> RecordedRun:
    step = np.arange(0, 1_001, 50)
    loss = np.array(level + 3 * (step + 20.0) ** -0.5, dtype=np.float64)
    lr = np.full(step.size, 1e-3, dtype=np.float64)
    metadata = {"cluster": cluster, "fold": fold, **more}
    return RecordedRun("made", name, "val", step, lr, loss, 1_000, "adamw", metadata)


def test_selected_runs_are_spread_over_clusters() -> None:
    runs = [run(f"{cluster}{i}", cluster) for cluster, n in (("a", 30), ("b", 3)) for i in range(n)]
    runs += [run("c0", "c"), run("stopped", "d", completion="stopped early")]
    for most, expected in ((2, [1, 1]), (3, [1, 1, 1]), (5, [2, 2, 1]), (8, [4, 3, 1])):
        chosen = select_per_family(runs, most)
        counts = [sum(r.cluster == cluster for r in chosen) for cluster in "abc"]
        assert sorted((c for c in counts if c), reverse=True) == expected
        assert [r for r in runs if r in chosen] == chosen, "in the order given"
    everything = select_per_family(runs, 1_000)
    assert [r.run_id for r in everything] == [r.run_id for r in runs[:-1]]


def test_selection_is_the_same_in_any_order_and_whatever_else_is_there() -> None:
    runs = [run(f"r{i}", f"c{i % 7}") for i in range(40)]
    first = {r.run_id for r in select_per_family(runs, 10)}
    other = [run(f"x{i}", "c0", fold="another") for i in range(20)]
    turned = select_per_family([*other, *reversed(runs)], 10)
    assert {r.run_id for r in turned if r.fold == "f"} == first
    assert sum(r.fold == "another" for r in turned) == 10
    larger = {r.run_id for r in select_per_family(runs, 20)}
    assert first < larger


def test_a_backtest_of_selected_runs() -> None:
    kinds = {"p": "small model", "q": None}
    runs = [
        run(f"{fold}{i}", f"c{i}", fold, level=2.0 + 0.1 * i, kind=kinds[fold])
        for fold, n in (("p", 7), ("q", 2))
        for i in range(n)
    ]
    result = backtest(runs, fractions=[0.5], baselines=False, max_per_family=6)
    small, other = result.families()
    assert (small.name, small.kind, small.n, small.clusters) == ("p val", SMALL, 6, 6)
    assert (other.name, other.kind, other.n) == ("q val", OTHER, 2)
    assert small.ratio > 0
    assert np.isnan(other.ratio)
    assert [s.name for s in result.kinds()] == [
        "small model", "small model val", "other", "other val"
    ]  # fmt: skip
    latest = [2.0 + 0.1 * i + 3 * 520.0**-0.5 for i in range(2)]
    truth = [2.0 + 0.1 * i + 3 * 1020.0**-0.5 for i in range(2)]
    assert other.last_value_error == pytest.approx(
        np.median([abs(x / y - 1) for x, y in zip(latest, truth, strict=True)])
    )
    assert Backtest(()).kinds() == []
