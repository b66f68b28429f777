"""The grid posterior against an obvious computation of the same model."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from lossforecast import LRSchedule, Prior, RunInfo
from lossforecast.evidence import Evidence
from lossforecast.fit import Mixture, fit
from lossforecast.laws import LAWS
from lossforecast.relaxation import arrived

TOTAL, NOW = 1_000, 600
SCHEDULE = LRSchedule.cosine(TOTAL, 1e-3, warmup=50)


def some_evidence(n: int = 12) -> Evidence:
    steps = np.linspace(80, NOW, n).astype(np.int64)
    rng = np.random.default_rng(0)
    loss = 2.5 + 3 * steps**-0.5 + 0.01 * rng.normal(size=n)
    return Evidence(steps, loss, np.full(n, 1e-4), 0.01)


def test_posterior_equals_the_joint_gaussian_of_every_node() -> None:
    """Each node's prediction and weight from the joint normal of data and target, no shortcuts."""
    evidence = some_evidence()
    beliefs = Prior().for_run(RunInfo(optimizer="adamw"), 1e-3, tuple(LAWS))
    posterior = fit(evidence, SCHEDULE, NOW, beliefs)
    target = np.array([TOTAL])
    mixture = posterior.predict(SCHEDULE, target)

    unit, level = posterior.unit, posterior.level
    at = np.append(evidence.step, TOTAL)
    s1 = SCHEDULE.s1(at)
    whole_s1 = float(SCHEDULE.s1(TOTAL))
    clock = whole_s1 / s1[0] - whole_s1 / s1
    y = (evidence.loss - level) / unit
    expected: list[tuple[float, float, float]] = []
    for size, walk_weight in beliefs.walks:
        for component in beliefs.drops:
            for member in beliefs.members:
                for alpha, alpha_weight in beliefs.alphas:
                    if member.relaxation is None:
                        power = (at / NOW) ** -alpha
                        drop = np.zeros(at.size)
                    else:
                        power = (s1 / float(SCHEDULE.s1(NOW))) ** -alpha
                        drop = arrived(
                            SCHEDULE, at, (member.relaxation,), total_steps=TOTAL, total_s1=whole_s1
                        )[0]
                    design = np.stack([np.ones(at.size), power, drop], axis=1)
                    spread = np.diag([4.0, beliefs.reducible**2, component.std**2])
                    centre = design @ np.array([0.0, 0.0, -component.mean])
                    noise = np.append(evidence.variance / unit**2 + 1e-14, 0.0)
                    joint = design @ spread @ design.T
                    joint += size**2 * np.minimum(clock[:, None], clock) + np.diag(noise)
                    gain = joint[-1, :-1] @ np.linalg.inv(joint[:-1, :-1])
                    mean = centre[-1] + gain @ (y - centre[:-1])
                    variance = joint[-1, -1] - gain @ joint[:-1, -1]
                    score = multivariate_normal.logpdf(y, centre[:-1], joint[:-1, :-1])
                    # the share of the node's posterior with positive parameters
                    inner = np.linalg.inv(joint[:-1, :-1])
                    cross = spread @ design[:-1].T
                    beta = np.array([0, 0, -component.mean]) + cross @ inner @ (y - centre[:-1])
                    error = np.sqrt(np.diag(spread - cross @ inner @ cross.T))
                    score += norm.logcdf(beta[1] / error[1]) + norm.logcdf(-beta[2] / error[2])
                    weight = walk_weight * component.weight * member.weight * alpha_weight
                    expected.append((score + np.log(weight), mean, variance))
    scores, means, variances = np.array(expected).T
    weights = np.exp(scores - logsumexp(scores))
    mean = level + unit * (weights @ means)
    second = weights @ (variances + (means - weights @ means) ** 2)
    got_mean, got_std = mixture.moments()
    assert got_mean[0] == pytest.approx(mean, rel=1e-5)
    assert got_std[0] == pytest.approx(unit * np.sqrt(second), rel=1e-3)
    lawful = {
        law: sum(w for w, m in zip(weights, _members(beliefs), strict=True) if m == law)
        for law in LAWS
    }
    for law, weight in lawful.items():
        mine = [j for j, m in enumerate(beliefs.members) if m.law == law]
        found = posterior.weight[np.isin(posterior.member, mine)].sum()
        assert found == pytest.approx(weight, abs=0.01)


def _members(beliefs) -> list[str]:  # type: ignore[no-untyped-def]
    one = [m.law for m in beliefs.members for _ in beliefs.alphas]
    return one * (len(beliefs.walks) * len(beliefs.drops))


def test_prediction_of_the_past_follows_the_data_and_of_the_future_widens() -> None:
    evidence = some_evidence(60)
    beliefs = Prior().for_run(RunInfo(optimizer="adamw"), 1e-3, tuple(LAWS))
    posterior = fit(evidence, SCHEDULE, NOW, beliefs)
    steps = np.array([NOW, 700, 800, 900, TOTAL])
    mean, std = posterior.predict(SCHEDULE, steps).moments()
    assert abs(mean[0] - (2.5 + 3 * NOW**-0.5)) < 3 * std[0]
    assert (np.diff(std) > 0).all()


def test_a_measured_drop_sharpens_the_forecast_and_moves_it_there() -> None:
    evidence = some_evidence(60)
    plan = LRSchedule.wsd(TOTAL, 1e-3, warmup=50)
    beliefs = Prior().for_run(RunInfo(), 1e-3, tuple(LAWS))
    blind = fit(evidence, plan, NOW, beliefs)
    told = fit(evidence, plan, NOW, beliefs, measured_drop=(0.1, 0.01))
    end = np.array([TOTAL])
    assert told.predict(plan, end).moments()[1] < blind.predict(plan, end).moments()[1]
    whole = told.drop(LRSchedule.constant(NOW, 1e-3).with_decay(start=NOW, steps=10**6), NOW, 10**6)
    mean, std = whole.moments()
    assert abs(mean[0] - 0.1) < 0.03
    assert std[0] < 0.03


def test_a_mixture_has_the_moments_of_its_draws() -> None:
    mixture = Mixture(np.array([0.3, 0.7]), np.array([[0.0], [4.0]]), np.array([[1.0], [2.0]]))
    mean, std = mixture.moments()
    assert mean[0] == pytest.approx(2.8)
    assert std[0] ** 2 == pytest.approx(0.3 * 1 + 0.7 * 4 + 0.3 * 2.8**2 + 0.7 * 1.2**2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_losses_gives_a_wide_finite_answer(n: int) -> None:
    evidence = some_evidence(12)
    few = Evidence(evidence.step[:n], evidence.loss[:n], evidence.variance[:n], 0.01)
    beliefs = Prior().for_run(RunInfo(), 1e-3, tuple(LAWS))
    mean, std = fit(few, SCHEDULE, NOW, beliefs).predict(SCHEDULE, np.array([TOTAL])).moments()
    assert np.isfinite(mean[0])
    assert std[0] > 0.05 * mean[0]
