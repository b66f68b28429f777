"""The median of a forecast, the number that is shown: where it lies, whatever the curve."""

import os
import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from lossforecast import Caveat, Forecaster, LRSchedule, RunInfo, Status
from lossforecast.arrays import FloatArray, IntArray
from lossforecast.forecast import Estimate
from lossforecast.posterior.design_matrix import walk_time_between

EXAMPLES = 3_000 if os.environ.get("LOSSFORECAST_FULL") else 60
LEVELS = (0.01, 0.02, 0.1, 0.5, 0.8, 0.95, 0.999)
FALLING = ("power law", "exponential", "plateau")
PLANS: dict[str, Callable[[int, float], LRSchedule]] = {
    "cosine": lambda total, peak: LRSchedule.cosine(total, peak, warmup=total // 20),
    "constant": LRSchedule.constant,
    "to a tenth": lambda total, peak: LRSchedule.cosine(total, peak, end=peak / 10),
    "wsd": lambda total, peak: LRSchedule.wsd(total, peak, decay_fraction=0.2),
}

some_curves = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Curve(NamedTuple):
    """A run so far: its plan, what is known about it, and its losses."""

    plan: LRSchedule
    run: RunInfo
    steps: IntArray
    losses: FloatArray

    def forecaster(self) -> Forecaster:
        forecaster = Forecaster(self.plan, self.run)
        forecaster.observe_many(self.steps, self.losses)
        return forecaster


@st.composite
def curves(
    draw: st.DrawFn, shapes: tuple[str, ...] = (*FALLING, "rise", "random walk"), noise: bool = True
) -> Curve:
    """Positive losses of any size, which may change by decades; with noise, also with spikes."""
    total = draw(st.sampled_from([60, 300, 1_000, 5_000]))
    plan = PLANS[draw(st.sampled_from(sorted(PLANS)))](total, draw(st.sampled_from([1e-4, 0.1])))
    seen = draw(st.sampled_from([0.05, 0.25, 0.5, 0.75, 0.95]))
    steps = np.unique(np.linspace(1, max(seen * total, 4), draw(st.integers(4, 200))).astype(int))
    share, decades = steps / steps[-1], draw(st.floats(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1_000)))
    digits = {  # logarithm to base 10 of the expected loss
        "power law": np.log10(1 + 10**decades * steps ** -draw(st.floats(0.1, 1))),
        "exponential": -decades * share,
        "plateau": np.where(share < draw(st.floats(0.1, 0.9)), 0.0, -decades),
        "rise": np.log10(1 + decades * np.maximum(share - 0.3, 0)),
        "random walk": np.cumsum(rng.normal(0, 0.05, steps.size)),
    }[draw(st.sampled_from(shapes))]
    digits += draw(st.floats(-6, 3))
    if noise:
        digits += draw(st.sampled_from([0.0, 0.01, 0.1, 0.5])) * rng.normal(size=steps.size)
        spikes = rng.choice(steps.size, draw(st.integers(0, steps.size // 10)), replace=False)
        digits[spikes] += draw(st.floats(0.3, 3))
    run = RunInfo(
        draw(st.sampled_from(["train", "val"])), draw(st.sampled_from(["adamw", "sgd", None]))
    )
    return Curve(plan, run, steps, 10**digits)


# ---------------------------------------------------------------------- where it lies


@some_curves
@given(curve=curves(), offset=st.sampled_from([0.0, 0.0, 0.5, 10.0]))
def test_the_median_lies_in_every_interval(curve: Curve, offset: float) -> None:
    losses = curve.losses - offset * curve.losses.max()  # some of them negative, or all
    forecast = curve._replace(losses=losses).forecaster().forecast()
    assert forecast.median == forecast.quantile(0.5)
    for level in LEVELS:
        lower, upper = forecast.interval(level)
        assert lower <= forecast.median <= upper
    for level, line in zip((0.8, 0.95), forecast.curves(), strict=True):
        assert (line.lower <= line.median).all()
        assert (line.median <= line.upper).all()
        assert line.median[-1] == pytest.approx(forecast.median, rel=1e-9)
        assert (line.lower[-1], line.upper[-1]) == pytest.approx(forecast.interval(level), rel=1e-9)


def jump() -> Curve:
    """A run that jumped by six decades, and may do so again."""
    steps = np.linspace(1, 500, 50).astype(int)
    plan = LRSchedule.constant(1_000, 1e-3)
    return Curve(plan, RunInfo("val"), steps, np.where(steps > 250, 1.0, 1e-6))


@some_curves
@given(curve=curves())
@example(curve=jump())
def test_no_forecast_is_ten_times_the_largest_loss(curve: Curve) -> None:
    forecast = curve.forecaster().forecast()
    limit = 10 * curve.losses.max()
    assert forecast.median <= limit
    assert forecast.mean <= limit
    assert forecast.interval(0.8)[1] <= limit
    assert forecast.interval(0.95)[1] <= limit


def cliff() -> Curve:
    """A run that fell to a tenth within one step, and neither before nor after it."""
    steps = np.unique(np.linspace(1, 75, 12).astype(int))
    plan = LRSchedule.constant(300, 1e-4)
    return Curve(plan, RunInfo("train"), steps, np.where(steps > 36, 0.1, 1.0))


@some_curves
@given(curve=curves(FALLING, noise=False))
@example(curve=cliff())
def test_a_loss_that_never_rose_is_not_forecast_to_rise(curve: Curve) -> None:
    """The rates only fall, so nothing but overfitting would make it rise."""
    forecaster = curve.forecaster()
    forecast = forecaster.forecast()
    assume(forecast.status is not Status.TOO_SHORT and Caveat.OVERFITTING not in forecast.caveats)
    present = forecaster.forecast(step=int(curve.steps[-1]))
    assert forecast.median <= max(present.interval(0.8)[1], 1.01 * present.median)


@some_curves
@given(curve=curves())
def test_a_misfit_is_wider_than_the_roughest_lawful_run(curve: Curve) -> None:
    """Wider than what the largest discrepancy of a run that follows its law leaves by itself."""
    forecaster = curve.forecaster()
    forecast = forecaster.forecast()
    assume(forecast.status is Status.MISFIT)
    posterior = forecast._posterior
    assert posterior is not None
    lawful = posterior.beliefs.regimes[0]
    now, end = posterior.now_and_end.terms.T
    time = walk_time_between(now, end, lawful.lr_travel)
    roughest = max(size for size, _ in lawful.walks) * np.sqrt(time)
    lower, upper = forecast.interval(0.8)
    assert np.log(upper / lower) >= 2 * ndtri(0.9) * roughest


def test_a_run_that_no_law_describes_has_a_wider_interval_than_a_lawful_one() -> None:
    plan = LRSchedule.cosine(1_000, 1e-3)
    steps = np.arange(1, 601)
    noise = 0.01 * np.random.default_rng(0).normal(size=steps.size)
    lawful = np.log(2 + 3 * steps**-0.5)
    jumps = 0.8 * (np.sin(steps / 40) > 0)
    widths = []
    for logarithms, status in ((lawful, Status.PRIOR_DRIVEN), (lawful + jumps, Status.MISFIT)):
        run = RunInfo("val", "adamw", task="language modelling")
        forecast = Curve(plan, run, steps, np.exp(logarithms + noise)).forecaster().forecast()
        assert forecast.status is status
        lower, upper = forecast.interval(0.8)
        widths.append(np.log(upper / lower))
    assert widths[1] > 3 * widths[0]


# ---------------------------------------------------------------------- where it is


def spiky() -> Forecaster:
    """Half of a run whose noisy losses fall to near 0, with a spike every 7 steps."""
    steps = np.arange(1, 300)
    noise = np.exp(0.3 * np.random.default_rng(0).normal(size=steps.size))
    losses = 0.3 * 10 ** (-steps / 150) * np.where(steps % 7, 1.0, 30.0) * noise
    return Curve(LRSchedule.cosine(600, 1e-4), RunInfo(), steps, losses).forecaster()


def test_the_median_is_the_estimate_and_in_the_plain_values() -> None:
    forecast = spiky().forecast()
    assert isinstance(forecast.median, float)
    assert not isinstance(forecast.median, Estimate)
    assert forecast.estimate == forecast.median
    ends = forecast.estimate.lower, forecast.estimate.upper
    assert ends == pytest.approx(forecast.interval(0.8), rel=1e-9)
    assert forecast.summary()["median"] == forecast.to_dict()["median"] == forecast.median
    assert forecast.summary()["mean"] == forecast.mean != forecast.median
    assert forecast.under(forecast.schedule) == pytest.approx(forecast.median, rel=1e-4)


def test_a_gain_is_between_medians() -> None:
    forecaster = spiky()
    forecast, present = forecaster.forecast(), forecaster.forecast(step=299)
    assert present.mean > 1.5 * present.median
    assert forecast.gain_to_come == pytest.approx(present.median - forecast.median, rel=0.1)


def test_without_data_it_is_nan() -> None:
    forecast = Forecaster(LRSchedule.constant(100, 1e-3)).forecast()
    assert np.isnan(forecast.median)
    assert forecast.summary()["median"] is None
    assert np.isnan(forecast.curve().median).all()


def test_a_forecast_pickled_by_an_earlier_version_has_its_median() -> None:
    """Such a forecast holds the mean as its estimate, and a posterior without the largest loss."""
    forecast = spiky().forecast()
    wanted = forecast.median
    state = vars(forecast)
    del state["_estimate"]
    state["estimate"] = Estimate(forecast.mean, *forecast.interval(0.8))
    del vars(state["_posterior"])["highest_loss"]
    again = pickle.loads(pickle.dumps(forecast))
    assert (again.median, again.estimate, again.quantile(0.5)) == (wanted, wanted, wanted)
    assert again.curve().median[-1] == pytest.approx(wanted, rel=1e-9)
    assert pickle.loads(pickle.dumps(again)).median == wanted
