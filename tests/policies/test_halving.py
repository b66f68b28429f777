"""Halving by forecast: rungs, who stays at them, and which runs are alike."""

import math

import pytest

from lossforecast import ConfigurationError, LRSchedule
from lossforecast.policies import Halving, Ladder, alike, halving_of


def climbed(losses: dict[str, float], share: float, group: str = "adamw") -> Ladder[str]:
    """A ladder on which the runs have reached a share of their plans."""
    ladder = Ladder[str](Halving())
    for run, loss in losses.items():
        ladder.record(run, group, share, loss)
    return ladder


def staying(ladder: Ladder[str], runs: str) -> str:
    return "".join(run for run in runs if ladder.behind(run) is None)


def test_rungs_are_spaced_by_the_share_that_stays() -> None:
    assert Halving().rungs == (0.02, 0.06, 0.18, 0.54)
    assert Halving(keep=0.5, first=0.25).rungs == (0.25, 0.5)
    assert Halving(keep=0.1, first=0.2).rungs == (0.2,)
    assert [Halving().passed(share) for share in (0, 0.019, 0.02, 0.5, 3 * 0.18, 1)] == [
        0, 0, 1, 3, 4, 4,
    ]  # fmt: skip


def test_a_third_stays_and_never_nobody() -> None:
    assert [Halving().places(runs) for runs in (1, 2, 3, 4, 9, 10)] == [1, 1, 1, 2, 3, 4]


def test_the_lowest_forecasts_stay() -> None:
    ladder = climbed({"a": 2.5, "b": 2.1, "c": 2.4, "d": 2.2, "e": 2.3, "f": 2.6}, 0.02)
    assert staying(ladder, "abcdef") == "bd"
    why = ladder.behind("a")
    assert why is not None
    assert why.startswith("behind 4 of 5 similar runs at 2% of the plan, where the best 2 may stay")
    assert why.endswith("heading for 2.5, the best of them for 2.1")


def test_level_runs_stay_together() -> None:
    assert staying(climbed({"a": 2.0, "b": 2.0, "c": 2.0}, 0.02), "abc") == "abc"


def test_the_first_at_a_rung_stays_until_better_ones_arrive() -> None:
    ladder = climbed({"a": 2.5}, 0.02)
    assert ladder.behind("a") is None
    ladder.record("b", "adamw", 0.03, 2.1)
    assert ladder.behind("a") is not None
    assert ladder.behind("b") is None


def test_a_run_is_judged_at_its_latest_rung_alone() -> None:
    ladder = climbed({"a": 2.5}, 0.02)
    ladder.record("a", "adamw", 0.06, 2.4)
    ladder.record("b", "adamw", 0.02, 2.1)
    assert ladder.behind("a") is None, "nobody else has come so far"
    ladder.record("b", "adamw", 0.06, 2.45)
    assert staying(ladder, "ab") == "a"


def test_the_first_forecast_at_or_beyond_a_rung_counts() -> None:
    ladder = Ladder[str](Halving())
    assert not ladder.wants("a", 0.01)
    ladder.record("a", "adamw", 0.01, 9.0)
    assert ladder.wants("a", 0.02)
    ladder.record("a", "adamw", 0.02, 2.0)
    assert not ladder.wants("a", 0.05)
    ladder.record("a", "adamw", 0.05, 9.0)
    ladder.record("b", "adamw", 0.05, 3.0)
    assert staying(ladder, "ab") == "a"


def test_without_a_forecast_a_run_stays_and_does_not_count() -> None:
    ladder = climbed({"a": math.nan, "b": 2.1, "c": 2.2}, 0.02)
    assert staying(ladder, "abc") == "ab"
    ladder.record("a", "adamw", 0.04, 2.3)
    assert staying(ladder, "abc") == "b"


def test_a_run_that_breaks_is_behind_all_others() -> None:
    assert staying(climbed({"a": math.inf, "b": 9.0}, 0.02), "ab") == "b"


def test_only_alike_runs_are_compared() -> None:
    ladder = climbed({"a": 2.5, "b": 2.1}, 0.02)
    ladder.record("c", "sgd", 0.02, 3.0)
    assert staying(ladder, "abc") == "bc"


def test_alike_runs_have_one_optimizer_and_rates_within_an_octave() -> None:
    def label(rate: float, kind: str = "adamw") -> str:
        return alike(kind, LRSchedule.cosine(1_000, rate))

    assert label(1e-3) == label(1.2e-3) == alike("adamw", LRSchedule.wsd(500, 0.9e-3))
    assert len({label(1e-3), label(2e-3), label(4e-3), label(1e-3, "sgd")}) == 4
    assert alike("sgd", LRSchedule.constant(1_000, 0.0)) == "sgd"


def test_a_rule_is_named_or_given() -> None:
    assert halving_of("dominated") is None
    assert halving_of("halving") == Halving()
    assert halving_of(Halving(first=0.06)) == Halving(first=0.06)
    with pytest.raises(ConfigurationError, match="rule is 'asha'; it must be"):
        halving_of("asha")


@pytest.mark.parametrize("value", [0, 1, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("name", ["keep", "first"])
def test_shares_are_between_0_and_1(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is .*between 0 and 1"):
        Halving(**{name: value})
