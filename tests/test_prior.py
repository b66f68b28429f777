import json

import pytest

from lossforecast import ConfigurationError, Prior, RunInfo
from lossforecast.laws import LAWS


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


def test_an_unknown_optimizer_means_a_wide_prior_never_an_error() -> None:
    known = Prior().for_run(RunInfo(optimizer="AdamW"), 1e-3, tuple(LAWS))
    unknown = Prior().for_run(RunInfo(optimizer="mine 2.0"), 1e-3, tuple(LAWS))
    odd_rate = Prior().for_run(RunInfo(optimizer="AdamW"), 0.5, tuple(LAWS))
    assert unknown == odd_rate
    assert max(c.std for c in unknown.drops) > min(c.std for c in known.drops)
    assert unknown.walks[0][0] > known.walks[0][0]


def test_the_drop_grows_with_the_peak_rate() -> None:
    drops = [
        Prior().for_run(RunInfo(optimizer="adamw"), peak, tuple(LAWS)).drops[0].mean
        for peak in (1e-4, 3e-4, 1e-3, 3e-3)
    ]
    assert drops == sorted(drops)


def test_weights_are_positive_and_laws_can_be_chosen() -> None:
    beliefs = Prior().for_run(RunInfo(), 1e-3, ("annealing", "power"))
    assert {m.law for m in beliefs.members} == {"annealing", "power"}
    assert sum(w for _, w in beliefs.alphas) == pytest.approx(1.0)
    assert sum(w for _, w in beliefs.walks) == pytest.approx(1.0)
    assert sum(c.weight for c in beliefs.drops) == pytest.approx(1.0)


def test_round_trip_through_plain_values() -> None:
    prior = Prior(drop=0.1, alpha=(0.4, 0.1))
    assert Prior.from_dict(json.loads(json.dumps(prior.to_dict()))) == prior
    with pytest.raises(ConfigurationError, match="not a saved prior"):
        Prior.from_dict({"members": [], "colour": 3})
