"""What is claimed of the probe holds on what was recorded; the packaged rule comes from it."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from probe_claims import advised, forecast, predictions_of, swept
from probe_data import Recorded, recorded
from probe_rule import learn, rounded

from lossforecast.numerics.mixture import NO_CALIBRATION
from lossforecast.prior.probe_gaps import GapRule

pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")


@pytest.fixture(scope="module")
def runs() -> list[Recorded]:
    return recorded()


@pytest.fixture(scope="module")
def rules(runs: list[Recorded]) -> dict[str, GapRule]:
    """The packaged rules that have not seen a task."""
    return {task: GapRule.packaged(without=task) for task in sorted({run.task for run in runs})}


def test_there_are_enough_runs_of_enough_kinds(runs: list[Recorded]) -> None:
    assert sum(len(run.pairs) for run in runs) >= 60
    assert len({run.task for run in runs}) >= 5
    assert len({run.optimizer for run in runs}) >= 3
    assert all(len({run.rate for run in runs if run.task == each.task}) >= 3 for each in runs)


@pytest.mark.slow
def test_the_packaged_rules_are_what_is_learnt(
    runs: list[Recorded], rules: dict[str, GapRule]
) -> None:
    def same(one: GapRule, other: GapRule) -> bool:
        plain = [
            rounded(asdict(replace(each, calibration=NO_CALIBRATION))) for each in (one, other)
        ]
        return bool(plain[0] == plain[1])

    assert same(learn(runs), GapRule.packaged())
    for task in ("language", "diffusion"):
        assert same(learn([run for run in runs if run.task != task]), rules[task])


def test_drops_of_tasks_not_seen_are_told(runs: list[Recorded], rules: dict[str, GapRule]) -> None:
    predicted = predictions_of(runs, rules)
    assert len(predicted) == sum(len(run.pairs) for run in runs)
    assert np.median([each.error for each in predicted]) <= 0.15
    assert 0.75 <= np.mean([each.held for each in predicted]) <= 0.85


def test_the_error_of_final_losses_is_halved(
    runs: list[Recorded], rules: dict[str, GapRule]
) -> None:
    blind = [abs(forecast(run, None, 0.5).error) for run in runs]
    predicted = [abs(forecast(run, rules[run.task], 0.5).error) for run in runs]
    assert np.median(predicted) <= np.median(blind) / 2


@pytest.mark.parametrize("decay", ["early", "short"])
def test_advice_to_anneal_now_is_sharper(
    runs: list[Recorded], rules: dict[str, GapRule], decay: str
) -> None:
    """What it would gain: a fraction of the error, a third of the width, and as well covered."""
    blind = [advised(run, None, decay) for run in runs]
    predicted = [advised(run, rules[run.task], decay) for run in runs]
    assert np.median([each.error for each in predicted]) < 0.25
    assert np.median([each.error for each in predicted]) < np.median([e.error for e in blind]) / 4
    assert np.median([each.width for each in predicted]) < np.median([e.width for e in blind]) / 3
    assert np.mean([each.held for each in predicted]) >= 0.8


@pytest.mark.slow
def test_stopping_in_sweeps_is_sharper(runs: list[Recorded], rules: dict[str, GapRule]) -> None:
    """One sweep of ten runs: fewer steps used, and the best run kept."""
    sweep = [run for run in runs if run.task == "language"]
    for without, predicted in zip(
        swept(sweep, rules, probe=False), swept(sweep, rules, probe=True), strict=True
    ):
        assert predicted.compute_used < without.compute_used - 0.1
        assert predicted.regret == without.regret == 0
