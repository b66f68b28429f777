"""The end of a run: one definition, whoever asks."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from lossforecast import History, LRSchedule, RunStore
from lossforecast.backtest.lookback import look_back
from lossforecast.callbacks.tensorboard.plugin.hindsight import outcome as shown
from lossforecast.cli.app import main
from lossforecast.runs import END_SHARE, Outcome, OutcomeRule, outcome_of, outcome_of_curve

TOTAL = 1_000
NAN = math.nan


def loss_at(step: float) -> float:
    return 1.7 + 30 / (step + 10)


def curve(steps: Iterable[int], broken: Iterable[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses; nan at the steps in `broken`."""
    at, lost = np.array(list(steps)), list(broken)
    return at, np.where(np.isin(at, lost), NAN, 1.7 + 30 / (at + 10.0))


def history(steps: np.ndarray, losses: np.ndarray) -> History:
    found = History()
    found.observe_many(steps, losses)
    return found


CURVES = {
    "every step": (curve(range(1_000)), range(980, 1_000)),
    "three in the last 2%": (curve(range(0, 1_001, 10)), (980, 990, 1_000)),
    "nan inside the last 2%": (curve(range(1_000), [985, 990]), {*range(980, 1_000)} - {985, 990}),
    "two in the last 2%": (curve(range(5, 1_000, 10)), (995,)),
    "one in the last 2%": (curve(range(50, 1_001, 50)), (1_000,)),
    "no room for another": (curve(range(100, 901, 100)), (900,)),
    "room for another": (curve(range(0, 961, 20)), None),
    "not in the last 10%": (curve(range(200, 801, 200)), None),
    "a single loss, early": (curve([950]), None),
    "ended early": (curve(range(970)), None),
    "nan at the end": (curve(range(1_000), [999]), None),
    "nan from the middle on": (curve(range(1_000), range(500, 1_000)), None),
    "a little longer than planned": (curve(range(1_015)), range(980, 1_015)),
    "far longer than planned": (curve(range(2_000)), range(1_960, 2_000)),
    "nothing": (curve(()), None),
}


@pytest.mark.parametrize(("losses", "used"), CURVES.values(), ids=CURVES.keys())
def test_the_outcome_is_read_off_the_last_losses(
    losses: tuple[np.ndarray, np.ndarray], used: Iterable[int] | None
) -> None:
    found = outcome_of(history(*losses), TOTAL)
    recorded = outcome_of_curve(*losses, TOTAL)
    if used is None:
        assert found is recorded is None
        return
    assert found is not None
    steps = sorted(used)
    rule = OutcomeRule.MEAN if len(steps) > 1 else OutcomeRule.LAST
    mean = float(np.mean([loss_at(step) for step in steps]))
    assert found.loss == pytest.approx(mean, rel=1e-12)
    assert (found.step, found.first_step) == (round(np.mean(steps)), steps[0])
    assert found.rule is rule
    assert recorded is not None
    assert recorded.loss == pytest.approx(found.loss, rel=1e-12)
    assert (recorded.step, recorded.first_step, recorded.rule) == (found.step, steps[0], rule)


def test_bins_are_weighted_by_the_losses_in_them() -> None:
    steps, losses = curve(range(10_000))
    found = History(max_bins=4_096)
    found.observe_many(steps, losses)
    assert found.bins().count.max() > 1
    end = outcome_of(found, 10_000)
    assert end is not None
    assert end.loss == pytest.approx(losses[9_800:].mean(), rel=1e-12)


def test_the_end_of_a_short_run_is_its_last_step() -> None:
    assert outcome_of(history(*curve(range(10))), 10) == Outcome(loss_at(9), 9, 9, OutcomeRule.LAST)


def test_there_was_room_for_another_validation() -> None:
    sparse = history(*curve(range(100, 901, 100)))
    assert outcome_of(sparse, 1_000) == Outcome(loss_at(900), 900, 900, OutcomeRule.LAST)
    assert outcome_of(sparse, 1_010) is None


def test_a_run_that_is_known_to_have_stopped_has_no_outcome() -> None:
    sparse = history(*curve(range(100, 901, 100)))
    assert outcome_of(sparse, TOTAL, steps_taken=950) is None
    assert outcome_of(sparse, TOTAL, steps_taken=1_000) == outcome_of(sparse, TOTAL)
    assert outcome_of(sparse, TOTAL) is not None


@pytest.mark.parametrize(
    ("rule", "text"),
    [(OutcomeRule.MEAN, "mean of the last 2%"), (OutcomeRule.LAST, "last value, at step 1,980")],
)
def test_the_rule_is_told_in_words(rule: OutcomeRule, text: str) -> None:
    assert str(Outcome(1.5, 1_980, 1_960, rule)) == text
    assert f"{1 - END_SHARE:.0%}" == "2%"


def test_every_part_of_the_library_reports_the_same_outcome(tmp_path: Path) -> None:
    """20 validations in 1,000 steps: the last one, not the mean of the last three."""
    steps, losses = curve(range(50, 1_001, 50))
    plan = LRSchedule.cosine(TOTAL, 1e-3)
    log, store, told = tmp_path / "log.csv", tmp_path / "runs.db", tmp_path / "replay.json"
    rows = zip(steps.tolist(), losses.tolist(), plan.lr(steps).tolist(), strict=True)
    log.write_text("step,val_loss,lr\n" + "".join(f"{s},{v!r},{r!r}\n" for s, v, r in rows))
    for words in (
        ("replay", log, "--total-steps", TOTAL, "--json", told),
        ("runs", "import", log, "--total-steps", TOTAL, "--project", "small", "--store", store),
    ):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        assert done.value.code == 0
    (kept,) = RunStore(store).runs()
    back = look_back(history(steps, losses), plan)
    assert back.outcome is not None
    assert str(back.outcome) == "last value, at step 1,000"
    assert kept.state == "finished"
    outcomes = {
        "replay": json.loads(told.read_text())["outcome"],
        "import": kept.outcome,
        "look back": back.outcome.loss,
        "panel": shown(history(steps, losses), TOTAL, TOTAL),
    }
    assert outcomes == dict.fromkeys(outcomes, losses[-1])
