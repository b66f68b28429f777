"""`LossForecast`: forecasts inside a training loop of any framework."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lossforecast.callbacks.loop.counted_run import CountedRun
from lossforecast.callbacks.loop.own_loop import OwnLoop, console_sinks
from lossforecast.callbacks.loop.plan import LearningRate, plan_of
from lossforecast.callbacks.loop.step_capture import StepCapture
from lossforecast.callbacks.monitor import Sink, guarded
from lossforecast.callbacks.pipeline import PlanSource, Settings, StoreLike
from lossforecast.policies import Policy
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo

__all__ = ["LossForecast"]


class LossForecast(OwnLoop):
    """Forecasts the final loss of a training loop in JAX, MLX, NumPy or anything else.

        with LossForecast(optax.cosine_decay_schedule(1e-3, N), total_steps=N) as forecast:
            for batch in batches:
                params, state, loss = train_step(params, state, batch)
                forecast.step(loss)                   # once per optimizer step
                if forecast.should_stop:              # False unless stop=True
                    break

    Each call of `step` is an optimizer step. A step does not wait for losses of JAX: they are read
    on the host when a forecast needs them, about 60 times a run.

    A copy, by `copy` or `pickle`, has the same settings but belongs to no run: it records nothing.

    By default it only advises. An error of its own is logged once, forecasting is switched off and
    training continues.

    Args:
        lr: learning rate: a function of the number of steps taken before, such as a schedule of
            Optax or MLX, a number, or an `LRSchedule`.
        total_steps: length of the run in optimizer steps; not needed with an `LRSchedule`.
        metric: "train" or "val": the loss of `forecast` and `recommendation`. Pass validation
            losses to `validation`.
        target: final loss to reach; with `stop=True` the run ends when it will very likely be
            missed.
        stop: whether `should_stop` may become True.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`.
        run: facts about the run (`lossforecast.RunInfo`), such as the optimizer, the task and the
            number of parameters, which cannot be seen here; `metric` is set from `metric`.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        store: where runs are recorded and past runs are found: True, a path, a database URL or a
            `lossforecast.RunStore`. See `lossforecast.callbacks.pipeline.Settings`.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.
        verbose: whether to print a line on stderr after each tenth of the run. Default: if there
            are no sinks, and Python's logging is not configured.

    Raises:
        ConfigurationError: the length of the run is unknown, or an argument makes no sense.
    """

    _capture: StepCapture

    def __init__(
        self,
        lr: LearningRate,
        total_steps: int | None = None,
        *,
        metric: str = "train",
        target: float | None = None,
        stop: bool = False,
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        store: StoreLike = None,
        sinks: Iterable[Sink] = (),
        verbose: bool | None = None,
    ) -> None:
        plan = plan_of(lr, total_steps)
        settings = Settings(
            metric=metric,
            target=target,
            stop=stop,
            schedule=plan,
            policy=policy,
            run=run,
            laws=laws,
            prior=prior,
            every_n_steps=every_n_steps,
            store=store,
            sinks=sinks,
        )
        source = PlanSource(read=lambda step: plan, fixed_rates=True)
        host = CountedRun(
            plan=plan,
            metrics=("train", "val"),
            sinks=console_sinks(verbose, (), settings),
            source=source,
            next_rates=lambda steps: plan.lr(np.minimum(steps + 1, plan.total_steps)),
        )
        self._begin(settings, host, lambda: source)

    def step(self, loss: Any, lr: float | None = None) -> None:
        """Record the training loss of an optimizer step, and count the step.

        Args:
            loss: one number, such as an array of JAX, computed with the weights before the step.
            lr: its learning rate, where it may differ from the planned one.
        """
        if not self._is_copy():
            self._keep(loss)
            self._count(lr)

    @guarded
    def _count(self, lr: float | None) -> None:
        self._capture.count(rate=lr)
