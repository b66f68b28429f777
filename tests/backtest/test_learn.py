"""The prior learned from runs whose drops are known, because the tests made them."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from lossforecast import ConfigurationError, LRSchedule, Prior
from lossforecast.backtest.calibrate import (
    UNKNOWN_ERROR_SHARES,
    StandardizedError,
    common_error_shares,
)
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.learn import Lessons, learn_prior
from lossforecast.laws.relaxation import Relaxation, arrived

OWN_RUNS = Path(__file__).parents[1] / "benchmarks" / "results"
TOTAL = 2_000
PEAKS = (3e-4, 1e-3, 3e-3)
SHARES = (0.1, 0.4)


def run(
    source: str, size: float, peak: float, share: float, optimizer: str = "adamw"
) -> RecordedRun:
    """A lawful run whose rate decays over the last `share`, with the drop that a rule gives it."""
    plan = LRSchedule.wsd(TOTAL, peak, decay_fraction=share, warmup=50)
    steps = np.arange(40, TOTAL + 1, 20)
    s1 = plan.s1(steps) / float(plan.s1(TOTAL))
    drop = size * (peak / 1e-3) ** 0.5 * share**0.1
    fallen = arrived(
        plan, steps, (Relaxation("memoryless"),), total_steps=TOTAL, total_s1=float(plan.s1(TOTAL))
    )[0]
    rng = np.random.default_rng(round(1e6 * peak + 100 * share))
    z = 1.0 + 0.1 * s1**-0.45 - drop * fallen + 2e-4 * rng.normal(size=steps.size)
    name = f"{peak}-{share}-{optimizer}"
    return RecordedRun(
        source,
        name,
        "val",
        steps,
        plan.lr(steps),
        np.exp(z),
        TOTAL,
        optimizer,
        {"kind": "large language model"},
    )


@pytest.fixture(scope="module")
def runs() -> list[RecordedRun]:
    sizes = {"a": 0.05, "b": 0.08}
    return [
        run(source, size, peak, share)
        for source, size in sizes.items()
        for peak in PEAKS
        for share in SHARES
    ]


@pytest.fixture(scope="module")
def lessons(runs: Sequence[RecordedRun]) -> Lessons:
    return learn_prior(runs)


def test_the_rule_of_the_drop_is_recovered(lessons: Lessons) -> None:
    rule = lessons.all.known
    assert rule.size == pytest.approx((0.05 * 0.08) ** 0.5, rel=0.1)
    assert rule.peak_exponent == pytest.approx(0.5, abs=0.05)
    assert rule.decay_exponent == pytest.approx(0.1, abs=0.05)
    assert 0.2 < rule.spread < 0.3  # the sources are 24% away from their mean


def test_a_fold_left_out_teaches_nothing(lessons: Lessons, runs: Sequence[RecordedRun]) -> None:
    assert set(lessons.without) == {"a", "b"}
    assert lessons.without["a"].known.size == pytest.approx(0.08, rel=0.1)
    assert lessons.without["b"].known.size == pytest.approx(0.05, rel=0.1)
    alone = learn_prior([r for r in runs if r.source == "b"])
    assert alone.all.known == lessons.without["a"].known


def test_runs_of_other_optimizers_do_not_touch_the_rule(runs: Sequence[RecordedRun]) -> None:
    strangers = [run("c", 0.3, peak, share, "mine") for peak in PEAKS for share in SHARES]
    both = learn_prior([*runs, *strangers])
    assert both.all.known == learn_prior(runs).all.known
    ratio = max(d.slopes for d in both.all.loose_drops)
    assert ratio != max(d.slopes for d in learn_prior(runs).all.loose_drops)


def test_the_answer_does_not_depend_on_the_number_of_processes(
    lessons: Lessons, runs: Sequence[RecordedRun]
) -> None:
    told: list[tuple[int, int]] = []
    again = learn_prior(runs, jobs=2, progress=lambda done, total: told.append((done, total)))
    assert again.to_json() == lessons.to_json()
    assert told[-1] == (2 * len(runs), 2 * len(runs))


def test_a_table_is_a_prior_again(lessons: Lessons, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(lessons.to_json()))
    prior = Prior.from_table(path)
    assert prior.known.size == pytest.approx(lessons.all.known.size, rel=1e-3)
    assert prior.provenance["sources"] == ["a", "b"]
    path.write_text("[1, 2]")
    with pytest.raises(ConfigurationError, match="not a table of a prior"):
        Prior.from_table(path)
    with pytest.raises(ConfigurationError, match="not a table of a prior"):
        Prior.from_table(tmp_path / "absent.json")


def test_runs_without_a_decay_teach_nothing() -> None:
    steps = np.arange(10, 1_000, 10)
    lrs = np.full(steps.size, 1e-3)
    losses = np.asarray(2 + steps**-0.5, dtype=np.float64)
    flat = RecordedRun("a", "x", "val", steps, lrs, losses, 1_000, "adamw")
    with pytest.raises(ConfigurationError, match="nothing to learn"):
        learn_prior([flat])


@pytest.mark.slow
def test_the_packaged_table_is_learned_from_its_sources(curves_dir: Path) -> None:
    """The runs it was learned from give the table again, on another machine to three digits."""
    packaged = json.loads(files("lossforecast.prior").joinpath("prior.json").read_text())
    sources = packaged["provenance"]["sources"]
    runs = [*load_curves(curves_dir), *load_curves(OWN_RUNS)]
    written = learn_prior([run for run in runs if run.source in sources], jobs=2).to_json()
    assert set(written["without"]) == set(packaged["without"])
    assert written["provenance"] == packaged["provenance"]
    assert written["all"]["calibration"] == packaged["all"]["calibration"]
    for name, value in packaged["all"]["known"].items():
        assert written["all"]["known"][name] == pytest.approx(value, rel=1e-2)


def test_errors_that_a_sweep_and_an_optimizer_have_in_common_are_told_apart() -> None:
    rng = np.random.default_rng(0)

    def errors(sweep: str, of_sweep: float, of_kind: float, own: float) -> list[StandardizedError]:
        common, kinds = of_sweep * rng.normal(), of_kind * rng.normal(size=20)
        return [
            StandardizedError(
                fold="f",
                metric="val",
                cluster=f"{i}",
                kind="other",
                fraction=0.25,
                below=np.zeros(48),
                z=common + kinds[i % 20] + own * rng.normal(),
                sweep=sweep,
                optimizer=f"{i % 20}",
            )
            for i in range(400)
        ]

    many = [e for i in range(200) for e in errors(str(i), 0.6, 0.4, 0.5)]
    total = 0.6**2 + 0.4**2 + 0.5**2
    found = common_error_shares(many)
    assert found == pytest.approx((0.6**2 / total, 0.4**2 / total), abs=0.06)
    few = errors("small", 1, 0, 0)[:10]
    assert common_error_shares([*many, *few]) == found, "ten runs show nothing"
    assert common_error_shares(few) == common_error_shares([]) == UNKNOWN_ERROR_SHARES
