"""`fit_run`: the fit of a run from its losses, its prior, its measured drop and its past runs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecaster.assessment import overfitting_rise
from lossforecast.laws import LAWS
from lossforecast.numerics import Mixture
from lossforecast.posterior import PastRunTransfer, Posterior, fit
from lossforecast.prior import Gap, Prior, most_similar
from lossforecast.runs import Evidence, History, RunInfo, gather, points
from lossforecast.schedule import LRSchedule

__all__ = ["ahead_of", "fit_run", "known_laws", "transfer_from_past"]

_TRANSFER_START_SHARE = 0.1  # of a run without losses: past runs predict it only from there on


def fit_run(
    history: History,
    planned: LRSchedule,
    run: RunInfo,
    *,
    prior: Prior,
    laws: tuple[str, ...],
    gaps: Sequence[Gap],
    past_runs: PastRunTransfer | None,
) -> tuple[Evidence, Posterior]:
    """The evidence in a history and the posterior of the laws given it.

    Args:
        history: the losses so far; it may be empty if there are past runs.
        planned: the learning rates observed, then those planned.
        run: what is known about the run.
        prior: beliefs before the first loss.
        laws: names of the laws.
        gaps: measurements of the annealing probe.
        past_runs: finished runs like this one.
    """
    beliefs = prior.for_run(run, planned, laws)
    evidence = gather(history.bins(), planned, beliefs.burn_in, history.event_steps)
    now = max(history.last_step, 0)
    if past_runs is not None and not len(evidence):
        now = max(round(_TRANSFER_START_SHARE * planned.total_steps), 1)
        evidence = Evidence.placeholder(now, past_runs.level, evidence.events)
    measured = prior.gaps.drop(
        gaps,
        planned,
        now,
        step=evidence.step,
        loss=evidence.without_jumps().loss,
        variance=evidence.variance,
    )
    if measured is not None:
        beliefs = replace(beliefs, calibration=prior.gaps.calibration)
    posterior = fit(
        evidence,
        planned,
        now,
        beliefs,
        measured_drop=measured,
        rise=overfitting_rise(history, run, planned),
        past_runs=past_runs,
    )
    if measured is not None:
        posterior = replace(posterior, probe_is_stale=measured.is_stale)
    _, losses = points(history)
    if losses.size:
        posterior = replace(posterior, highest_loss=float(losses.max()))
    return evidence, posterior


def ahead_of(
    posterior: Posterior, futures: Sequence[LRSchedule], step: int
) -> tuple[Mixture, Mixture]:
    """The loss at a step and the drop by annealing until then, over equally likely schedules."""
    stop = max(step, posterior.now)
    losses, drops = zip(*(posterior.ahead(plan, stop) for plan in futures), strict=True)
    if step < posterior.now:
        losses = (posterior.predict(futures[0], np.array([step])),)
    return Mixture.joined(losses), Mixture.joined(drops)


def transfer_from_past(
    prior: Prior, run: RunInfo, schedule: LRSchedule, laws: tuple[str, ...]
) -> PastRunTransfer | None:
    """The prediction of a new run from the past runs of the prior that are most similar to it."""
    posteriors = []
    for past, difference_std in most_similar(prior.past, run, schedule):
        beliefs = prior.for_run(past.run, past.schedule, laws)
        end = past.schedule.total_steps
        posteriors.append((fit(past.evidence, past.schedule, end, beliefs), difference_std))
    return PastRunTransfer.of(posteriors)


def known_laws(laws: str | Iterable[str]) -> tuple[str, ...]:
    """The names of laws; "auto" for all.

    Raises:
        ConfigurationError: a name is unknown, or there is none.
    """
    names = tuple(LAWS) if laws == "auto" else (laws,) if isinstance(laws, str) else tuple(laws)
    unknown = [name for name in names if name not in LAWS]
    if unknown or not names:
        raise ConfigurationError(
            f"unknown laws {unknown or laws!r}; choose from {', '.join(LAWS)}, or 'auto'"
        )
    return names
