"""Statistical truth: data drawn from known laws are forecast as well as the intervals claim."""

import numpy as np
import pytest
from scipy.stats import binom

from lossforecast import Forecaster, LRSchedule, Prior, RunInfo
from lossforecast.laws import LAWS, Warmup, with_warmup
from lossforecast.prior import Beliefs
from lossforecast.relaxation import arrived

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
    lrs = with_warmup(schedule.to_array(), schedule.warmup_steps, Warmup.PEAK)
    rng = np.random.default_rng(["cosine", "wsd", "linear", "constant"].index(name))
    hits = 0
    for _ in range(50):
        lambda_ = 1 - 1 / (TOTAL * rng.uniform(0.02, 0.1))
        drop = 3.2 * 0.075 * np.exp(0.25 * rng.normal())
        loss = LAWS["annealing"].loss(
            lrs,
            L0=rng.uniform(2.4, 2.9),
            A=rng.uniform(0.3, 0.7),
            alpha=rng.uniform(0.4, 0.6),
            C=drop / PEAK * (1 - lambda_),
            lambda_=lambda_,
        )
        half = TOTAL // 2
        forecaster = Forecaster(schedule, RunInfo(optimizer="adamw"))
        forecaster.observe_many(np.arange(1, half + 1), loss[:half] + NOISE * rng.normal(size=half))
        forecast = forecaster.forecast()
        hits += abs(forecast.mean - loss[-1]) <= 3 * forecast.std
    assert hits >= 0.95 * 50


def draw(beliefs: Beliefs, schedule: LRSchedule, rng: np.random.Generator) -> np.ndarray:
    """The expected losses of a run drawn from the beliefs, at steps 1..total, level about 3."""

    def choose(weights: list[float]) -> int:
        return int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))

    unit = 3.0
    alpha = beliefs.alphas[choose([w for _, w in beliefs.alphas])][0]
    member = beliefs.members[choose([m.weight for m in beliefs.members])]
    component = beliefs.drops[choose([c.weight for c in beliefs.drops])]
    size = beliefs.walks[choose([w for _, w in beliefs.walks])][0]
    drop = -1.0
    while drop < 0:
        drop = component.mean + component.std * rng.normal()
    steps = np.arange(1, schedule.total_steps + 1)
    s1 = schedule.s1(steps)
    clock = s1 if member.relaxation else steps.astype(float)
    at_half = clock[schedule.total_steps // 2 - 1]
    loss = unit + unit * abs(0.2 * rng.normal()) * (clock / at_half) ** -alpha
    if member.relaxation:
        share = arrived(
            schedule,
            steps,
            (member.relaxation,),
            total_steps=schedule.total_steps,
            total_s1=float(s1[-1]),
        )[0]
        loss = loss - unit * drop * share
    inverse = s1[-1] / s1
    start = schedule.total_steps // 40
    moves = np.sqrt(np.maximum(-np.diff(inverse, prepend=inverse[0]), 0))
    moves[:start] = 0
    walk: np.ndarray = loss + unit * size * np.cumsum(moves * rng.normal(size=steps.size))
    return walk


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_intervals_cover_what_they_say_when_the_prior_is_true(fraction: float) -> None:
    """Runs drawn from the prior itself: 80% and 95% intervals hold, within binomial error."""
    rng = np.random.default_rng(round(100 * fraction))
    run, draws = RunInfo(optimizer="adamw"), 200
    inside = {0.8: 0, 0.95: 0}
    schedules = [SCHEDULES["cosine"], SCHEDULES["wsd"], SCHEDULES["linear"]]
    for i in range(draws):
        schedule = schedules[i % 3]
        beliefs = Prior().for_run(run, PEAK, tuple(LAWS))
        loss = draw(beliefs, schedule, rng)
        seen = round(fraction * TOTAL)
        forecaster = Forecaster(schedule, run)
        forecaster.observe_many(np.arange(1, seen + 1), loss[:seen] + NOISE * rng.normal(size=seen))
        forecast = forecaster.forecast()
        for level in inside:
            lower, upper = forecast.interval(level)
            inside[level] += lower <= loss[-1] <= upper
    for level, count in inside.items():
        low, high = binom.interval(0.998, draws, level)
        assert low <= count <= high, f"{level:.0%} intervals held {count} of {draws} times"
