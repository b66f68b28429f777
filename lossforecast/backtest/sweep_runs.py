"""`SweepRun`: a recorded run of a sweep as a stopping rule sees it, check by check."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.replay import Told, described, naming, outcome
from lossforecast.forecast import QUANTILE_LEVELS
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Outlook, Setup, alike, is_open
from lossforecast.prior import Prior

__all__ = ["CHECKS_PER_RUN", "SweepRun", "patience_end", "sweep_run"]

CHECKS_PER_RUN = 50
"""Checks of a run, evenly spaced; the last one is its end, where nothing is left to stop."""

_PATIENCE_VALIDATIONS = 3  # the default of Lightning's EarlyStopping
_NO_OUTLOOK = Outlook((float("nan"),) * len(QUANTILE_LEVELS))


@dataclass(frozen=True)
class SweepRun:
    """One recorded run at every check but the last: after 1/50, 2/50, ..., 49/50 of its steps.

    Attributes:
        run_id: its name.
        total_steps: its length in optimizer steps.
        truth: the loss it ended with.
        group: label that similar runs have in common, as in `lossforecast.policies.alike`.
        setup: the setup by which `lossforecast.policies.SweepErrors` compares runs.
        outlooks: forecasts of the final loss at each check, (49,).
        is_open: whether the end of the run is open at each check, (49,).
        latest: the latest loss at each check, nan before the first, (49,).
        alike: shares of the forecasts' error variance that runs have in common, as in `Prior`.
        patience_end: share of the steps after which three losses in a row brought no improvement;
            infinite if that never happened.
    """

    run_id: str
    total_steps: int
    truth: float
    group: str
    setup: Setup
    outlooks: tuple[Outlook, ...]
    is_open: NDArray[np.bool_]
    latest: NDArray[np.float64]
    alike: tuple[float, float]
    patience_end: float


def sweep_run(run: RecordedRun, prior: Prior | None = None) -> SweepRun | None:
    """Forecast a run at every check; None if its outcome is unknown.

    Args:
        run: a recorded run.
        prior: beliefs before the first loss; None is the packaged prior.

    Raises:
        LossForecastError: the curve cannot be observed; the message names the run.
    """
    end = outcome(run)
    if end is None:
        return None
    check_steps = np.arange(1, CHECKS_PER_RUN) / CHECKS_PER_RUN * run.total_steps
    n_seen = np.searchsorted(run.step, check_steps, side="right")
    with naming(run):
        outlooks, open_ends = _forecasts(run, check_steps, n_seen, prior)
    latest = np.array([run.loss[n - 1] if n else np.nan for n in n_seen], float)
    return SweepRun(
        run_id=run.run_id,
        total_steps=run.total_steps,
        truth=end.loss,
        group=alike(run.optimizer or "", run.plan),
        setup=Setup.of(run.optimizer or "", run.plan),
        outlooks=tuple(outlooks),
        is_open=np.array(open_ends),
        latest=latest,
        alike=(prior or Prior()).alike,
        patience_end=patience_end(run),
    )


def _forecasts(
    run: RecordedRun,
    check_steps: NDArray[np.float64],
    n_seen: NDArray[np.intp],
    prior: Prior | None,
) -> tuple[list[Outlook], list[bool]]:
    """Outlook and openness at each check, from the first `n_seen` losses and the gaps."""
    forecaster = Forecaster(run.plan, described(run, Told.FOUND), prior=prior)
    outlook, open_end, before = _NO_OUTLOOK, True, 0
    outlooks: list[Outlook] = []
    open_ends: list[bool] = []
    gaps = sorted(run.gaps, reverse=True)
    for check_step, n in zip(check_steps, n_seen, strict=True):
        while gaps and gaps[-1].step <= check_step:
            forecaster.observe_gap(*gaps.pop())
        if n > before:
            forecaster.observe_many(run.step[before:n], run.loss[before:n])
            forecast = forecaster.forecast()
            outlook = Outlook.of(forecast, run.optimizer or "")
            open_end = is_open(forecast)
        outlooks.append(outlook)
        open_ends.append(open_end)
        before = n
    return outlooks, open_ends


def patience_end(run: RecordedRun) -> float:
    """Share of a run after which three losses in a row brought no improvement; infinite if none."""
    best, since = math.inf, 0
    for step, loss in zip(run.step.tolist(), run.loss.tolist(), strict=True):
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since >= _PATIENCE_VALIDATIONS:
            return float(step / run.total_steps)
    return math.inf
