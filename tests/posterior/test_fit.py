"""The grid posterior against an obvious computation of the same model."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from lossforecast import LRSchedule, Prior, RunInfo
from lossforecast.laws.relaxation import LAWS, arrived
from lossforecast.numerics.gaussian import inverse
from lossforecast.numerics.mixture import Mixture
from lossforecast.posterior.design_matrix import columns_at, drop_scales
from lossforecast.posterior.fit import fit
from lossforecast.prior.probe_gaps import MeasuredDrop
from lossforecast.runs.evidence import Evidence

TOTAL, NOW = 1_000, 600
SCHEDULE = LRSchedule.cosine(TOTAL, 1e-3, warmup=50)
PRIOR = replace(Prior(), calibration={})
VAL = RunInfo("val", "adamw", task="language modelling")


def some_evidence(n: int = 12, sign: float = 1.0) -> Evidence:
    steps = np.linspace(80, NOW, n).astype(np.int64)
    rng = np.random.default_rng(0)
    loss = 2.5 + 3 * steps**-0.5 + 0.01 * rng.normal(size=n)
    return Evidence(
        steps, loss - (sign < 0) * 3.0, np.full(n, 1e-4), 0.01, n, initial=float(loss[0]) * 1.5
    )


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["logarithm", "linear"])
@pytest.mark.parametrize(
    ("optimizer", "events"),
    [("adamw", []), (None, []), ("adamw", [300]), (None, [100, 420, 700])],
)
def test_posterior_equals_the_joint_gaussian_of_every_node(
    optimizer: str | None, events: list[int], sign: float
) -> None:
    """Each node's prediction and weight from the joint normal of data and target, no shortcuts."""
    evidence = replace(some_evidence(sign=sign), events=np.array(events, np.int64))
    beliefs = PRIOR.for_run(RunInfo("val", optimizer), SCHEDULE, tuple(LAWS))
    beliefs = replace(beliefs, may_be_unsettled=False)
    posterior = fit(evidence, SCHEDULE, NOW, beliefs)
    mixture = posterior.predict(SCHEDULE, np.array([TOTAL]))

    level = float(np.median(evidence.loss[-3:]))
    if sign > 0:
        z, variance = np.log(evidence.loss / level), evidence.variance / evidence.loss**2
        unit = level
    else:
        unit = posterior.transform.unit
        z, variance = (evidence.loss - level) / unit, evidence.variance / unit**2
    noise = evidence.noise / unit
    first = evidence.initial
    level_z = z.copy()  # as if the events had let nothing jump
    z_first = np.log(first / level) if sign > 0 else (first - level) / unit
    for start in (int((evidence.step < event).sum()) for event in events if event < NOW):
        before, after = (np.median(each) for each in (level_z[:start][-3:], level_z[start:][:3]))
        level_z[:start] += after - before
        z_first += after - before
    fall = max(z_first - np.median(level_z[-3:]), 0.0)
    n_jumps = np.array([sum(event <= step for event in events) for step in [*evidence.step, TOTAL]])
    at = np.append(evidence.step, TOTAL)
    s1 = SCHEDULE.s1(at)
    whole_s1 = float(SCHEDULE.s1(TOTAL))
    rate = SCHEDULE.lr(at) / SCHEDULE.peak
    at_end, _ = columns_at(beliefs, SCHEDULE, SCHEDULE, NOW, np.array([TOTAL]))
    scales = drop_scales(beliefs, SCHEDULE, at_end[0])
    x = np.log(s1[6:12])
    slope = max(-np.polyfit(x, level_z[6:], 1)[0], 0.0)
    regimes: list[list[tuple[float, float, float, str]]] = []
    of_noise: list[float] = []
    for regime in beliefs.regimes:
        centre_alpha, spread_alpha = regime.alpha
        alphas = np.array(beliefs.alphas)
        alpha_weights = (1 + ((alphas - centre_alpha) / spread_alpha) ** 2 / 4) ** -2.5
        alpha_weights *= np.gradient(alphas)
        alpha_weights /= alpha_weights.sum()
        clock = ((whole_s1 / s1[0]) ** 0.3 - (whole_s1 / s1) ** 0.3) / 0.3
        clock += regime.lr_travel * (rate[0] - rate)
        nodes: list[tuple[float, float, float, str]] = []
        shares = np.array([component.weight for component in regime.drops])
        noise_given = [
            norm.pdf(np.log(noise / typical) / each) / each
            for typical, each in (d.noises or (np.nan, np.nan) for d in regime.drops)
        ]
        shares = shares / shares.sum() * noise_given
        of_noise.append(shares.sum())
        for size, walk_weight in regime.walks:
            for component, share in zip(regime.drops, shares / shares.sum(), strict=True):
                size_of_drop, std = component.moments(slope, noise, fall)
                for member, scale in zip(beliefs.members, scales, strict=True):
                    for alpha, alpha_weight in zip(alphas, alpha_weights, strict=True):
                        if member.relaxation is None:
                            power, drop = (at / NOW) ** -alpha, np.zeros(at.size)
                        else:
                            power = (s1 / float(SCHEDULE.s1(NOW))) ** -alpha
                            drop = arrived(
                                SCHEDULE,
                                at,
                                (member.relaxation,),
                                total_steps=TOTAL,
                                total_s1=whole_s1,
                            )[0]
                        design = np.stack([np.ones(at.size), power, drop], axis=1)
                        reducible = regime.reducible**2 + (2 * slope) ** 2
                        spread = np.diag([4.0, reducible, (std * scale) ** 2])
                        believed = np.array([0.0, 0.0, -size_of_drop * scale])
                        centre = design @ believed
                        joint = design @ spread @ design.T
                        joint += size**2 * np.minimum(clock[:, None], clock)
                        joint += 0.3**2 * np.minimum(n_jumps[:, None], n_jumps)
                        joint += np.diag(np.append(variance + 1e-14, 0.0))
                        inner = np.linalg.inv(joint[:-1, :-1])
                        gain = joint[-1, :-1] @ inner
                        mean = centre[-1] + gain @ (z - centre[:-1])
                        score = multivariate_normal.logpdf(z, centre[:-1], joint[:-1, :-1])
                        # the share of the node's posterior with positive parameters
                        cross = spread @ design[:-1].T
                        beta = believed + cross @ inner @ (z - centre[:-1])
                        error = np.sqrt(np.diag(spread - cross @ inner @ cross.T))
                        score += norm.logcdf(beta[1] / error[1])
                        score += norm.logcdf(-beta[2] / error[2]) - norm.logcdf(size_of_drop / std)
                        weight = walk_weight * share * member.weight
                        score += np.log(weight * alpha_weight)
                        nodes.append(
                            (score, mean, joint[-1, -1] - gain @ joint[:-1, -1], member.law)
                        )
        regimes.append(nodes)
    weights = []
    for regime, given_noise, nodes in zip(beliefs.regimes, of_noise, regimes, strict=True):
        scores = np.array([node[0] for node in nodes])
        evidence_of_regime = logsumexp(scores)
        weights.append(
            np.log(regime.weight * given_noise)
            + scores
            - evidence_of_regime
            + beliefs.temper * evidence_of_regime
        )
    flat = [node for nodes in regimes for node in nodes]
    weight = np.exp(np.concatenate(weights) - logsumexp(np.concatenate(weights)))
    means, variances = np.array([node[1:3] for node in flat]).T
    if sign > 0:
        each = level * np.exp(means + variances / 2)
        second = weight @ (each**2 * np.exp(variances))
    else:
        each = level + unit * means
        second = weight @ (each**2 + unit**2 * variances)
    got_mean, got_std = mixture.moments()
    assert got_mean[0] == pytest.approx(weight @ each, abs=1e-2 * got_std[0])
    assert got_std[0] == pytest.approx(np.sqrt(second - (weight @ each) ** 2), rel=1e-2)
    for law in LAWS:
        mine = [j for j, member in enumerate(beliefs.members) if member.law == law]
        found = posterior.weight[np.isin(posterior.nodes.member, mine)].sum()
        expected = sum(w for w, node in zip(weight, flat, strict=True) if node[3] == law)
        assert found == pytest.approx(expected, abs=0.01)


def test_a_jumping_validation_loss_is_believed_to_drop_further() -> None:
    calm, jumping = some_evidence(40), replace(some_evidence(40), noise=0.06)
    plan = LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.1, warmup=50)
    prior = replace(PRIOR, lawful_share=(0.5, 1e-6))  # these losses are very lawful
    drops = [
        fit(each, plan, NOW, prior.for_run(RunInfo("val", "adamw"), plan, tuple(LAWS))).full_drop()
        for each in (replace(calm, noise=0.002), jumping)
    ]
    assert drops[1][0] > 1.5 * drops[0][0]
    assert drops[1][1] > 2 * drops[0][1]
    assert drops[1][2] < drops[0][2]  # the weight of the lawful regime


def test_a_rise_is_added_to_the_spread() -> None:
    beliefs = PRIOR.for_run(VAL, SCHEDULE, tuple(LAWS))
    at = np.array([TOTAL])
    flat, risen = (
        fit(some_evidence(sign=-1), SCHEDULE, NOW, beliefs, rise=rise).predict(SCHEDULE, at)
        for rise in (0.0, 0.3)
    )
    assert risen.moments()[1] ** 2 - flat.moments()[1] ** 2 == pytest.approx(0.3**2)
    assert risen.moments()[0] == pytest.approx(flat.moments()[0])


def test_the_inverse_of_small_matrices_is_that_of_lapack() -> None:
    factors = np.random.default_rng(0).normal(size=(2, 50, 3, 3))
    matrices = factors @ factors.swapaxes(-1, -2) + 1e-3 * np.eye(3)
    found, log_det = inverse(matrices)
    np.testing.assert_allclose(found, np.linalg.inv(matrices), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrices).logabsdet, rtol=1e-9)
    flat = np.ones((1, 3, 3))  # of no rank to speak of
    assert np.isfinite(inverse(flat)[0]).all()


def test_prediction_of_the_past_follows_the_data_and_of_the_future_widens() -> None:
    evidence = some_evidence(60)
    beliefs = PRIOR.for_run(VAL, SCHEDULE, tuple(LAWS))
    posterior = fit(evidence, SCHEDULE, NOW, beliefs)
    steps = np.array([NOW, 700, 800, 900, TOTAL])
    mean, std = posterior.predict(SCHEDULE, steps).moments()
    assert abs(mean[0] - (2.5 + 3 * NOW**-0.5)) < 3 * std[0]
    assert (np.diff(std) > 0).all()


def test_a_measured_drop_sharpens_the_forecast_and_moves_it_there() -> None:
    evidence = some_evidence(60)
    plan = LRSchedule.wsd(TOTAL, 1e-3, warmup=50)
    beliefs = PRIOR.for_run(RunInfo(), plan, ("annealing", "memoryless"))
    blind = fit(evidence, plan, NOW, beliefs)
    told = fit(evidence, plan, NOW, beliefs, measured_drop=MeasuredDrop(0.1, 0.01, 2.6))
    end = np.array([TOTAL])
    assert told.predict(plan, end).moments()[1] < blind.predict(plan, end).moments()[1]
    mean, std = told.ahead(plan, TOTAL)[1].moments()
    assert abs(mean[0] - 0.1) < 0.015
    assert std[0] < 0.015


def test_a_mixture_has_the_moments_of_its_draws() -> None:
    mixture = Mixture(np.array([0.3, 0.7]), np.array([[0.0], [4.0]]), np.array([[1.0], [2.0]]))
    mean, std = mixture.moments()
    assert mean[0] == pytest.approx(2.8)
    assert std[0] ** 2 == pytest.approx(0.3 * 1 + 0.7 * 4 + 0.3 * 2.8**2 + 0.7 * 1.2**2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_losses_gives_a_wide_finite_answer(n: int) -> None:
    evidence = some_evidence(12)
    few = Evidence(evidence.step[:n], evidence.loss[:n], evidence.variance[:n], 0.01, n)
    beliefs = PRIOR.for_run(RunInfo(), SCHEDULE, tuple(LAWS))
    mean, std = fit(few, SCHEDULE, NOW, beliefs).predict(SCHEDULE, np.array([TOTAL])).moments()
    assert np.isfinite(mean[0])
    assert std[0] > 0.05 * mean[0]
