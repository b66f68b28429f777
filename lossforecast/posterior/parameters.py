"""The posterior of a law's parameters under the names of the papers."""

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.posterior.posterior import Posterior

__all__ = ["parameters_of"]

_TINY = 1e-300  # keeps divisions finite where every rate is 0


def parameters_of(posterior: Posterior) -> dict[str, dict[str, float]]:
    """For each law: its posterior weight and the posterior means of its parameters."""
    schedule, beliefs, nodes = posterior.schedule, posterior.beliefs, posterior.nodes
    now = max(posterior.now, 1)
    s1_now, s1_total = float(schedule.s1(now)), float(schedule.s1(schedule.total_steps))
    alphas = np.array(beliefs.alphas)[nodes.alpha]
    level, reducible, drops = _tangent(posterior)
    parameters: dict[str, dict[str, float]] = {}
    for law in dict.fromkeys(member.law for member in beliefs.members):
        members = [j for j, member in enumerate(beliefs.members) if member.law == law]
        own = np.isin(nodes.member, members)
        weight = posterior.weight[own]
        if weight.sum() == 0:
            parameters[law] = {"weight": 0.0}
            continue
        share = weight / weight.sum()
        clock = now if law == "power" else max(s1_now, _TINY)
        alpha = alphas[own]
        values = {
            "L0": level[own],
            "A": reducible[own] * clock**alpha,
            "alpha": alpha,
        }
        drop = drops[own] / max(schedule.peak, _TINY)  # B, per unit learning rate
        relaxations = [beliefs.members[j].relaxation for j in nodes.member[own]]
        lags = np.array([r.lag if r else 0.0 for r in relaxations])
        if law == "annealing":
            # C S2 is the drop, so B = C / (1 - lambda)
            lambdas = np.exp(-1 / (lags * schedule.total_steps))
            values |= {"C": drop * (1 - lambdas), "lambda": lambdas}
        elif law == "multi-power":
            gammas = np.array([r.gamma if r else 0.0 for r in relaxations])
            speed = max(schedule.peak, _TINY) ** gammas / (lags * max(s1_total, _TINY))
            betas = np.array([r.beta if r else 0.0 for r in relaxations])
            values |= {"B": drop, "C": speed, "beta": betas, "gamma": gammas}
        elif law == "memoryless":
            values |= {"B": drop}
        means = {name: float(share @ value) for name, value in values.items()}
        parameters[law] = {"weight": float(weight.sum()), **means}
    return parameters


def _tangent(posterior: Posterior) -> tuple[FloatArray, FloatArray, FloatArray]:
    """L0, ``A S1(now)^-alpha`` and ``D = B eta_peak`` of each node in units of the loss, (k,) each.

    A law of the logarithm is replaced by the law of the loss with the same value and the same
    slopes at the present step.
    """
    transform = posterior.transform
    level, reducible, negative_drop = posterior.nodes.mean.T
    if posterior.events.size:  # the law goes on at the level after the latest jump
        level = level + posterior.discrepancy()
    if not transform.logarithmic:
        unit = transform.unit
        return transform.to_loss(level), reducible * unit, -negative_drop * unit
    here = posterior.drop_arrived()
    present = transform.to_loss(level + reducible + negative_drop * here)
    return (
        present * (1 - reducible - negative_drop * here),
        present * reducible,
        -present * negative_drop,
    )
