"""`OwnLoop`: the base class of the callbacks that a training loop calls itself."""

import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, Self

from lossforecast.callbacks.monitor import (
    ConsoleSink,
    Sink,
    adopt_plan,
    clean_up,
    guarded,
    switch_off,
)
from lossforecast.callbacks.pipeline import (
    HostRun,
    LoopCallback,
    Pipeline,
    PlanSource,
    Settings,
    resume,
    start,
)
from lossforecast.checks import instance
from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.signals import is_from_signal

__all__ = ["OwnLoop", "console_sinks"]


class OwnLoop(LoopCallback):
    """Forecasts from the losses that a training loop passes to it, for the length of a ``with``.

    A subclass creates the run in its constructor with `_begin`, and passes training losses to
    `_keep`.
    """

    _pipeline: Pipeline
    _warned = False
    _run_attributes: ClassVar[tuple[str, ...]] = ("_resumed", "_new_source", "_capture")

    def _begin(self, settings: Settings, host: HostRun, source: Callable[[], PlanSource]) -> None:
        """Start the run.

        Args:
            settings: arguments of the callback.
            host: the run as the loop describes it.
            source: returns where the plan of a resumed run comes from.

        Raises:
            ConfigurationError: the run does not fit the arguments.
        """
        self.settings = settings
        self._resumed = False
        self._new_source: Callable[[], PlanSource] | None = source
        self._pipeline = start(settings, host)
        self._capture = self._pipeline.capture
        # without `with` or `close`, the run ends when this object is deleted or Python ends
        self._finalizer = weakref.finalize(self, self._pipeline.finalize)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.switched_off = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(wait=error is None, error=error)

    # ------------------------------------------------------------------ in the loop

    def validation(self, loss: Any) -> None:
        """Record a validation loss, measured after the optimizer steps taken so far."""
        if not self._is_copy():
            self._validate(loss)
            self._poll_if_due()

    @property
    def should_stop(self) -> bool:
        """True when the training loop should end; always False without ``stop=True``."""
        if self._is_copy():
            return False
        if self._pipeline.stop:
            self._poll_if_due()
        return self._pipeline.should_stop

    def close(self) -> None:
        """Read the remaining losses, make the last forecast and detach from the training loop."""
        self._close(wait=True)

    # ------------------------------------------------------------------ reading

    @property
    def metric(self) -> str:
        """The loss of `forecast` and `recommendation`: "train" or "val"."""
        return self.settings.metric

    @property
    def forecaster(self) -> Forecaster:
        """The forecaster of the chosen metric, with all losses read so far."""
        return self._run.forecaster()

    def forecaster_of(self, metric: str) -> Forecaster:
        """Return the forecaster of the "train" or the "val" loss; both are kept."""
        if metric not in self._run.forecasters:
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        return self._pipeline.forecaster(metric)

    @property
    def steps(self) -> int:
        """Optimizer steps taken; includes steps that the device may turn out to have skipped."""
        return self._run.capture.steps

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, to be saved with the model.

        It has all but the losses of the present step, and no pending stop: a resumed run continues
        until a stop is due again.
        """
        self._flush()
        return self._run.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; a changed schedule is adopted with a warning.

        Facts about the run are as saved, except for those that `run` gives now.

        Raises:
            StateError: the state is not of a run, or is damaged.
        """
        resume(self._run, self.settings, state)
        self._resumed = True
        if self.settings.probe is not None:
            self.settings.probe.restart()

    # ------------------------------------------------------------------ inside

    @property
    def _run(self) -> Pipeline:
        if vars(self).get("_pipeline") is None:
            raise ConfigurationError(f"{self._copied}: create a {type(self).__name__} for each run")
        return self._pipeline

    @property
    def _copied(self) -> str:
        return f"this is a copy of a {type(self).__name__}, which belongs to no run"

    def _is_copy(self) -> bool:
        """Return whether this is a copy, which belongs to no run; warn the first time."""
        if vars(self).get("_pipeline") is not None:
            return False
        if not self._warned:
            self._warned = True
            logger.warning("no forecasts: %s", self._copied)
        return True

    def _keep(self, loss: Any) -> None:
        """Record the loss of a (micro-)batch, and forecast if that is due."""
        self._poll_if_due()
        if self.switched_off:
            self._capture.forget()
            return
        try:
            self._capture.keep(loss)
        except Exception as error:
            if is_from_signal(error):
                raise
            switch_off(self)

    def _poll_if_due(self) -> None:
        if self._pipeline.is_due:
            self._poll()
            if self.switched_off:
                self._pipeline.withdraw()

    @guarded
    def _poll(self) -> None:
        self._adopt_plan()
        self._pipeline.poll()

    @guarded
    def _flush(self) -> None:
        self._pipeline.flush()

    @guarded
    def _validate(self, loss: Any) -> None:
        self._adopt_plan()
        self._pipeline.validate(float(loss))

    @guarded
    def _finish(self, wait: bool) -> None:
        self._adopt_plan()
        self._pipeline.finish(wait=wait)
        if wait:
            self._pipeline.warn_at_end()

    def _close(self, wait: bool, error: BaseException | None = None) -> None:
        if self._is_copy():
            return
        try:
            self._finish(wait)
            clean_up(self._pipeline.leave)
            self._record_end(error)
        finally:  # also after Ctrl-C during the last forecast
            self._finalizer.detach()
            self._pipeline.close()
            self._new_source = None

    def _adopt_plan(self) -> None:
        """Adopt the plan of a resumed run, at its first step, with a warning if it has changed.

        By then the user has restored the scheduler, too.
        """
        if not self._resumed or self._new_source is None:
            return
        self._resumed, source = False, self._new_source()
        plan = source.read(self._capture.steps)
        self._pipeline.watch_plan(source, plan)
        for name, forecaster in self._pipeline.forecasters.items():
            if name == self.metric:
                adopt_plan(forecaster, plan, self._capture.steps)
            else:
                forecaster.adopt_plan(plan, self._capture.steps)


def console_sinks(verbose: bool | None, hosts: Iterable[Sink], settings: Settings) -> list[Sink]:
    """Return the sinks of a host, and one that prints lines if it is asked for or there is none.

    Args:
        verbose: whether to print; None if nothing else shows forecasts.
        hosts: sinks of the host.
        settings: arguments of the callback.

    Raises:
        ConfigurationError: `verbose` is neither a bool nor None.
    """
    instance("verbose", verbose, bool, ConfigurationError)
    sinks = list(hosts)
    if verbose or (verbose is None and not sinks and not settings.sinks):
        sinks.append(ConsoleSink(always=bool(verbose)))
    return sinks
