"""The published claims about the probe hold on the recorded runs, as does the packaged rule."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from probe_claims import forecast, predict_drops, predict_gain, score_sweeps
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
    """The packaged rules, each learned without one task."""
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


def test_drops_of_new_tasks_are_predicted(runs: list[Recorded], rules: dict[str, GapRule]) -> None:
    drops = predict_drops(runs, rules)
    assert len(drops) == sum(len(run.pairs) for run in runs)
    assert np.median([drop.error for drop in drops]) <= 0.15
    assert 0.75 <= np.mean([drop.held for drop in drops]) <= 0.85


def test_the_error_of_final_losses_is_halved(
    runs: list[Recorded], rules: dict[str, GapRule]
) -> None:
    without = [abs(forecast(run, None, 0.5).error) for run in runs]
    probed = [abs(forecast(run, rules[run.task], 0.5).error) for run in runs]
    assert np.median(probed) <= np.median(without) / 2


@pytest.mark.parametrize("decay", ["early", "short"])
def test_advice_to_anneal_now_is_sharper(
    runs: list[Recorded], rules: dict[str, GapRule], decay: str
) -> None:
    """The gain has a quarter of the error and a third of the width, and is still covered."""
    without = [predict_gain(run, None, decay) for run in runs]
    probed = [predict_gain(run, rules[run.task], decay) for run in runs]
    error = np.median([gain.error for gain in probed])
    assert error < 0.25
    assert error < np.median([gain.error for gain in without]) / 4
    width = np.median([gain.width for gain in probed])
    assert width < np.median([gain.width for gain in without]) / 3
    assert np.mean([gain.held for gain in probed]) >= 0.8


@pytest.mark.slow
def test_stopping_in_sweeps_is_sharper(runs: list[Recorded], rules: dict[str, GapRule]) -> None:
    """One sweep of ten runs: fewer steps used, most of all in parallel, and the best run kept."""
    sweep = [run for run in runs if run.task == "language"]
    scores = (score_sweeps(sweep, rules, probe=probe) for probe in (False, True))
    for without, probed in zip(*scores, strict=True):
        saved = without.compute_used - probed.compute_used
        assert saved > (0.1 if without.arrival == "parallel" else 0.05)
        assert probed.regret == without.regret == 0
