import json
from dataclasses import replace

import pytest

from lossforecast import ConfigurationError, LRSchedule, Prior, RunInfo
from lossforecast.laws.relaxation import LAWS
from lossforecast.prior.beliefs import Beliefs
from lossforecast.prior.drops import DropComponent, DropRule


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("AdamW", "adamw"),
        ("adamw b1=0.9 b2=0.95", "adamw"),
        ("AdamW (paper)", "adamw"),
        (None, ""),
        ("(x)", ""),
    ],
)
def test_strings_are_compared_by_their_first_word_in_lower_case(
    given: str | None, word: str
) -> None:
    assert RunInfo(optimizer=given).optimizer_word == word


def beliefs(optimizer: str | None, peak: float = 1e-3, metric: str = "train") -> Beliefs:
    plan = LRSchedule.wsd(10_000, peak)
    run = RunInfo(metric, optimizer, task="language modelling")
    return Prior().for_run(run, plan, tuple(LAWS))


def test_an_unknown_optimizer_means_a_wide_prior_never_an_error() -> None:
    known, unknown, odd_rate = beliefs("AdamW"), beliefs("mine 2.0"), beliefs("AdamW", peak=0.5)
    assert unknown == odd_rate
    assert unknown.regimes[0].drops[0].spread > known.regimes[0].drops[0].spread
    loose = known.regimes[1]
    assert loose.walks[0][0] > known.regimes[0].walks[0][0]


@pytest.mark.parametrize(
    ("task", "n_params", "known"),
    [
        ("language modelling", None, True),
        ("language modelling", 3e8, True),
        ("language modelling", 1e6, False),
        ("image classification", None, False),
        (None, None, False),
        (None, 3e8, False),
    ],
)
def test_the_rule_is_for_large_language_models(
    task: str | None, n_params: float | None, known: bool
) -> None:
    run = RunInfo(optimizer="adamw", task=task, n_params=n_params)
    assert Prior().rule_applies(run, LRSchedule.wsd(10_000, 1e-3)) is known


@pytest.mark.parametrize("metric", ["train", "val"])
@pytest.mark.parametrize("optimizer", ["adamw", None])
def test_some_lawful_runs_may_drop_otherwise(metric: str, optimizer: str | None) -> None:
    usual, *foreign = beliefs(optimizer, metric=metric).regimes[0].drops
    assert usual.weight + sum(d.weight for d in foreign) == pytest.approx(1.0)
    assert 0 < sum(d.weight for d in foreign) < 0.5
    noise = 0.02
    for component in foreign:
        assert component.moments(0.0, noise, 0.1)[0] > usual.moments(0.0, noise, 0.1)[0]
        if metric == "val":
            assert component.log_likelihood(noise) > usual.log_likelihood(noise)
            assert component.log_likelihood(0.001) < usual.log_likelihood(0.001)


def test_the_drop_grows_with_the_peak_rate_and_the_length_of_the_decay() -> None:
    drops = [beliefs("adamw", peak).regimes[0].drops[0].size for peak in (1e-4, 3e-4, 1e-3, 3e-3)]
    assert drops == sorted(drops)
    rule = Prior().known
    assert rule.component(1e-3, 0.9).size > rule.component(1e-3, 0.1).size
    assert rule.component(1e-3, 1.0).size == rule.size


def test_only_validation_losses_say_something_by_their_jitter() -> None:
    assert any(d.jitters for d in beliefs(None, metric="val").regimes[1].drops)
    assert not any(d.jitters for d in beliefs(None, metric="train").regimes[1].drops)


def test_a_component_follows_slope_and_noise() -> None:
    component = DropComponent(1.0, 0.01, 0.5, slopes=2.0, jitters=0.3, falls=0.2)
    assert component.moments(0.0, 0.0, 0.0) == pytest.approx((0.01, 0.005))
    assert component.moments(0.1, 0.0, 0.0) == pytest.approx((0.21, 0.105))
    assert component.moments(0.0, 0.01, 0.0) == pytest.approx((0.31, 0.155))
    assert component.moments(0.0, 0.0, 0.5) == pytest.approx((0.11, 0.055))


def test_weights_are_positive_and_laws_can_be_chosen() -> None:
    plan = LRSchedule.wsd(10_000, 1e-3)
    chosen = Prior().for_run(RunInfo(), plan, ("annealing", "power"))
    assert {m.law for m in chosen.members} == {"annealing", "power"}
    assert sum(r.weight for r in chosen.regimes) == pytest.approx(1.0)
    for regime in chosen.regimes:
        assert sum(w for _, w in regime.walks) == pytest.approx(1.0)
        assert all(d.weight > 0 for d in regime.drops)


def test_round_trip_through_plain_values() -> None:
    prior = Prior(known=DropRule(0.1, 0.4, 0.2, 0.3), temper=0.5)
    assert Prior.from_dict(json.loads(json.dumps(prior.to_dict()))) == prior
    with pytest.raises(ConfigurationError, match="not a saved prior"):
        Prior.from_dict({"members": [], "colour": 3})


def test_a_fold_nothing_was_learnt_from_leaves_the_packaged_prior() -> None:
    assert replace(Prior.without("never seen"), provenance={}) == replace(Prior(), provenance={})
    assert Prior.without("lr-scheduling-convex").known != Prior().known


def test_the_packaged_table_says_where_it_comes_from() -> None:
    assert Prior().provenance["command"] == "lossforecast learn-prior --curves DIR"
    assert Prior().provenance["forecasts_replayed"] > 1_000


def test_priors_saved_before_kinds_were_known_are_read() -> None:
    """Their two calibrations hold where the rule applies, and elsewhere."""
    state = Prior().to_dict()
    drops = [state.pop("language_drops"), state.pop("other_drops")][0]
    known, unknown = [[0.1, 1.0, 1.5]], [[0.1, 1.0, 2.5]]
    old = {**state, "unknown_drops": drops, "calibration": [known, unknown]}
    read = Prior.from_dict(json.loads(json.dumps(old)))
    assert read.language_drops == read.other_drops == Prior().language_drops
    assert read.calibration["large language model val"] == ((0.1, 1.0, 1.5),)
    assert read.calibration["small model train"] == ((0.1, 1.0, 2.5),)


@pytest.mark.parametrize("damaged", [[], None, [1], {"other val": [[0.1]]}])
def test_a_damaged_calibration_is_refused(damaged: object) -> None:
    with pytest.raises(ConfigurationError, match="not a saved prior"):
        Prior.from_dict({**Prior().to_dict(), "calibration": damaged})


@pytest.mark.parametrize("damaged", [0, "", [], {}, 1])
def test_a_damaged_relaxation_is_refused(damaged: object) -> None:
    state = Prior().to_dict()
    state["members"][0]["relaxation"] = damaged
    with pytest.raises(ConfigurationError, match="not a saved prior"):
        Prior.from_dict(state)
