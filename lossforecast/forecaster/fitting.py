"""`Background`: what is known before a run, and the fit of the run given that and its losses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecaster.assessment import overfitting_rise
from lossforecast.ladder import Ladder, LadderForecast
from lossforecast.laws import LAWS
from lossforecast.numerics import Mixture
from lossforecast.posterior import PastRunTransfer, Posterior, fit
from lossforecast.prior import Gap, Prior, most_similar
from lossforecast.runs import Evidence, History, RunInfo, gather, points
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["Background", "ahead_of", "known_laws"]

_TRANSFER_START_SHARE = 0.1  # of a run without losses: past runs predict it only from there on


@dataclass(frozen=True)
class Background:
    """The knowledge before a run.

    Attributes:
        prior: beliefs before the first loss.
        laws: names of the laws.
        past_runs: the prediction from the most similar past runs; None without any.
        ladder: the past runs of smaller models of its family; None without any.
    """

    prior: Prior
    laws: tuple[str, ...]
    past_runs: PastRunTransfer | None
    ladder: Ladder | None

    @classmethod
    def of(cls, prior: Prior, run: RunInfo, schedule: LRSchedule, laws: tuple[str, ...]) -> Self:
        """Learn from the past runs of a prior."""
        posteriors = []
        for past, difference_std in most_similar(prior.past, run, schedule):
            beliefs = prior.for_run(past.run, past.schedule, laws)
            end = past.schedule.total_steps
            posteriors.append((fit(past.evidence, past.schedule, end, beliefs), difference_std))
        rates_known = Caveat.LR_UNKNOWN not in schedule.caveats
        ladder = Ladder.of(prior.past, run, prior, laws) if rates_known else None
        return cls(prior, laws, PastRunTransfer.of(posteriors), ladder)

    @property
    def is_blank(self) -> bool:
        """True if nothing can be forecast before the first loss."""
        return self.past_runs is None and self.ladder is None

    def fit(
        self, history: History, planned: LRSchedule, run: RunInfo, gaps: Sequence[Gap]
    ) -> tuple[Evidence, Posterior]:
        """The evidence in a history and the posterior of the laws given it.

        Args:
            history: the losses so far; it may be empty unless the background `is_blank`.
            planned: the learning rates observed, then those planned.
            run: what is known about the run.
            gaps: measurements of the annealing probe.
        """
        prior, past_runs = self.prior, self.past_runs
        beliefs = prior.for_run(run, planned, self.laws)
        evidence = gather(history.bins(), planned, beliefs.burn_in, history.event_steps)
        smaller_runs = self._smaller_runs(evidence)
        now = max(history.last_step, 0)
        if not self.is_blank and not len(evidence):
            now = max(round(_TRANSFER_START_SHARE * planned.total_steps), 1)
            evidence = Evidence.placeholder(now, self._level(planned), evidence.events)
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
        return evidence, replace(posterior, smaller_runs=smaller_runs)

    def _smaller_runs(self, evidence: Evidence) -> LadderForecast | None:
        """The course predicted by the ladder; None while an event, where losses may jump, is ahead.

        Losses before an event are moved to the level of those after it.
        """
        latest = evidence.step[-1] if len(evidence) else 0
        if self.ladder is None or (evidence.events > latest).any():
            return None
        return LadderForecast(self.ladder, evidence.without_jumps())

    def _level(self, planned: LRSchedule) -> float:
        """Approximate final loss, from the ladder or else from the past runs."""
        if self.ladder is None:
            assert self.past_runs is not None
            return self.past_runs.level
        end = self.ladder.course(planned).at(np.array([planned.total_steps]))
        return float(end.quantiles(np.array([0.5]))[0, 0])


def ahead_of(
    posterior: Posterior, futures: Sequence[LRSchedule], step: int
) -> tuple[Mixture, Mixture]:
    """The loss at a step and the drop by annealing until then, over equally likely schedules."""
    stop = max(step, posterior.now)
    losses, drops = zip(*(posterior.ahead(plan, stop) for plan in futures), strict=True)
    if step < posterior.now:
        losses = (posterior.predict(futures[0], np.array([step])),)
    return Mixture.joined(losses), Mixture.joined(drops)


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
