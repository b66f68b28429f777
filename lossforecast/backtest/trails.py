"""What anybody could have known of a recorded run while it went on: `Trail`."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.replay import naming, outcome
from lossforecast.forecast import QUANTILE_LEVELS
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Outlook
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.status import Status

__all__ = ["LOOKS", "Trail", "decay_begins", "followed", "patience_ends"]

LOOKS = 50
"""Looks at a run, the last one at its end."""

_LEAST = 3  # losses before a run is forecast
_PATIENCE = 3  # what Lightning's EarlyStopping has by default
_NOTHING = Outlook((float("nan"),) * len(QUANTILE_LEVELS))


@dataclass(frozen=True)
class Trail:
    """One recorded run at each look but the last, after 1/50 of its steps, 2/50 and so on.

    Attributes:
        run_id: its name.
        total_steps: its length in optimizer steps.
        truth: how it ended.
        outlooks: how it was expected to end, (49,).
        statuses: of those forecasts, (49,).
        latest: the latest loss, nan before the first, (49,).
        alike: how far such forecasts err alike, as in `Prior`.
        decays: share of its steps after which its learning rate has fallen below 90% of the peak;
            infinite if that never falls by half.
        impatient: share of its steps after which three losses in a row were no improvement;
            infinite if that never was so.
    """

    run_id: str
    total_steps: int
    truth: float
    outlooks: tuple[Outlook, ...]
    statuses: tuple[Status, ...]
    latest: NDArray[np.float64]
    alike: tuple[float, float]
    decays: float
    impatient: float


def followed(run: RecordedRun, prior: Prior | None = None) -> Trail | None:
    """Forecasts of a run at every look; None if it is unknown how the run ended.

    Args:
        run: a recorded run.
        prior: what is believed beforehand; None is the packaged prior.

    Raises:
        LossForecastError: the curve is none that can be observed; the message names the run.
    """
    end = outcome(run)
    if end is None:
        return None
    cuts = np.arange(1, LOOKS) / LOOKS * run.total_steps
    seen = np.searchsorted(run.step, cuts, side="right")
    with naming(run):
        outlooks, statuses = _forecasts(run, cuts, seen, prior)
    latest = np.array([run.loss[n - 1] if n else np.nan for n in seen], float)
    return Trail(
        run_id=run.run_id,
        total_steps=run.total_steps,
        truth=end.loss,
        outlooks=tuple(outlooks),
        statuses=tuple(statuses),
        latest=latest,
        alike=(prior or Prior()).alike,
        decays=decay_begins(run),
        impatient=patience_ends(run),
    )


def _forecasts(
    run: RecordedRun, cuts: NDArray[np.float64], seen: NDArray[np.intp], prior: Prior | None
) -> tuple[list[Outlook], list[Status]]:
    """At each look, a step, from so many losses as are seen by then."""
    info = RunInfo(metric=run.what, optimizer=run.optimizer)
    forecaster = Forecaster(run.plan, info, prior=prior)
    outlook, status, before = _NOTHING, Status.NO_DATA, 0
    outlooks: list[Outlook] = []
    statuses: list[Status] = []
    gaps = sorted(run.gaps, reverse=True)
    for cut, n in zip(cuts, seen, strict=True):
        while gaps and gaps[-1].step <= cut:
            forecaster.observe_gap(*gaps.pop())
        if n > before:
            forecaster.observe_many(run.step[before:n], run.loss[before:n])
            if n >= _LEAST:
                forecast = forecaster.forecast()
                outlook, status = Outlook.of(forecast, run.optimizer or ""), forecast.status
        outlooks.append(outlook)
        statuses.append(status)
        before = n
    return outlooks, statuses


def decay_begins(run: RecordedRun) -> float:
    """Share of a run after which its rate is below 90% of the peak; infinite as in `Trail`."""
    peak = run.lr.max()
    if peak == 0 or run.lr[-1] > 0.5 * peak:
        return math.inf
    high = np.flatnonzero(run.lr >= 0.9 * peak)[-1]
    return float(run.step[high] / run.total_steps)


def patience_ends(run: RecordedRun) -> float:
    """Share of a run after which three losses in a row were no improvement; infinite if never."""
    best, since = math.inf, 0
    for step, loss in zip(run.step.tolist(), run.loss.tolist(), strict=True):
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since >= _PATIENCE:
            return float(step / run.total_steps)
    return math.inf
