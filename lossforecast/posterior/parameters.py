"""The posterior of a law's parameters under the names of the papers."""

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.posterior.posterior import Posterior

__all__ = ["parameters_of"]


def parameters_of(posterior: Posterior) -> dict[str, dict[str, float]]:
    """For each law: its posterior weight and the posterior means of its parameters."""
    schedule, beliefs = posterior.schedule, posterior.beliefs
    now = max(posterior.now, 1)
    s1_now, s1_total = float(schedule.s1(now)), float(schedule.s1(schedule.total_steps))
    alphas = np.array(beliefs.alphas)[posterior.alpha]
    level, reducible, drops = _tangent(posterior)
    found: dict[str, dict[str, float]] = {}
    for law in dict.fromkeys(member.law for member in beliefs.members):
        mine = [j for j, member in enumerate(beliefs.members) if member.law == law]
        nodes = np.isin(posterior.member, mine)
        weight = posterior.weight[nodes]
        if weight.sum() == 0:
            found[law] = {"weight": 0.0}
            continue
        share = weight / weight.sum()
        clock = now if law == "power" else max(s1_now, 1e-300)
        alpha = alphas[nodes]
        values = {
            "L0": level[nodes],
            "A": reducible[nodes] * clock**alpha,
            "alpha": alpha,
        }
        drop = drops[nodes] / max(schedule.peak, 1e-300)  # B, per unit learning rate
        relaxations = [beliefs.members[j].relaxation for j in posterior.member[nodes]]
        lags = np.array([r.lag if r else 0.0 for r in relaxations])
        if law == "annealing":
            # written so that C S2 is the drop: B = C / (1 - lambda)
            lambdas = np.exp(-1 / (lags * schedule.total_steps))
            values |= {"C": drop * (1 - lambdas), "lambda": lambdas}
        elif law == "multi-power":
            gammas = np.array([r.gamma if r else 0.0 for r in relaxations])
            speed = max(schedule.peak, 1e-300) ** gammas / (lags * max(s1_total, 1e-300))
            betas = np.array([r.beta if r else 0.0 for r in relaxations])
            values |= {"B": drop, "C": speed, "beta": betas, "gamma": gammas}
        elif law == "memoryless":
            values |= {"B": drop}
        means = {name: float(share @ value) for name, value in values.items()}
        found[law] = {"weight": float(weight.sum()), **means}
    return found


def _tangent(posterior: Posterior) -> tuple[FloatArray, FloatArray, FloatArray]:
    """L0, ``A S1(now)^-alpha`` and ``D = B eta_peak`` of each node in units of the loss, (k,) each.

    Of a law of the logarithm: those of the law of the loss with its value and slopes at present.
    """
    scale = posterior.scale
    level, reducible, negative_drop = posterior.mean.T
    if not scale.logarithmic:
        return scale.loss(level), reducible * scale.unit, -negative_drop * scale.unit
    here = posterior.drop_arrived()
    present = scale.loss(level + reducible + negative_drop * here)
    return (
        present * (1 - reducible - negative_drop * here),
        present * reducible,
        -present * negative_drop,
    )
