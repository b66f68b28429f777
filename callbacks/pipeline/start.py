"""The start of a run, between the arguments of a callback and the first step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.monitor import RunMonitor, Sink, adopt_plan, clean_up
from lossforecast.callbacks.pipeline.capture import Capture
from lossforecast.callbacks.pipeline.describe import describe, kind_message, with_given
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.plan_watch import PlanSource
from lossforecast.callbacks.pipeline.recognition import Recognition
from lossforecast.callbacks.pipeline.recorder import RunRecorder
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

if TYPE_CHECKING:
    from lossforecast.callbacks.lr_schedulers import Steering

__all__ = ["HostRun", "resume", "start"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HostRun(ABC):
    """A run at its start, as the host's training loop describes it.

    Attributes:
        plan: planned learning rate of every step.
        name: name of the run for people; None is the present time.
        metrics: kinds of loss that get a forecaster each, with the metric of the settings.
        run: facts about the run, instead of those of the settings.
        sinks: sinks of the host, called before those of the settings.
        may_act: whether the run may be stopped or changed, if the settings ask for it.
        source: what the plan was read from, if it can change.
        steering: reports changes of a steerable scheduler, and may begin a decay.
        steps_taken: optimizer steps taken before this start.
        steps_per_epoch: optimizer steps in one pass over the training data; None if unknown.
        saved: state of the pipeline in the checkpoint that is resumed, if any.
    """

    plan: LRSchedule
    name: str | None = None
    metrics: tuple[str, ...]
    run: RunInfo | None = None
    sinks: Iterable[Sink] = ()
    may_act: bool = True
    source: PlanSource | None = None
    steering: "Steering | None" = None
    steps_taken: int = 0
    steps_per_epoch: float | None = None
    saved: dict[str, Any] | None = None

    @abstractmethod
    def recognised(self) -> Recognition:
        """Return what the model and the optimizer show about the run."""

    @abstractmethod
    def capture(self) -> Capture:
        """Begin to count the steps, and return what keeps the losses."""

    def begin_probe(self, steps: Callable[[], int]) -> None:  # noqa: B027, most have none
        """Start the annealing probe, if there is one.

        Args:
            steps: returns the optimizer steps taken.
        """


def start(settings: Settings, host: HostRun) -> Pipeline:
    """Create the capture, forecasters, monitor, recorder and pipeline; resume a saved run.

    On failure the hooks are removed from the optimizer again.

    Args:
        settings: arguments of the callback.
        host: the run as the training loop describes it.

    Raises:
        ConfigurationError: the run does not fit the arguments.
        StateError: the saved state is damaged.
    """
    seen = host.recognised()
    forecasters, recorder = _forecasters(settings, host, seen)
    monitor = RunMonitor(
        forecasters[settings.metric],
        target=settings.target,
        policy=settings.policies,
        sinks=[*host.sinks, *settings.sinks],
        recorder=recorder,
    )
    capture, probe = host.capture(), settings.probe
    try:
        host.begin_probe(lambda: capture.steps)
        pipeline = Pipeline(
            capture,
            forecasters,
            monitor,
            stop=settings.stop and host.may_act,
            at_validations=settings.monitor is not None,
            steering=host.steering,
            probe=probe,
        )
        if host.saved is None:
            pipeline.skip_to(host.steps_taken)
        else:
            saved = with_given(host.saved, settings.run, host.steps_per_epoch)
            pipeline.load_state_dict(saved)
            adopt_plan(monitor.forecaster, host.plan, host.steps_taken)
        if host.source is not None:
            pipeline.watch_plan(host.source, host.plan)
    except BaseException:
        clean_up(capture.close, *([probe.close] if probe is not None else []))
        raise
    _log_kind(pipeline, settings, seen)
    return pipeline


def resume(pipeline: Pipeline, settings: Settings, state: dict[str, Any]) -> None:
    """Continue a run from a saved state, after `start`; the user's facts about the run prevail.

    Raises:
        StateError: the state is not that of a run, or is damaged; nothing is changed then.
    """
    before = pipeline.monitor.forecaster.run.kind
    pipeline.load_state_dict(with_given(state, settings.run))
    if pipeline.monitor.forecaster.run.kind is not before:
        _log_kind(pipeline, settings, Recognition())


def _log_kind(pipeline: Pipeline, settings: Settings, seen: Recognition) -> None:
    """Log the kind of the run, in process 0."""
    if processes()[0] == 0:
        logger.info("%s", kind_message(pipeline.monitor.forecaster.run, settings.run, seen))


def _forecasters(
    settings: Settings, host: HostRun, seen: Recognition
) -> tuple[dict[str, Forecaster], RunRecorder | None]:
    """Return a forecaster for each metric, and the recorder where there is a store.

    The metric of the settings is forecast with the past runs of the store.
    """
    run = settings.run if host.run is None else host.run
    runs = {
        name: describe(run, name, settings.monitor, seen, host.steps_per_epoch)
        for name in host.metrics
    }
    priors: dict[str, Prior | None] = dict.fromkeys(host.metrics, settings.prior)
    recorder = RunRecorder.create(
        settings.place, host.name, runs[settings.metric], plan=host.plan, seen=seen
    )
    if recorder is not None:
        runs[settings.metric] = recorder.run
        priors[settings.metric] = recorder.prior(settings.prior)
    forecasters = {
        name: Forecaster(
            host.plan,
            run=runs[name],
            laws=settings.laws,
            prior=priors[name],
            every_n_steps=settings.every_n_steps,
        )
        for name in host.metrics
    }
    return forecasters, recorder
