"""`Forecast`: the predictive distribution of the loss at one step of a run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.checks import number, probability, wholes
from lossforecast.display import STATUS_WORDS, Chart, gain_words, heading
from lossforecast.errors import ConfigurationError
from lossforecast.estimate import AnnealGain, Curve, Estimate, Minimum
from lossforecast.ladder import Departure, LadderForecast
from lossforecast.numerics import Mixture
from lossforecast.plot import plot
from lossforecast.posterior import Posterior, parameters_of
from lossforecast.runs import History
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LEVEL_SCORES",
    "QUANTILE_LEVELS",
    "AnnealGain",
    "Curve",
    "Estimate",
    "Forecast",
]

_CURVE_STEPS = 101  # points of a curve if no steps are given

LEVEL_SCORES: FloatArray = np.linspace(-3.5, 3.5, 29)
"""Standard normal quantiles at `QUANTILE_LEVELS`, (29,)."""

QUANTILE_LEVELS: tuple[float, ...] = tuple(math.erfc(-z / math.sqrt(2)) / 2 for z in LEVEL_SCORES)
"""Probabilities that describe a distribution: the normal cdf at -3.5, -3.25, ..., 3.5, (29,)."""


@dataclass(frozen=True)
class Forecast:
    """Distribution of the expected loss at `step`, forecast at step `made_at`.

    The distribution is that of the *expected* loss: the noise of single batches is averaged out,
    unless ``noise=True`` asks for it. A training loss is forecast as the mean over 2% of the run's
    observations, as one reads it off a curve; the noise left in that mean is part of the interval.
    Every number is nan if the status is `Status.NO_DATA`, and finite otherwise.

    Attributes:
        step: the step forecast.
        made_at: the last step observed; -1 before any.
        status: how far the forecast can be trusted.
        caveats: reservations; several may hold.
        anneal_gain: the drop still to come from the learning-rate decay, and how it is known.
        seconds: time spent on the fit (0 if the last one was still valid) and on this forecast.
        schedule: the learning rates assumed: those observed, then the plan (or the what-if).
            Where no learning rate is known (`Caveat.LR_UNKNOWN`), a constant one of 1.
    """

    step: int
    made_at: int
    status: Status
    caveats: tuple[Caveat, ...]
    anneal_gain: AnnealGain
    seconds: float
    _noise: float = field(repr=False)
    _mixture: Mixture | None = field(repr=False)
    _posterior: Posterior | None = field(repr=False)
    schedule: LRSchedule = field(repr=False)
    _futures: tuple[LRSchedule, ...] = field(default=(), repr=False)
    """Schedules that are equally likely, if there are several."""
    _seen: tuple[IntArray, FloatArray] | None = field(default=None, repr=False, compare=False)
    """Steps and losses that the fit used, (n,) each: up to about 128 means, for pictures."""
    _lowest: tuple[int, float] | None = field(default=None, repr=False, compare=False)
    """Step and value of the lowest validation loss so far."""

    @classmethod
    def without_data(
        cls, step: int, schedule: LRSchedule, caveats: tuple[Caveat, ...], seconds: float
    ) -> Self:
        """The forecast of a run that has no finite loss yet: `Status.NO_DATA`."""
        return cls(
            step=step,
            made_at=-1,
            status=Status.NO_DATA,
            caveats=caveats,
            anneal_gain=AnnealGain(math.nan, math.nan, "none"),
            seconds=seconds,
            schedule=schedule,
            _noise=0.0,
            _mixture=None,
            _posterior=None,
        )

    @cached_property
    def _moments(self) -> tuple[float, float]:
        if self._mixture is None:
            return math.nan, math.nan
        mean, std = self._mixture.moments()
        return float(mean[0]), float(std[0])

    @cached_property
    def departure(self) -> Departure | None:
        """How far the loss is above the one predicted from smaller runs; None if it is not.

        None as well without smaller runs, and throughout each of 105 recorded runs that went well
        (`lossforecast.ladder`).
        """
        ladder = None if self._posterior is None else self._posterior.smaller_runs
        if not isinstance(ladder, LadderForecast):
            return None
        return ladder.departure(self.schedule)

    @property
    def median(self) -> float:
        """Median of the predictive distribution: the forecast as one number.

        It lies in every `interval`. Where losses span decades, the mean may lie outside.
        """
        return float(self.estimate)

    @property
    def mean(self) -> float:
        """Mean of the predictive distribution; `median` is the number to show."""
        return self._moments[0]

    @property
    def std(self) -> float:
        """Standard deviation of the predictive distribution."""
        return self._moments[1]

    def quantile(self, q: float, *, noise: bool = False) -> float:
        """The loss below which the outcome lies with probability q.

        Args:
            q: probability, between 0 and 1.
            noise: True for a single noisy observation instead of the expected loss.

        Raises:
            ConfigurationError: q is not between 0 and 1.
        """
        level = probability("q", q, ConfigurationError, example=0.8)
        if self._mixture is None:
            return math.nan
        return float(self._noisy(noise).quantiles(np.array([level]))[0, 0])

    def quantiles(self, levels: ArrayLike) -> NDArray[np.float64]:
        """The quantiles at many probabilities at once, (n,); nan without data.

        Raises:
            ConfigurationError: a level is not between 0 and 1.
        """
        asked = np.atleast_1d(np.asarray(levels, float))
        if not ((asked > 0) & (asked < 1)).all():
            raise ConfigurationError(f"levels must lie between 0 and 1, not {levels!r:.60}")
        if self._mixture is None:
            return np.full(asked.shape, np.nan)
        return np.maximum.accumulate(self._mixture.quantiles(asked)[:, 0])

    @cached_property
    def at_levels(self) -> tuple[float, ...]:
        """The quantiles at `QUANTILE_LEVELS`, (29,), computed once."""
        return tuple(self.quantiles(QUANTILE_LEVELS).tolist())

    def interval(self, level: float = 0.8, *, noise: bool = False) -> tuple[float, float]:
        """Lower and upper end of the central interval with probability `level`.

        Raises:
            ConfigurationError: the level is not between 0 and 1.
        """
        tail = (1 - probability("level", level, ConfigurationError, example=0.8)) / 2
        if self._mixture is None:
            return math.nan, math.nan
        # sorted, because rounding may swap the ends of an interval without width
        ends = np.sort(self._noisy(noise).quantiles(np.array([tail, 1 - tail]))[:, 0])
        return float(ends[0]), float(ends[1])

    def prob_below(self, target: float, *, noise: bool = False) -> float:
        """Probability that the loss at `step` is below `target`; nan for a nan target."""
        value = number("target", target, ConfigurationError)
        if self._mixture is None or np.isnan(value):
            return math.nan
        return float(self._noisy(noise).cdf(np.array([[value]]))[0, 0])

    def curve(self, steps: ArrayLike | None = None, level: float = 0.8) -> Curve:
        """The forecast from now to `step` at about 100 steps, or at the steps given, (n,).

        Raises:
            ConfigurationError: a step outside the schedule, or a level not between 0 and 1.
        """
        return self.curves(steps, [level])[0]

    def curves(
        self, steps: ArrayLike | None = None, levels: Iterable[float] = (0.8, 0.95)
    ) -> list[Curve]:
        """One `curve` for each level, computed together."""
        tails = [
            (1 - probability("level", level, ConfigurationError, example=0.8)) / 2
            for level in levels
        ]
        if steps is None:
            start = max(min(self.made_at, self.step - 1), 0)
            at = np.unique(np.rint(np.linspace(start, self.step, _CURVE_STEPS)).astype(np.int64))
        else:
            at = np.atleast_1d(wholes("steps", steps, ConfigurationError))
            end = self.schedule.total_steps
            if at.ndim != 1 or (at.size and (at.min() < 0 or at.max() > end)):
                raise ConfigurationError(f"steps must be a list of steps in 0..{end}")
        if self._posterior is None or at.size == 0:
            nothing = np.full(at.shape, np.nan)
            return [Curve(at, nothing, nothing, nothing, nothing) for _ in tails]
        mixture = Mixture.joined([self._posterior.predict(plan, at) for plan in self._plans])
        mean = mixture.moments()[0]
        sides = [side for tail in tails for side in (tail, 1 - tail)]
        median, *ends = mixture.quantiles(np.array([0.5, *sides]))
        return [Curve(at, median, mean, *ends[i : i + 2]) for i in range(0, len(ends), 2)]

    def summary(self) -> dict[str, Any]:
        """The numbers of the forecast, flat and JSON-able; None for numbers that are nan."""
        (lower80, upper80), (lower95, upper95) = (self.interval(level) for level in (0.8, 0.95))
        gain = self.anneal_gain
        numbers = {
            "median": self.median,
            "mean": self.mean,
            "std": self.std,
            "lower80": lower80,
            "upper80": upper80,
            "lower95": lower95,
            "upper95": upper95,
            "gain_mean": gain.mean,
            "gain_std": gain.std,
        }
        known = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        words = {"status": str(self.status), "gain_source": gain.source}
        return {"made_at": self.made_at, "step": self.step, **known, **words}

    def to_dict(self) -> dict[str, Any]:
        """The `summary` and the caveats, JSON-able."""
        return {**self.summary(), "caveats": [str(caveat) for caveat in self.caveats]}

    @property
    def estimate(self) -> Estimate:
        """The loss at `step`: its `median`, with the 80% interval as attributes."""
        return self._estimate

    @cached_property
    def _estimate(self) -> Estimate:
        # another name than `estimate`, under which earlier versions may have pickled the mean
        return Estimate.of(self._mixture)

    @cached_property
    def minimum(self) -> Minimum | None:
        """The lowest validation loss up to `step`, and whether it has passed.

        None for a training loss, and with fewer than three validations since the latest event.
        """
        if self._lowest is None or self._mixture is None:
            return None
        (at, so_far), end = self._lowest, self.estimate
        loss = Estimate(*(min(so_far, x) for x in (float(end), end.lower, end.upper)))
        return Minimum(at, so_far, loss, 1 - self.prob_below(so_far))

    @cached_property
    def gain_to_come(self) -> Estimate:
        """Fall from the expected loss now to the loss at `step`: the median and its interval."""
        return Estimate.of(self._gains(None))

    def under(self, schedule: LRSchedule) -> Estimate:
        """The loss at the end of another schedule, followed from the present step on: the median.

        Raises:
            ScheduleError: the schedule ends before the present step.
        """
        if self._posterior is None:
            return Estimate.of(None)
        followed = self._followed(schedule)
        return Estimate.of(self._posterior.ahead(followed, followed.total_steps)[0])

    def gain(self, schedule: LRSchedule) -> Estimate:
        """Reduction of the final loss by another schedule, relative to this forecast: the median.

        Its interval is narrower than that of the difference of two forecasts, because most of their
        uncertainty is common to both. A forecast of a past step is treated as one of the present
        step.

        Raises:
            ScheduleError: the schedule ends before the present step.
        """
        return Estimate.of(self._gains([schedule]))

    def gains(self, schedules: Iterable[LRSchedule]) -> FloatArray:
        """The medians of `gain` for many schedules, (n,)."""
        plans = list(schedules)
        mixture = self._gains(plans) if plans else None
        if mixture is None:
            return np.full(len(plans), np.nan)
        medians: FloatArray = mixture.quantiles(np.array([0.5]))[0]
        return medians

    def prob_gain_above(self, least: float, schedule: LRSchedule | None = None) -> float:
        """Probability that `gain_to_come`, or the `gain` of a schedule, is above `least`."""
        value = number("least", least, ConfigurationError)
        mixture = self._gains(None if schedule is None else [schedule])
        return math.nan if mixture is None else 1 - float(mixture.cdf(np.array([[value]]))[0, 0])

    def __str__(self) -> str:
        """Where the loss is heading, what annealing will bring, and how far to trust that."""
        caveats = f"; caveats: {', '.join(self.caveats)}" if self.caveats else ""
        known = f"status {self.status}: {STATUS_WORDS[self.status]}{caveats}"
        if self._mixture is None:
            return f"no forecast for step {self.step:,}: {known}"
        departed = "" if self.departure is None else f"\n{self.departure}"
        overfits = Caveat.OVERFITTING in self.caveats and self.minimum is not None
        passed = f"\nlowest so far {self.minimum}" if overfits else ""
        return (
            f"at step {self.made_at:,}: {heading(self.estimate)} at step {self.step:,}\n"
            f"{gain_words(self.anneal_gain)}\n{known}{departed}{passed}"
        )

    def __repr__(self) -> str:
        numbers = f"{self.estimate!r} at step {self.step}, made_at={self.made_at}"
        return f"Forecast({numbers}, status={str(self.status)!r})"

    def __rich__(self) -> str:
        """The same as `__str__`: by default rich would list the fields."""
        return str(self)

    def _repr_html_(self) -> str:
        """The text of `__str__` and a small chart, for notebooks."""
        fan: tuple[FloatArray, ...] = ()
        if self._mixture is not None:
            inner, outer = self.curves(levels=(0.8, 0.95))
            edges = (inner.lower, inner.upper, outer.lower, outer.upper)
            fan = (inner.steps.astype(float), inner.median, *edges)
        seen = self._seen or (np.empty(0, np.int64), np.empty(0))
        plan = self.schedule
        chart = Chart(plan.total_steps, max(self.made_at, 0), seen, fan, plan.knots)
        first, *more = str(self).splitlines()
        return "<br>".join([f"<div><b>{first}</b>", *more, f"{chart.svg()}</div>"])

    def plot(self, history: History | None = None, **options: Any) -> "Figure":
        """Draw losses, forecast and learning rate with `lossforecast.plot.plot`.

        Args:
            history: the losses observed, such as ``forecaster.history``. Default: those that the
                fit used, up to about 128 means without the start of the run.
            options: `target`, `outcome`, `title` or `figure`, as in `lossforecast.plot.plot`.

        Returns:
            The matplotlib figure; a notebook shows it, ``savefig("forecast.png")`` writes it.

        Raises:
            ConfigurationError: matplotlib is missing.
        """
        if history is None:
            history = History()
            if self._seen is not None:
                history.observe_many(*self._seen)
        return plot(self, history, **options)

    @cached_property
    def parameters(self) -> Mapping[str, Mapping[str, float]]:
        """For each law: its posterior "weight" and the posterior means of its parameters.

        Names are those of the papers (`lossforecast.laws`). L0, A and B or C are strongly
        correlated: read the forecast, not L0. Where all losses are positive the laws are fitted to
        the logarithm of the loss; these are then the parameters of the law of the loss with the
        same value and the same slopes at the present step.
        """
        return {} if self._posterior is None else parameters_of(self._posterior)

    def _gains(self, schedules: Iterable[LRSchedule] | None) -> Mixture | None:
        """Reduction of the loss by `schedules` relative to this forecast.

        With None, the reduction by this forecast relative to the present loss.
        """
        if self._posterior is None:
            return None
        last, gains = max(self.step, self.made_at), self._posterior.gains
        if schedules is None:
            return Mixture.joined([gains(p, self.made_at, [(p, last)]) for p in self._plans])
        ends = [(plan, plan.total_steps) for plan in map(self._followed, schedules)]
        return Mixture.joined([gains(plan, last, ends) for plan in self._plans])

    @property
    def _plans(self) -> tuple[LRSchedule, ...]:
        return self._futures or (self.schedule,)

    def _followed(self, schedule: LRSchedule) -> LRSchedule:
        return self.schedule.replanned_from(max(self.made_at, 0), schedule)

    def _noisy(self, noise: bool) -> Mixture:
        assert self._mixture is not None
        return self._mixture.with_noise(self._noise) if noise else self._mixture
