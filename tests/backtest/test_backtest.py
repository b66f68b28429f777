import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lossforecast.backtest.replay as replay_module
from lossforecast import ConfigurationError, Forecaster, LRSchedule, Prior, RunInfo, ScheduleError
from lossforecast.backtest.backtest import FRACTIONS, Backtest, RecordedRun, backtest
from lossforecast.backtest.curves import load_curves
from lossforecast.backtest.replay import Record, Told, described, outcome, replay
from lossforecast.backtest.scorecard import scorecard
from lossforecast.runs import RunKind

KEYS = [
    "source", "run_id", "metric", "fraction", "truth", "median", "mean", "lower80", "upper80",
    "lower95", "upper95", "status", "seconds", "kind", "fold", "cluster", "told", "last_value",
]  # fmt: skip


def made(
    run_id: str = "run",
    *,
    source: str = "made",
    every: int = 10,
    total: int = 1_000,
    last: int | None = None,
    seed: int = 0,
    metric: str = "val",
    **metadata: Any,
) -> RecordedRun:
    """A run whose loss follows a power law and falls further in the last fifth, with some noise."""
    step = np.arange(0, (total if last is None else last) + 1, every)
    plan = LRSchedule.wsd(total, 1e-3, warmup=total // 20)
    lr = plan.lr(np.clip(step, 1, total))
    noise = 0.003 * np.random.default_rng(seed).normal(size=step.size)
    loss = 2.5 + 3 * (step + 10.0) ** -0.5 + 150 * (lr - 1e-3) + noise
    return RecordedRun(source, run_id, metric, step, lr, loss, total, "adamw", metadata)


def with_loss(run: RecordedRun, loss: NDArray[np.float64]) -> RecordedRun:
    return replace(run, loss=loss)


def timeless(records: tuple[Record, ...] | list[Record]) -> list[dict[str, Any]]:
    return [asdict(record) | {"seconds": 0.0} for record in records]


def test_the_truth_is_the_mean_of_the_last_fiftieth() -> None:
    run = made()
    end = outcome(run)
    assert end is not None
    assert end.loss == pytest.approx(run.loss[run.step >= 980].mean())
    assert (end.step, end.first_step) == (990, 980)


def test_the_truth_of_sparse_validations_is_the_last_one() -> None:
    run = made(every=125)
    end = outcome(run)
    assert end is not None
    assert end.loss == run.loss[-1]
    assert (end.step, end.first_step) == (1_000, 1_000)


def test_runs_without_a_truth_are_passed_over() -> None:
    run = made()
    broken = run.loss.copy()
    broken[-1] = np.nan
    nothing = [
        made(completion="stopped before schedule end"),
        with_loss(run, broken),
        with_loss(run, np.full(run.loss.shape, np.inf)),
        made(last=10),
    ]
    assert [outcome(each) for each in nothing] == [None] * 4
    assert backtest(nothing).records == ()
    assert outcome(made(completion="reached LR end")) is not None


def test_a_fraction_needs_ten_finite_losses() -> None:
    assert [r.fraction for r in backtest([made(every=25)]).records] == [0.25, 0.5, 0.75, 0.9]
    run = made(every=10)  # 11 points up to a tenth
    holes = run.loss.copy()
    holes[3:5] = np.nan
    assert [r.fraction for r in backtest([run]).records] == list(FRACTIONS)
    assert [r.fraction for r in backtest([with_loss(run, holes)]).records] == list(FRACTIONS[1:])


LANGUAGE: dict[str, Any] = {"kind": "large language model", "n_params": 3e8}


@pytest.mark.parametrize(
    ("metadata", "told", "expected"),
    [
        (LANGUAGE, "nothing", RunInfo("val")),
        (LANGUAGE, "optimizer", RunInfo("val", "adamw")),
        (LANGUAGE, "found", RunInfo("val", "adamw", task="language modelling", n_params=3e8)),
        ({"kind": "other"}, "found", RunInfo("val", "adamw")),
        (
            {"kind": "small model", "language_model": "masked", "n_params": 90_000},
            "found",
            RunInfo("val", "adamw", task="masked language modelling", n_params=90_000),
        ),
        (
            {"kind": "small model", "language_model": None, "n_params": 90_000},
            "found",
            RunInfo("val", "adamw", n_params=90_000),
        ),
        ({"steps_per_epoch": 49}, "found", RunInfo("val", "adamw", steps_per_epoch=49)),
        ({"steps_per_epoch": 49}, "optimizer", RunInfo("val", "adamw")),
        ({"steps_per_epoch": None}, "found", RunInfo("val", "adamw")),
    ],
)
def test_a_run_is_described_as_far_as_the_forecaster_is_told(
    metadata: dict[str, Any], told: str, expected: RunInfo
) -> None:
    assert described(made(**metadata), Told(told)) == expected


@pytest.mark.parametrize("name", ["n_params", "steps_per_epoch"])
def test_a_number_that_is_none_names_the_run(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"made, run odd: {name}"):
        backtest([replace(made("odd"), metadata={name: "many"})])


def test_what_the_forecaster_is_told_changes_the_forecast() -> None:
    run = made(**LANGUAGE)
    found, _, nothing = (backtest([run], fractions=[0.25], told=told).records[0] for told in Told)
    assert (found.told, nothing.told) == ("found", "nothing")
    assert found.mean != nothing.mean
    assert backtest([run], fractions=[0.25]).records[0].mean == found.mean


def test_a_forecaster_sees_no_more_than_the_protocol_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []

    class Listener(Forecaster):
        def __init__(self, schedule: LRSchedule, run: RunInfo, prior: Prior | None) -> None:
            told.append((schedule, run, prior))
            super().__init__(schedule, run, prior=prior)

        def observe_many(self, steps: Any, losses: Any, lrs: Any = None) -> None:
            told.append((steps, losses))
            super().observe_many(steps, losses, lrs)

        def forecast(self, step: int | None = None, schedule: LRSchedule | None = None) -> Any:
            told.append(step)
            return super().forecast(step, schedule)

    monkeypatch.setattr(replay_module, "Forecaster", Listener)
    run, prior = made(dataset="secret", metric="train"), Prior()
    (record,) = replay(run, [0.5], baselines=False, prior=prior, told=Told.OPTIMIZER)
    (schedule, info, used), (steps, losses), step = told
    assert schedule == LRSchedule.from_points(run.step, run.lr, total_steps=1_000)
    assert info == RunInfo(metric="train", optimizer="adamw")
    assert used is prior
    np.testing.assert_array_equal(steps, run.step[run.step <= 500])
    np.testing.assert_array_equal(losses, run.loss[run.step <= 500])
    assert step == 990
    assert record.baselines == {}
    assert record.last_value == losses[-1]
    assert record.point == record.median


def test_a_run_longer_than_its_plan_and_one_that_ends_early() -> None:
    longer = made(total=1_000, last=1_200)
    assert [r.seen for r in replay(longer, [0.5, 0.9])] == [False, False]
    assert replay(made(total=1_000, last=880), [0.5, 0.75]) == []  # nobody knows its truth


def test_records_hold_forecasts_and_what_came() -> None:
    run = made(kind="large language model")
    for record in replay(run, FRACTIONS):
        assert record.truth == pytest.approx(run.loss[-3:].mean())
        assert record.lower95 < record.lower80 < record.median < record.upper80 < record.upper95
        assert record.median == pytest.approx(record.mean, rel=0.05)
        assert record.seconds > 0
        assert 0 < record.crps < 1
        assert list(record.baselines) == [
            "last value", "power law in steps", "annealing law", "multi-power law"
        ]  # fmt: skip
        assert np.isfinite(list(record.baselines.values())).all()
    late = replay(run, [0.9])[0]
    assert abs(late.median / late.truth - 1) < 0.03
    assert late.baselines["last value"] == run.loss[run.step <= 900][-1]


def test_a_curve_that_cannot_be_observed_names_the_run() -> None:
    bad = replace(made("broken one"), lr=-np.ones(101))
    for jobs in (1, 2):
        with pytest.raises(ScheduleError, match="made, run broken one: "):
            backtest([bad, bad], jobs=jobs)


def test_the_json_is_plain(tmp_path: Path) -> None:
    result = backtest([made("a"), made("b", seed=1)], fractions=[0.25, 0.5])
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [list(each) for each in found] == [KEYS] * 4
    assert [(each["run_id"], each["fraction"]) for each in found] == [
        ("a", 0.25), ("a", 0.5), ("b", 0.25), ("b", 0.5)
    ]  # fmt: skip
    assert all(isinstance(each["status"], str) for each in found)
    odd = Backtest((replace(result.records[0], mean=np.nan, upper95=np.inf),)).to_json()[0]
    assert (odd["mean"], odd["upper95"]) == (None, None)


def test_jobs_and_repeats_change_nothing_but_the_time() -> None:
    runs = [made(str(seed), seed=seed) for seed in range(6)]
    before = dict(os.environ)
    one = backtest(runs, fractions=[0.25, 0.75])
    two = backtest(runs, fractions=[0.25, 0.75], jobs=2)
    assert timeless(one.records) == timeless(two.records)
    assert dict(os.environ) == before
    assert timeless(one.records) == timeless(backtest(runs, fractions=[0.25, 0.75]).records)


def test_each_run_has_its_prior_and_progress_is_told() -> None:
    wide = replace(Prior(), known=replace(Prior().known, spread=2.0), lawful_share=(0.99, 0.99))

    def prior_for(run: RecordedRun) -> Prior | None:
        return None if run.source == "b" else wide

    told: list[tuple[int, int]] = []
    kind = "large language model"
    runs = [made(str(i), source=source, kind=kind) for i, source in enumerate("abab")]
    result = backtest(
        runs,
        fractions=[0.5],
        baselines=False,
        prior_for=prior_for,
        progress=lambda done, total: told.append((done, total)),
    )
    one, two, three, four = (r.upper80 - r.lower80 for r in result.records)
    assert one == three > two == four
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_run_is_scored_with_the_prior_that_has_not_seen_its_fold() -> None:
    run = made("x", source="lr-scheduling-convex", optimizer="adamw")
    (unseen,) = backtest([run], fractions=[0.5], baselines=False).records
    without = Prior.without("lr-scheduling-convex")
    (expected,) = replay(run, [0.5], baselines=False, prior=without)
    (packaged,) = replay(run, [0.5], baselines=False)
    assert unseen.mean == expected.mean != packaged.mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": []}, "fractions"),
        ({"fractions": [0.5, 1.0]}, "fractions"),
        ({"fractions": ["half"]}, "fraction must be a number"),
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": 1.5}, "jobs is 1.5"),
        ({"told": "all"}, "told is 'all'; it must be one of found, optimizer, nothing"),
        ({"max_per_family": 0}, "max_per_family is 0"),
    ],
)
def test_misuse_is_an_error_of_ours(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        backtest([made()], **arguments)


# ---------------------------------------------------------------------- scores


def forecast_of(
    i: int, truth: float = 2.0, median: float = 2.0, half: float = 0.1, **more: Any
) -> Record:
    rivals: Mapping[str, float] = {"last value": 2.2, "power law in steps": 2.1}
    values: dict[str, Any] = {
        "source": "made", "run_id": f"r{i}", "metric": "val", "fraction": 0.5, "truth": truth,
        "median": median, "mean": 99.0, "lower80": median - half, "upper80": median + half,
        "lower95": median - 2 * half, "upper95": median + 2 * half, "status": "identified",
        "seconds": 0.01, "crps": 0.02,
        "group": "made val", "fold": f"fold {i % 3}", "cluster": f"c{i // 2}",
        "schedule_type": "wsd", "kind": RunKind.OTHER, "told": Told.FOUND, "last_value": 2.2,
        "seen": False, "baselines": rivals,
    }  # fmt: skip
    return Record(**(values | more))


def test_a_cell_is_scored_by_hand() -> None:
    records = [forecast_of(i, median=2.0 + 0.01 * i) for i in range(20)]
    (cell,) = scorecard(records)
    assert (cell.name, cell.fraction, cell.n, cell.clusters) == ("made val", 0.5, 20, 10)
    assert cell.score.median == pytest.approx(0.0475)
    assert cell.score.bias == pytest.approx(0.0475)
    assert cell.coverage80 == pytest.approx(11 / 20)
    assert cell.coverage95 == 1.0
    assert (cell.width80, cell.width95, cell.crps) == pytest.approx((0.1, 0.2, 0.01))
    low, high = cell.median_interval
    assert low < 0.0475 < high
    assert cell.baselines["last value"].median == pytest.approx(0.1)
    assert cell.median_difference is not None
    assert cell.median_difference.baseline == "power law in steps"
    assert cell.median_difference.value == pytest.approx(-0.0025)
    assert cell.mean_difference is not None
    low, high = cell.mean_difference.interval
    assert low < cell.mean_difference.value < high
    assert cell.conformal is not None
    assert cell.sharpness == pytest.approx(cell.conformal.width / 0.1)


def test_small_cells_are_not_quoted_and_what_was_seen_is_not_scored() -> None:
    records = [forecast_of(i) for i in range(14)]
    assert scorecard(records) == []
    assert len(scorecard(records, min_forecasts=5)) == 1
    more = [*records, forecast_of(14, seen=True), forecast_of(15, seen=True)]
    assert scorecard(more) == []
    assert scorecard([*records, forecast_of(14)])[0].n == 15


def test_cells_by_source_and_schedule_come_sorted() -> None:
    records = [
        forecast_of(i, source=source, schedule_type=kind, fraction=fraction)
        for source, kind, fraction in (("b", "wsd", 0.9), ("b", "wsd", 0.1), ("a", "cosine", 0.5))
        for i in range(15)
    ]
    names = [(cell.name, cell.fraction) for cell in Backtest(tuple(records)).table("source")]
    assert names == [("a val", 0.5), ("b val", 0.1), ("b val", 0.9)]
    names = [(cell.name, cell.fraction) for cell in scorecard(records, "schedule")]
    assert names[0] == ("made val, cosine", 0.5)
    with pytest.raises(ConfigurationError, match="group, fold, source, schedule"):
        scorecard(records, "colour")


def test_a_cell_without_baselines() -> None:
    (cell,) = scorecard([forecast_of(i, baselines={}) for i in range(15)])
    assert cell.baselines == {}
    assert cell.median_difference is None
    assert cell.mean_difference is None
    assert np.isnan(cell.sharpness)


def test_the_interval_around_the_last_value_is_learnt_on_the_whole_group() -> None:
    rng = np.random.default_rng(0)
    records = [
        forecast_of(i, truth=2.2 * (1 - 0.1 * rng.uniform()), source=f"s{i % 3}") for i in range(90)
    ]
    cells = scorecard(records, "source")
    assert [cell.n for cell in cells] == [30, 30, 30]  # each source is one fold
    for cell in cells:
        assert cell.conformal is not None
        assert cell.conformal.coverage >= cell.coverage80
        assert cell.conformal.width < 0.15


def test_a_backtest_of_the_recorded_curves(curves_dir: Path) -> None:
    """The baselines' errors on the multi-power logs: a check that the protocol is what it was."""
    runs = [run for run in load_curves(curves_dir) if run.source == "multipowerlaw"]
    if not runs:
        pytest.skip(f"{curves_dir} has no multi-power logs")
    result = backtest(runs)
    # 15 of 18 logs reach the end of their run; logs start late, 4 have 10 losses in the first 10%
    assert len(result.to_json()) == 4 * 15 + 4
    medians = {
        (cell.fraction, name): 100 * score.median
        for cell in result.table()
        for name, score in cell.baselines.items()
    }
    assert (0.9, "last value") in medians
    assert medians[0.5, "last value"] == pytest.approx(4.0, abs=1.5)
    assert medians[0.75, "annealing law"] < medians[0.75, "last value"]
