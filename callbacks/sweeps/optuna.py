"""Optuna: `ForecastPruner` prunes trials by forecasts of their final values."""

import time
from collections.abc import Callable, Container, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lossforecast.callbacks.monitor import guarded
from lossforecast.callbacks.sweeps.outlooks import TrialOutlooks
from lossforecast.callbacks.sweeps.plans import MAX_LENGTH_RATIO, REASON_KEY, Plans
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.policies import (
    MAX_ENDED_RUNS,
    Action,
    Halving,
    Ladder,
    Outlook,
    Policy,
    Recommendation,
    alike,
    halving_of,
    policies_of,
    policy_list,
)
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["ForecastPruner"]

_Key = tuple[str, int]  # name of the study, number of the trial
_WithForecasts = Callable[[Study, FrozenTrial], FrozenTrial]

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_MAX_SILENCE_S = 3_600.0  # without a report; after that, a running trial may have died


class ForecastPruner(BasePruner):
    """Prunes a trial when its forecast says that it will not end among the best of the study.

    Trials are compared by forecasts of their final values, so schedules, horizons and progress may
    differ, and a trial that has not annealed yet is not at a disadvantage. Forecasts are corrected
    by the errors that those of completed trials made at the same share of their plans. Everything
    is read from the study, so all processes that share its storage make the same decisions. If
    values are maximised, their negatives are forecast. The reported steps must be those of the
    schedule: ``trial.report(val_loss, optimizer_steps_taken)``. If the first trial ends far from
    the end of its schedule, as when epochs are reported, a warning says so.

    A running trial that has reported nothing for an hour no longer counts as a rival: its process
    may have died. If the storage has a heartbeat, Optuna marks it as failed earlier.

    A pruned trial says why in the log and in its user attribute ``"lossforecast:reason"``.

    An internal error is logged once, with its traceback; from then on no trial is pruned.

    Args:
        schedule: the planned learning rates of a trial, or a function of the trial that returns
            them (``lambda trial: LRSchedule.cosine(2_000, trial.params["lr"])``).
        run: facts about a trial, or a function of the trial that returns them; default: its values
            are validation losses. The forecast errors of trials with the same ``optimizer`` are
            assumed to be correlated.
        rule: "dominated" prunes a trial that is unlikely to end among the best. "worthwhile" also
            prunes one whose expected gain over the best completed trial is not worth its steps; it
            is cheaper where trials run one after the other. "halving" is the cheapest: at rungs of
            its own schedule a trial is pruned unless its forecast is among the best third of
            similar trials (same optimizer, peak rates within a factor of two). A
            `lossforecast.policies.Halving` sets share and rungs.
        policy: one or more policies in place of those of the rule; halving continues alongside
            them. Broken and diverged trials are always pruned.
        stock: an Optuna pruner that decides instead. It sees the forecasts of the final value made
            at the reported steps in place of the reported values.
        shadow: only log which trials would be pruned.

    Raises:
        ConfigurationError: an argument is impossible.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[FrozenTrial], LRSchedule],
        run: RunInfo | Callable[[FrozenTrial], RunInfo] | None = None,
        *,
        rule: str | Halving = "dominated",
        policy: Policy | Iterable[Policy] | None = None,
        stock: BasePruner | None = None,
        shadow: bool = False,
    ) -> None:
        if policy is not None and stock is not None:
            raise ConfigurationError("give either a policy or a stock pruner, not both")
        halving = halving_of(rule)
        if halving is not None and stock is not None:
            raise ConfigurationError("give either rule or a stock pruner, not both")
        self.switched_off = False
        self._plans = Plans(schedule, run, "trial")
        self._policies = policy_list(policy) or policies_of(rule)
        self._stock, self._shadow = stock, shadow
        self._watched: dict[_Key, _Watched] = {}
        self._ladder = None if halving is None else Ladder[_Key](halving)
        self._outlooks = TrialOutlooks[_Key]()
        self._over: set[_Key] = set()  # trials that are over and have been read completely
        self._ended: dict[_Key, Outlook] = {}  # completed trials
        self._length_checked = False

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether to prune the trial; called by ``trial.should_prune()``."""
        return bool(self._judged(study, trial))

    def forecast(self, study: Study, trial: FrozenTrial) -> Forecast | None:
        """Return the latest forecast of a trial's final value, negated if values are maximised.

        None if the trial has reported no value.

        Raises:
            LossForecastError: the schedule or a value is impossible.
        """
        return self._watch(study, trial).forecast() if trial.intermediate_values else None

    @guarded
    def _judged(self, study: Study, trial: FrozenTrial) -> bool:
        if not trial.intermediate_values:
            return False
        if self._stock is not None:
            seen = _ForecastStudy(study, self._with_forecasts)
            pruned, why = self._stock.prune(seen, self._with_forecasts(study, trial)), ""  # type: ignore[arg-type]
        else:
            why = self._why_stopped(study, trial)
            pruned = bool(why)
        if pruned:
            would = "would be pruned" if self._shadow else "is pruned"
            because = why and f": {why}"
            logger.info("trial %d %s at step %s%s", trial.number, would, trial.last_step, because)
        if why and not self._shadow:
            study._storage.set_trial_user_attr(trial._trial_id, REASON_KEY, why)
        return pruned and not self._shadow

    def _why_stopped(self, study: Study, trial: FrozenTrial) -> str:
        """Return why to prune a trial, in words; empty to let it go on."""
        trials = study.get_trials(False)
        self._read_ends(study, trials)
        advice = self._advice(study, trial, trials)
        if advice.action is Action.STOP:
            return advice.message
        if self._ladder is None:
            return ""
        behind = self._ladder.behind(_key(study, trial))
        return f"stop: {behind}" if behind else ""

    def _read_ends(self, study: Study, trials: list[FrozenTrial]) -> None:
        """Learn from trials that are over, whichever process they were reported to."""
        over = [
            other
            for other in trials
            if other.state in _OVER and _key(study, other) not in self._over
        ]
        complete = [other for other in over if other.state is TrialState.COMPLETE]
        # the forecasts of those before the last ones would never be used
        learned = {other.number for other in complete[-MAX_ENDED_RUNS:]}
        for other in over:
            key = _key(study, other)
            self._over.add(key)
            if other.intermediate_values and (other.number in learned or self._ladder is not None):
                self._watched_trial(study, other)
                self._watched.pop(key, None)
            if other.state is TrialState.COMPLETE:
                self._outlooks.end(key, _sign(study) * _value(other))
            else:
                self._outlooks.forget(key)

    def _advice(
        self, study: Study, trial: FrozenTrial, trials: list[FrozenTrial]
    ) -> Recommendation:
        rivals, running = [], {_key(study, trial)}
        for other in trials:
            if other.number == trial.number:
                continue
            key = _key(study, other)
            if other.state is TrialState.COMPLETE:
                self._check_length(other)
                if key not in self._ended:
                    loss = _sign(study) * _value(other)
                    self._ended[key] = Outlook.ended(loss, self._kind(other))
                rivals.append(self._ended[key])
            elif other.state is TrialState.RUNNING and other.intermediate_values:
                running.add(key)
                watched = self._watched_trial(study, other)
                if time.monotonic() - watched.heard_at < _MAX_SILENCE_S:
                    rivals.append(self._outlooks.of(key, watched.forecaster))
        self._watched = {key: one for key, one in self._watched.items() if key in running}
        forecaster = self._watch(study, trial)
        return forecaster.recommend(
            policy=self._policies,
            rivals=rivals,
            corrected=self._outlooks.of(_key(study, trial), forecaster),
        )

    def _watch(self, study: Study, trial: FrozenTrial) -> Forecaster:
        """Return the forecaster of a trial, which has observed all reported values."""
        return self._watched_trial(study, trial).forecaster

    def _watched_trial(self, study: Study, trial: FrozenTrial) -> "_Watched":
        key, values = _key(study, trial), trial.intermediate_values
        watched = self._watched.get(key)
        if watched is None or not watched.continues(values):
            watched = _Watched(self._plans.forecaster(trial))
            self._watched[key] = watched
            self._outlooks.forget(key)
        forecaster = watched.forecaster
        for step in watched.catch_up(values, _sign(study)):
            if self._stock is not None:
                watched.finals[step] = _sign(study) * forecaster.forecast().median
            else:
                self._outlooks.record(key, forecaster)
            share = step / forecaster.total_steps
            if self._ladder is not None and self._ladder.wants(key, share):
                group = alike(self._kind(trial), forecaster.schedule)
                self._ladder.record(key, group, share, forecaster.forecast().median)
        return watched

    def _with_forecasts(self, study: Study, trial: FrozenTrial) -> FrozenTrial:
        """Return a copy of the trial with forecasts in place of the reported values."""
        seen = copy(trial)
        seen.intermediate_values = dict(self._watched_trial(study, trial).finals)
        return seen

    def _check_length(self, trial: FrozenTrial) -> None:
        """Warn if the first trial that is over ended far from the end of its schedule."""
        if self._length_checked or trial.last_step is None:
            return
        self._length_checked = True
        planned = self._plans.forecaster(trial).total_steps
        if not planned / MAX_LENGTH_RATIO <= trial.last_step <= planned * MAX_LENGTH_RATIO:
            logger.warning(
                "trial %d ended at step %d, its schedule at %d: report optimizer steps, "
                "trial.report(value, optimizer_steps_taken), or give a schedule in the unit that "
                "is reported",
                trial.number,
                trial.last_step,
                planned,
            )

    def _kind(self, trial: FrozenTrial) -> str:
        return self._plans.run(trial).optimizer or ""


@dataclass
class _Watched:
    """A trial.

    Attributes:
        forecaster: has observed the reported values, negated if they are maximised.
        steps: the steps read so far.
        finals: final values forecast at them, for a stock pruner.
        heard_at: monotonic time of its latest new report, in seconds.
    """

    forecaster: Forecaster
    steps: list[int] = field(default_factory=list)
    finals: dict[int, float] = field(default_factory=dict)
    heard_at: float = field(default_factory=time.monotonic)

    def continues(self, values: dict[int, float]) -> bool:
        """Return whether all new steps come after those read so far."""
        return sorted(values)[: len(self.steps)] == self.steps

    def catch_up(self, values: dict[int, float], sign: int) -> Iterator[int]:
        """Observe the new values one by one, and yield the step of each."""
        for step in sorted(values)[len(self.steps) :]:
            self.forecaster.observe(step, sign * values[step])
            self.steps.append(step)
            self.heard_at = time.monotonic()
            yield step


class _ForecastStudy:
    """A study whose trials have forecasts in place of their values."""

    def __init__(self, study: Study, forecast_of: _WithForecasts) -> None:
        self._real_study, self._forecast_of = study, forecast_of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real_study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [
            self._forecast_of(self._real_study, trial) if trial.intermediate_values else trial
            for trial in self._real_study.get_trials(deepcopy, states)
        ]


def _key(study: Study, trial: FrozenTrial) -> _Key:
    return study.study_name, trial.number


def _sign(study: Study) -> int:
    return -1 if study.direction is StudyDirection.MAXIMIZE else 1


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
