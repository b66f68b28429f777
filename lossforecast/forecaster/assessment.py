"""Assessment of a forecast: its status, its caveats and the source of its annealing gain."""

import numpy as np

from lossforecast.forecast import AnnealGain
from lossforecast.numerics import Mixture
from lossforecast.posterior import Posterior
from lossforecast.runs import Evidence, History, RunInfo, lowest_loss, observed_rates, overfit_rise
from lossforecast.schedule import OFF_PLAN_TOLERANCE, LRSchedule
from lossforecast.status import Caveat, Status

__all__ = ["anneal_gain_of", "caveats_of", "lowest_validation", "overfitting_rise", "status_of"]

_MIN_POINTS_FOR_FORECAST = 10  # of evidence
_MAX_YOUTH = 0.5  # reached 50 steps after the warm-up or at 1/40 of the run's S1, if later
_MAX_PROB_UNSETTLED = 0.3  # probability that the run follows no law yet
_FAILED_SURPRISE = 2.0  # errors of earlier forecasts, in standard deviations
_MIN_MISFIT_PROBABILITY = 0.5
_MAX_SHRINKAGE_LEARNT = 0.5  # posterior over prior std of the drop: below it the data decided
_MIN_DROP_SHARE_OF_STD = 0.3  # of the std of the forecast: below it the drop hardly matters
_NEGLIGIBLE_DROP = 1e-9  # of the unit of the loss
_OFF_PLAN_OBSERVATIONS = 3  # the latest ones, which all have to be off the plan
_START_SHARE = 0.2  # of the steps since the latest event: a minimum there is no overfitting
_RISEN_LR_RATIO = 1.01  # of the present rate to that at the minimum of the loss
_MIN_RISE_SHARE = 0.01  # smallest rise expected still to come, as a share of the rise so far
_SEEN_OF_SECOND_EPOCH = 0.1  # of an epoch; by then, the fall at its start has been seen


def status_of(evidence: Evidence, posterior: Posterior, std: float, gain: AnnealGain) -> Status:
    """The status of a forecast with this standard deviation and annealing gain."""
    if (
        len(evidence) < _MIN_POINTS_FOR_FORECAST
        or posterior.youth > _MAX_YOUTH
        or posterior.prob_unsettled > _MAX_PROB_UNSETTLED
    ):
        return Status.TOO_SHORT
    if posterior.misfit() > _MIN_MISFIT_PROBABILITY:
        return Status.MISFIT
    if gain.source == "prior" and gain.std > _MIN_DROP_SHARE_OF_STD * std:
        return Status.PRIOR_DRIVEN
    return Status.IDENTIFIED


def caveats_of(
    history: History,
    run: RunInfo,
    plan: LRSchedule,
    followed: LRSchedule,
    rise: float,
    posterior: Posterior | None,
) -> tuple[Caveat, ...]:
    """The caveats of a forecast, in the order of their names.

    Args:
        history: the losses and learning rates observed.
        run: what is known about the run.
        plan: the learning rates planned, which observed ones are compared with.
        followed: the learning rates that the forecast assumes.
        rise: expected rise of an overfitting loss, 0 for none.
        posterior: the fit of the run; None without losses.
    """
    caveats = set(followed.caveats)
    steps, observed = observed_rates(history)
    recent = np.flatnonzero(steps <= plan.total_steps)[-_OFF_PLAN_OBSERVATIONS:]
    if recent.size:
        difference = np.abs(observed[recent] - plan.lr(steps[recent]))
        if (difference > OFF_PLAN_TOLERANCE * plan.peak).all():
            caveats.add(Caveat.LR_OFF_PLAN)
    if history.n_non_finite:
        caveats.add(Caveat.NON_FINITE)
    if rise > 0:
        caveats.add(Caveat.OVERFITTING)
    if _will_repeat_data(history, run, followed.total_steps):
        caveats.add(Caveat.REPEATED_DATA)
    if posterior is not None and posterior.may_memorise:
        caveats.add(Caveat.MEMORISING)
    if posterior is not None and posterior.probe_is_stale:
        caveats.add(Caveat.PROBE_STALE)
    if posterior is not None and posterior.surprise > _FAILED_SURPRISE:
        caveats.add(Caveat.FORECASTS_FAILED)
    if posterior is not None and posterior.waits_for_step:
        caveats.add(Caveat.LR_STEP_AHEAD)
    knots, rates = followed.knots
    ahead = rates[knots >= max(history.last_step, 0, followed.warmup_steps)]
    if (ahead - np.minimum.accumulate(ahead) > OFF_PLAN_TOLERANCE * followed.peak).any():
        caveats.add(Caveat.LR_RISES_AHEAD)
    return tuple(sorted(caveats))


def _will_repeat_data(history: History, run: RunInfo, total_steps: int) -> bool:
    """Return whether a training loss will reach data seen before, and has hardly reached it yet."""
    an_epoch = run.steps_per_epoch
    if run.metric != "train" or an_epoch is None:
        return False
    return (
        run.epochs_in(total_steps) > 1
        and history.last_step - an_epoch < _SEEN_OF_SECOND_EPOCH * an_epoch
    )


def overfitting_rise(history: History, run: RunInfo, schedule: LRSchedule) -> float:
    """Expected further rise of a validation loss by the end of the run; 0 if it does not rise.

    ``rise so far * clip(steps left / steps since the minimum, 0.01, 1)``. 0 as well if
    the learning rate rose since the minimum, because that explains the rise of the loss. Only
    losses since the latest event count. 0 for a training loss.
    """
    if run.metric != "val":
        return 0.0
    begin, bins = history.latest_event, history.bins()
    start = begin + _START_SHARE * max(history.last_step - begin, 0)
    late = np.isfinite(bins.mean) & (bins.first >= start)
    steps = np.maximum(bins.last[late], 1)
    lowest, rise = overfit_rise(bins.mean[late])
    if not rise or schedule.lr(steps[-1]) > _RISEN_LR_RATIO * schedule.lr(steps[lowest]):
        return 0.0
    left, since = schedule.total_steps - steps[-1], steps[-1] - steps[lowest]
    return rise * float(np.clip(left / since, _MIN_RISE_SHARE, 1.0))


def lowest_validation(history: History, run: RunInfo) -> tuple[int, float] | None:
    """Step and value of the lowest validation loss since the latest event; None if there is none.

    Values are means of three neighbouring losses. There is none for a training loss.
    """
    if run.metric != "val":
        return None
    return lowest_loss(history.bins().since(history.latest_event))


def anneal_gain_of(posterior: Posterior, drop: Mixture) -> AnnealGain:
    """Mean, standard deviation and source (data, probe or prior) of the drop still to come."""
    mean, std = (float(moment[0]) for moment in drop.moments())
    if not np.any(np.abs(drop.mean) > _NEGLIGIBLE_DROP * posterior.transform.unit):
        return AnnealGain(0.0, 0.0, "none")
    source = "prior"
    if posterior.drop_shrinkage() < _MAX_SHRINKAGE_LEARNT:
        source = "data"
    elif posterior.drop_is_measured():
        source = "probe"
    return AnnealGain(mean, std, source)
