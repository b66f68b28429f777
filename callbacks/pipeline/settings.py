"""`Settings`: the arguments that all callbacks of training loops share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.monitor import RunMonitor, Sink, listed_sinks
from lossforecast.callbacks.pipeline.store_place import Place, StoreLike, resolve_store
from lossforecast.checks import instance, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Forecaster
from lossforecast.policies import DEFAULT_POLICIES, Policy, reschedule
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

if TYPE_CHECKING:
    from lossforecast.callbacks.probe import AnnealingProbe

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """Arguments of a callback, checked before the run so that misuse cannot disturb it.

    Args:
        metric: "train" or "val": the loss that is forecast.
        monitor: name of the monitored metric in the host's logs; None is the training loss.
        target: final loss to reach, in the units of the forecast loss. With `stop` the run ends
            when it will very likely be missed. Default: the best final loss of comparable runs in
            `store`, if `run` names a project or a dataset.
        stop: whether the run may be stopped.
        total_steps: length of the run in optimizer steps.
        schedule: planned learning rate of every step, instead of the future of the scheduler.
        apply: whether to begin a recommended decay, once; needs a
            `lossforecast.callbacks.SteerableLR`.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`, with `apply` also `reschedule()`.
        run: facts about the run, such as its project, dataset and model size; `metric` is set by
            the callback, and the optimizer if it is missing.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        probe: measures on the weights how much annealing will lower the loss.
        store: where runs are recorded and past runs are found: True for the store of this user, or
            a path, a database URL or a `lossforecast.RunStore`; False for none. Default: what
            $LOSSFORECAST_STORE says (1, a path or a URL), else none. Runs of the same `run.project`
            are compared; by default, runs of the same script.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.

    Raises:
        ConfigurationError: an argument has the wrong type or makes no sense.
    """

    metric: str = "train"
    monitor: str | None = None
    target: float | None = None
    stop: bool = False
    total_steps: int | None = None
    schedule: LRSchedule | None = None
    apply: bool = False
    policy: Policy | Iterable[Policy] | None = None
    run: RunInfo | None = None
    laws: str | Iterable[str] = "auto"
    prior: Prior | None = None
    every_n_steps: int | None = None
    probe: "AnnealingProbe | None" = None
    store: StoreLike = field(default=None, repr=False)  # may hold a password
    sinks: Iterable[Sink] = ()
    policies: list[Policy] | None = field(init=False)
    """The policies of `policy`, or the default ones."""
    place: Place | None = field(init=False, repr=False)
    """Path or URL of the store, or the store itself; None for no store."""

    def __post_init__(self) -> None:
        if self.metric not in ("train", "val"):
            raise ConfigurationError(f'metric is {self.metric!r}; it must be "train" or "val"')
        if self.monitor is not None and (not isinstance(self.monitor, str) or not self.monitor):
            raise ConfigurationError(
                f"monitor must be the name of a metric or None: {self.monitor!r}"
            )
        for name, kind in (
            ("stop", bool),
            ("apply", bool),
            ("run", RunInfo),
        ):
            instance(name, getattr(self, name), kind, ConfigurationError)
        if self.probe is not None:  # loads torch
            from lossforecast.callbacks.probe import AnnealingProbe

            instance("probe", self.probe, AnnealingProbe, ConfigurationError)
        self._set("laws", self.laws if isinstance(self.laws, str) else tuple(self.laws))
        self._set("sinks", listed_sinks(self.sinks))
        self._set("place", resolve_store(self.store))
        plan = self._checked_plan()
        forecaster = Forecaster(  # checks its arguments
            plan,
            run=self.run,
            laws=self.laws,
            prior=self.prior,
            every_n_steps=self.every_n_steps,
        )
        policy = self.policy
        if policy is None and self.apply:
            policy = [*DEFAULT_POLICIES, reschedule()]
        self._set("policies", RunMonitor(forecaster, target=self.target, policy=policy).policies)

    def _checked_plan(self) -> LRSchedule:
        """Return the given plan; without one, any plan of the given length."""
        if self.total_steps is not None:
            steps = whole("total_steps", self.total_steps, ConfigurationError, least=1)
            self._set("total_steps", steps)
        plan = self.schedule
        if plan is None:
            return LRSchedule.constant(self.total_steps or 1, 1.0)
        if not isinstance(plan, LRSchedule):
            raise ConfigurationError(
                f"schedule must be an LRSchedule, not {type(plan).__name__}: try "
                "LRSchedule.from_array(lrs), or leave it out to have the scheduler read"
            )
        if self.total_steps not in (None, plan.total_steps):
            raise ConfigurationError(
                f"total_steps is {self.total_steps}, but the schedule has {plan.total_steps} "
                "steps: give one of them, or extended_to() / truncated_to() the schedule"
            )
        return plan

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
