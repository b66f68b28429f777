"""Statistical truth: data drawn from known laws are forecast as well as the intervals claim."""

import os
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from support.laws import annealing, flat_warmup

from lossforecast import Forecaster, LRSchedule, Prior, RunInfo
from lossforecast.laws.relaxation import LAWS, arrived
from lossforecast.posterior.design_matrix import (
    columns_at,
    drop_scales,
    log_alpha_weights,
    walk_time,
)
from lossforecast.prior.beliefs import Beliefs

FULL = bool(os.environ.get("LOSSFORECAST_FULL"))
TOTAL = 4_000
PEAK = 1e-3
SCHEDULES = {
    "cosine": LRSchedule.cosine(TOTAL, PEAK, end=1e-4, warmup=100),
    "wsd": LRSchedule.wsd(TOTAL, PEAK, decay_fraction=0.2, warmup=100),
    "linear": LRSchedule.linear(TOTAL, PEAK, warmup=100),
    "constant": LRSchedule.constant(TOTAL, PEAK, warmup=100),
}
NOISE = 0.12  # standard deviation of the training loss of a 124M model (measured on public logs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_annealing_law_is_recovered_from_half_of_the_run(name: str) -> None:
    """200 draws over all schedules, 50 of each: within 3 standard errors in at least 95%."""
    schedule = SCHEDULES[name]
    lrs = flat_warmup(schedule.to_array(), schedule.warmup_steps)
    rng = np.random.default_rng(["cosine", "wsd", "linear", "constant"].index(name))
    hits = 0
    for _ in range(50):
        lambda_ = 1 - 1 / (TOTAL * rng.uniform(0.02, 0.1))
        drop = 3.2 * 0.075 * np.exp(0.25 * rng.normal())
        loss = annealing(
            lrs,
            L0=rng.uniform(2.4, 2.9),
            A=rng.uniform(0.3, 0.7),
            alpha=rng.uniform(0.4, 0.6),
            C=drop / PEAK * (1 - lambda_),
            lambda_=lambda_,
        )
        half = TOTAL // 2
        forecaster = Forecaster(schedule, RunInfo("train", "adamw", task="language modelling"))
        forecaster.observe_many(np.arange(1, half + 1), loss[:half] + NOISE * rng.normal(size=half))
        forecast = forecaster.forecast()
        hits += abs(forecast.mean - loss[-1]) <= 3 * forecast.std
    assert hits >= 0.95 * 50


def draw(
    beliefs: Beliefs, schedule: LRSchedule, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A lawful run drawn from the beliefs: expected losses, about 3, at steps 1..total; noise."""

    def choose(weights: np.ndarray) -> int:
        return int(rng.choice(weights.size, p=weights / weights.sum()))

    regime = beliefs.regimes[0]
    alpha = beliefs.alphas[choose(np.exp(log_alpha_weights(beliefs, regime)))]
    which = choose(np.array([m.weight for m in beliefs.members]))
    member = beliefs.members[which]
    size = regime.walks[choose(np.array([w for _, w in regime.walks]))][0]
    kind = regime.drops[choose(np.array([d.weight for d in regime.drops]))]
    assert kind.noises is not None
    noise = kind.noises[0] * np.exp(kind.noises[1] * rng.normal())
    mean, std = kind.moments(0.0, noise, 0.0)
    end = np.array([schedule.total_steps])
    at_end, _ = columns_at(beliefs, schedule, schedule, schedule.total_steps, end)
    scale = drop_scales(beliefs, schedule, at_end[0])[which]
    drop = max(mean + std * rng.normal(), 0.0) * scale
    steps = np.arange(1, schedule.total_steps + 1)
    s1 = schedule.s1(steps)
    clock = s1 if member.relaxation else steps.astype(float)
    at_half = clock[schedule.total_steps // 2 - 1]
    young = np.maximum(clock / at_half, 0.02)  # what the burn-in hides may be anything
    z = np.log(3.0) + abs(regime.reducible * rng.normal()) * young**-alpha
    if member.relaxation:
        z -= (
            drop
            * arrived(
                schedule,
                steps,
                (member.relaxation,),
                total_steps=schedule.total_steps,
                total_s1=float(s1[-1]),
            )[0]
        )
    _, terms = columns_at(beliefs, schedule, schedule, schedule.total_steps, steps)
    start = schedule.total_steps // 40
    time = walk_time(terms, (terms[0, start], terms[1, start]), regime.lr_travel)
    moves = np.sqrt(np.diff(time, prepend=0.0))
    walk: np.ndarray = np.exp(z + size * np.cumsum(moves * rng.normal(size=steps.size)))
    return walk, float(3.0 * noise)


@pytest.mark.parametrize(
    "fraction",
    [pytest.param(0.25, marks=pytest.mark.slow), 0.5, pytest.param(0.75, marks=pytest.mark.slow)],
)
def test_intervals_cover_what_they_say_when_the_prior_is_true(fraction: float) -> None:
    """Lawful runs drawn from the prior: 80% and 95% intervals hold, within binomial error."""
    rng = np.random.default_rng(round(100 * fraction))
    run, draws = RunInfo("val", "adamw", task="language modelling"), 200 if FULL else 100
    prior = replace(Prior(), lawful_share=(1 - 1e-9, 0.5), calibration={})
    inside = {0.8: 0, 0.95: 0}
    schedules = [SCHEDULES["cosine"], SCHEDULES["wsd"], SCHEDULES["linear"]]
    for i in range(draws):
        schedule = schedules[i % 3]
        loss, noise = draw(prior.for_run(run, schedule, tuple(LAWS)), schedule, rng)
        seen = np.arange(10, round(fraction * TOTAL) + 1, 10)
        forecaster = Forecaster(schedule, run, prior=prior)
        forecaster.observe_many(seen, loss[seen - 1] + noise * rng.normal(size=seen.size))
        forecast = forecaster.forecast()
        for level in inside:
            lower, upper = forecast.interval(level)
            inside[level] += lower <= loss[-1] <= upper
    for level, count in inside.items():
        low, high = binom.interval(0.998, draws, level)
        assert low <= count <= high, f"{level:.0%} intervals held {count} of {draws} times"
