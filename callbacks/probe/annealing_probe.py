"""`AnnealingProbe`: measures the effect of annealing on averaged weights before it begins."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossforecast.callbacks.capture import Transfer, uncompiled
from lossforecast.callbacks.probe.averages import WeightAverages
from lossforecast.callbacks.probe.undisturbed import undisturbed
from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.log import logger
from lossforecast.signals import contained

__all__ = ["AnnealingProbe"]

_DEFAULT_HORIZON_DIVISORS = (80, 20)  # a horizon is the length of the run divided by one of these
_UPDATES_PER_HORIZON = 10  # updates of every average within the shortest horizon
_MIN_HORIZON_STEPS = 5
_MAX_HORIZON_SHARE = 0.1  # of the run
_BURN_IN_HORIZONS = 3  # horizons after which an average has forgotten its initial value
_NOT_STARTED = 2**63  # stands for the step of the next measurement before the first step
_FORWARD_COST = 0.5  # share of the time of a training step that the loss of a batch takes

T = TypeVar("T")
Samples = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps of measurements, (n,), and their gaps, (n, n_horizons)."""


class AnnealingProbe:
    """Measures how much lower the loss is with averaged weights than with the present weights.

    Averaging the recent weights removes most of the noise that annealing removes, so the gap
    ``loss(weights) - loss(average)`` shows the drop before the learning rate decays. Give a probe
    to a callback:

        probe = AnnealingProbe(lambda model, batch: model(*batch), model)
        with TorchLossForecast(optimizer, scheduler, N, probe=probe) as monitor:
            for batch in probe.watch(loader):
                ...

    At regular steps the loss of a batch is computed in evaluation mode, before the training step on
    it: with the present weights and with each of their averages. The training is not affected. The
    averages take one copy of the trained weights for each horizon, and one more during a
    measurement; measuring takes about a fraction `cost` of the time of the run.

    In a run of several processes each needs a probe with the same arguments. All measure at the
    same steps, on the module inside ``DistributedDataParallel``.

    Args:
        loss: function ``loss(model, batch)`` that returns one number in the unit of the monitored
            loss. It must not train, log or store anything. Default, with the Hugging Face
            ``Trainer`` only: the loss that the model returns.
        model: the trained model; not needed with the Lightning and Hugging Face callbacks.
        batches: a few held-out batches to measure on, instead of those of `watch`.
        horizons: horizons of the averages in optimizer steps; default: 1/80 and 1/20 of the run.
            Horizons above 1/10 of the run are ignored.
        cost: approximate share of the training time that measuring may take, 0..1.
        offload: device that holds the averages, such as "cpu"; default: that of the weights.

    Raises:
        ConfigurationError: an argument is impossible.
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], Any] | None = None,
        model: nn.Module | None = None,
        batches: Sequence[Any] | None = None,
        *,
        horizons: Iterable[int] | None = None,
        cost: float = 0.01,
        offload: str | torch.device | None = None,
    ) -> None:
        if loss is not None and not callable(loss):
            raise ConfigurationError(f"loss must be a function of model and batch, not {loss!r}")
        if model is not None and not isinstance(model, nn.Module):
            raise ConfigurationError(f"model must be a torch module, not {type(model).__name__}")
        if batches is not None and not batches:
            raise ConfigurationError("batches is empty: give a few held-out ones, or None")
        self._given = _known_horizons(horizons)
        share = number("cost", cost, ConfigurationError)
        if not 0 < share <= 1:
            raise ConfigurationError(
                f"cost is {cost}; it must be above 0 and at most 1, such as 0.01"
            )
        self._given_loss, self._given_model, self._batches = loss, model, batches
        self._cost, self._offload = share, offload
        self._reset()

    def _reset(self) -> None:
        self.loss, self._model = self._given_loss, self._given_model
        self.switched_off = False
        self.horizons: tuple[int, ...] = self._given or ()
        """Horizons of the averages in optimizer steps, once the probe has begun."""
        self.every = 0
        """Optimizer steps between two measurements, once the probe has begun."""
        self._averages: WeightAverages | None = None
        self._steps: Callable[[], int] = lambda: 0
        self._context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._began = self._n_measured = 0
        self._next = _NOT_STARTED  # until the first step
        self._hook: Any = None
        self._waiting: list[tuple[int, Transfer]] = []  # steps of measurements, and their losses
        self._saved: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments alone, so that a copy is a probe that has not begun."""
        arguments = ("_given", "_given_loss", "_given_model", "_batches", "_cost", "_offload")
        return {name: vars(self)[name] for name in arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    # ------------------------------------------------------------------ in the loop

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; on some of them, measure the gaps before they are yielded."""
        for batch in batches:
            self.measure_if_due(batch)
            yield batch

    @uncompiled
    def measure_if_due(self, batch: Any) -> None:
        """Measure on a batch that is about to be trained on, if a measurement is due."""
        if self._saved is not None:
            self._restore()
        if self._batches is None and self._steps() >= self._next:
            self._measure(batch)

    # ------------------------------------------------------------------ for the callbacks

    def needs_loss(self) -> None:
        """Raise ConfigurationError if the probe has no loss function."""
        if self.loss is None:
            raise ConfigurationError(
                "the probe needs the loss of a batch: AnnealingProbe(lambda model, batch: ...)"
            )

    def begin(
        self,
        optimizer: Any,
        steps: Callable[[], int],
        total_steps: int,
        model: nn.Module | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """Begin to average the weights and to measure.

        Args:
            optimizer: the averages are updated after its steps.
            steps: function that returns the number of optimizer steps taken.
            total_steps: length of the run.
            model: the trained model, unless the constructor got one.
            context: function that returns the context manager in which the loss is computed.
            loss: loss function, unless the constructor got one.

        Raises:
            ConfigurationError: the model or the loss function is missing.
        """
        model = self._model if self._model is not None else model
        if model is None:
            raise ConfigurationError("the probe needs the model: AnnealingProbe(loss, model)")
        self.loss = self.loss or loss
        self.needs_loss()
        self._model, self._steps, self._context = model, steps, context
        given = self._given or sorted(total_steps // n for n in _DEFAULT_HORIZON_DIVISORS)
        longest = _MAX_HORIZON_SHARE * total_steps
        self.horizons = tuple(h for h in given if _MIN_HORIZON_STEPS <= h <= longest)
        self.switched_off, self._n_measured = not self.horizons, 0
        if self.switched_off:
            logger.warning("no annealing probe: a run of %d steps is too short for it", total_steps)
            return
        self.restart()
        self.every = math.ceil((len(self.horizons) + 1) * _FORWARD_COST / self._cost)
        pace = max(1, self.horizons[0] // _UPDATES_PER_HORIZON)
        self._averages = averages = WeightAverages(model, self.horizons, pace, self._offload)
        self._hook = optimizer.register_step_post_hook(self._after_step)
        logger.info(
            "the annealing probe keeps averages of the weights over %s steps: %.3g MB on %s, and "
            "%.3g MB more during a measurement, every %d steps",
            ", ".join(map(str, self.horizons)),
            averages.megabytes * len(self.horizons),
            averages.device,
            averages.megabytes,
            self.every,
        )

    def restart(self) -> None:
        """Start again at the next step, from the loaded state if there is one."""
        self._next = _NOT_STARTED
        self._waiting = []

    def take(self, before: int | None = None) -> Samples:
        """Take the steps of measurements, (n,), and their gaps, (n, n_horizons).

        A gap is nan until its average has forgotten the initial weights.

        Args:
            before: take only measurements before this step; default: all.
        """
        cut = sum(before is None or step < before for step, _ in self._waiting)
        taken, self._waiting = self._waiting[:cut], self._waiting[cut:]
        steps = np.array([step for step, _ in taken], np.int64)
        losses = np.array([transfer.read() for _, transfer in taken]).reshape(
            cut, 1 + len(self.horizons)
        )
        early = steps[:, np.newaxis] - self._began < _BURN_IN_HORIZONS * np.array(self.horizons)
        return steps, np.where(early, np.nan, losses[:, :1] - losses[:, 1:])

    def close(self) -> None:
        """Remove the hook from the optimizer and drop the averages."""
        if self._hook is not None:
            self._hook.remove()
            if not self._n_measured and not self.switched_off and self._steps() > 2 * self.every:
                logger.warning(
                    "the annealing probe has seen no batch: pass the loader through "
                    "probe.watch(loader), or give it a few held-out batches"
                )
        self._hook = self._averages = None

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and pending measurements; empty before the first step and if sharded.

        Without them a resumed run measures nothing until its averages have forgotten the weights
        that they start from.
        """
        averages = self._averages
        if averages is None or averages.sharded or self._next == _NOT_STARTED:
            return {}
        losses = [[step, transfer.read().tolist()] for step, transfer in self._waiting]
        return {
            "began": self._began,
            "looks": self._n_measured,
            "next": self._next,
            "losses": losses,
            "averages": averages.averages,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state before training continues.

        The state is checked at the next step: if it is damaged, or belongs to another model or
        other horizons, the error is logged and the probe switched off.
        """
        self._saved = state or None
        self.restart()

    # ------------------------------------------------------------------ inside

    def _restore(self) -> None:
        """Restore the loaded state."""
        saved, self._saved = self._saved, None
        if self._averages is None or saved is None:
            return
        with contained(self._fail_to_restore):
            began, n_measured, next_step = (
                whole(name, saved[name], StateError, least=0) for name in ("began", "looks", "next")
            )
            waiting = [(int(step), Transfer(losses)) for step, losses in saved["losses"]]
            self._averages.load(saved["averages"])
            self._began, self._n_measured = began, n_measured
            self._next, self._waiting = next_step, waiting

    @uncompiled
    def _after_step(self, *_: Any) -> None:
        if self._saved is not None:
            self._restore()
        if self._averages is None:
            return
        steps = self._steps()
        with contained(self._fail):
            if self._next == _NOT_STARTED:
                self._averages.restart()
                self._began, self._next = steps, (steps // self.every + 1) * self.every
            if steps % self._averages.every == 0:
                self._averages.update()
        if self._batches is not None and steps >= self._next:
            self._measure(self._batches[self._n_measured % len(self._batches)])

    def _measure(self, batch: Any) -> None:
        """Compute the losses of the weights and of their averages on a batch."""
        if self._averages is None:
            return
        step = self._steps()
        self._next = (step // self.every + 1) * self.every
        self._n_measured += 1
        with contained(self._fail):
            self._waiting.append((step, Transfer(self._losses(batch))))

    def _losses(self, batch: Any) -> list[Tensor]:
        """Return the losses with the present weights and with their average over each horizon."""
        assert self._averages is not None
        assert self._model is not None
        assert self.loss is not None
        losses = []
        with undisturbed(self._model), self._averages.exposed() as exposed:
            model = _inner(self._model)
            for horizon in (None, *self.horizons):
                if horizon is not None:
                    exposed.show(horizon)
                with self._context():
                    loss = self.loss(model, batch)
                if not isinstance(loss, Tensor) or loss.numel() != 1:
                    raise ConfigurationError(
                        f"the probe's loss must be one number, not {loss!r:.80}"
                    )
                losses.append(loss.detach().reshape(()).float())
                _reshard(self._model)
        return losses

    def _fail_to_restore(self, error: Exception) -> None:
        known = isinstance(error, StateError)
        self._fail(error if known else StateError(f"not a saved probe: {error!r}"))

    def _fail(self, error: Exception) -> None:
        self.switched_off, self._averages = True, None
        logger.error(
            "the annealing probe failed and is switched off; training and forecasts go on",
            exc_info=error,
        )


def _known_horizons(horizons: Iterable[int] | None) -> tuple[int, ...] | None:
    if horizons is None:
        return None
    given = [horizons] if isinstance(horizons, int) else list(horizons)
    known = sorted({whole("horizons", h, ConfigurationError, least=2) for h in given})
    if not known:
        raise ConfigurationError("horizons is empty: give one or two, such as (50, 200), or None")
    return tuple(known)


def _inner(model: nn.Module) -> Any:
    """Return the module inside wrappers that communicate with other processes or compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _reshard(model: nn.Module) -> None:
    """Make a sharded model (`fully_shard`) gather its weights anew when they are next used."""
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]
