"""`AnnealingProbe`: what annealing will bring, measured on the weights before it begins."""

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

__all__ = ["AnnealingProbe"]

_SHARES = (80, 20)  # horizons are the length of the run over these
_UPDATES = 10  # of an average within the shortest horizon
_SHORTEST = 5  # horizon worth while
_LONGEST = 0.1  # of the run, for a horizon
_SETTLED = 3  # horizons until an average has forgotten where it began
_NEVER = 2**63
_PASS = 0.5  # of the time of a training step, for the loss of a batch alone

T = TypeVar("T")
Samples = tuple[NDArray[np.int64], NDArray[np.float64]]


class AnnealingProbe:
    """Measures how much lower the loss is with averaged weights than with those of the moment.

    Averaging the last weights removes most of the noise that annealing removes, so the gap tells of
    the drop before the learning rate decays. Give one to a callback:

        probe = AnnealingProbe(lambda model, batch: model(*batch), model)
        with TorchLossForecast(optimizer, scheduler, N, probe=probe) as monitor:
            for batch in probe.watch(loader):
                ...

    Now and then the loss of a batch is computed in evaluation mode, before the batch is trained on:
    with the weights and with each of their averages. That leaves no trace in the training. Averages
    cost one copy of the trained weights for each horizon, and one more while they are looked at;
    looking costs a share `cost` of the time of the run.

    Of several processes each needs one, alike. Its loss is then asked for at the same steps, on
    the module inside a ``DistributedDataParallel``.

    Args:
        loss: the loss of a batch, ``loss(model, batch)``, one number in the units of the monitored
            loss. It must not train, log or keep anything. By default, under the Hugging Face
            ``Trainer`` alone, the loss that the model returns.
        model: the model that is trained; a Lightning callback knows it.
        batches: a few held-out batches to look at, instead of those of `watch`.
        horizons: of the averages, in optimizer steps; by default an 80th and a 20th of the run. The
            longest one that counts is a tenth of the run.
        cost: about how much of the time of the training it may take.
        offload: a device to keep the averages on, such as "cpu"; by default where the weights are.

    Raises:
        ConfigurationError: an argument makes no sense.
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
        self.horizons: tuple[int, ...] = self._given or ()
        """Of the averages, once it has begun."""
        share = number("cost", cost, ConfigurationError)
        if not 0 < share <= 1:
            raise ConfigurationError(f"cost is {cost}; it must be above 0 and at most 1, say 0.01")
        self.loss, self._model, self._batches = loss, model, batches
        self._cost, self._offload = share, offload
        self.switched_off = False
        self.every = 0
        """Optimizer steps between two looks, once it has begun."""
        self._averages: WeightAverages | None = None
        self._steps: Callable[[], int] = lambda: 0
        self._context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._began = self._looks = 0
        self._next = _NEVER  # until the first step
        self._hook: Any = None
        self._waiting: list[tuple[int, Transfer]] = []  # looks, and the losses found
        self._saved: dict[str, Any] | None = None

    # ------------------------------------------------------------------ in the loop

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, looked at now and then before they are trained on."""
        for batch in batches:
            self.look(batch)
            yield batch

    @uncompiled
    def look(self, batch: Any) -> None:
        """Look at a batch that is about to be trained on, if that is due."""
        if self._saved is not None:
            self._go_on()
        if self._batches is None and self._steps() >= self._next:
            self._sample(batch)

    # ------------------------------------------------------------------ for the callbacks

    def needs_loss(self) -> None:
        """Refuse to go on without one."""
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
        """Begin to average.

        Args:
            optimizer: after whose steps the averages are updated.
            steps: tells the optimizer steps taken.
            total_steps: length of the run.
            model: the one that is trained, unless it was given before.
            context: in which the loss is computed.
            loss: of a batch, unless it was given before.

        Raises:
            ConfigurationError: no model or no loss is known.
        """
        model = self._model if self._model is not None else model
        if model is None:
            raise ConfigurationError("the probe needs the model: AnnealingProbe(loss, model)")
        self.loss = self.loss or loss
        self.needs_loss()
        self._model, self._steps, self._context = model, steps, context
        given = self._given or sorted(total_steps // share for share in _SHARES)
        self.horizons = tuple(h for h in given if _SHORTEST <= h <= _LONGEST * total_steps)
        self.switched_off, self._looks = not self.horizons, 0
        if self.switched_off:
            logger.warning("no annealing probe: a run of %d steps is too short", total_steps)
            return
        self.restart()
        self.every = math.ceil((len(self.horizons) + 1) * _PASS / self._cost)
        pace = max(1, self.horizons[0] // _UPDATES)
        self._averages = averages = WeightAverages(model, self.horizons, pace, self._offload)
        self._hook = optimizer.register_step_post_hook(self._after_step)
        logger.info(
            "the annealing probe keeps averages of the weights over %s steps: %.3g MB on %s, and "
            "%.3g MB more during a look, every %d steps",
            ", ".join(map(str, self.horizons)),
            averages.megabytes * len(self.horizons),
            averages.device,
            averages.megabytes,
            self.every,
        )

    def restart(self) -> None:
        """Begin anew with the next step, or go on there from what was loaded."""
        self._next = _NEVER
        self._waiting = []

    def take(self, before: int | None = None) -> Samples:
        """Looks (their steps, (n,)) and the gaps found then, (n, horizons); nan where too early.

        Args:
            before: only those after fewer optimizer steps than these.
        """
        cut = sum(before is None or step < before for step, _ in self._waiting)
        taken, self._waiting = self._waiting[:cut], self._waiting[cut:]
        steps = np.array([step for step, _ in taken], np.int64)
        losses = np.array([found.read() for _, found in taken]).reshape(cut, 1 + len(self.horizons))
        early = steps[:, np.newaxis] - self._began < _SETTLED * np.array(self.horizons)
        return steps, np.where(early, np.nan, losses[:, :1] - losses[:, 1:])

    def close(self) -> None:
        """Take the hook off the optimizer and let go of the averages."""
        if self._hook is not None:
            self._hook.remove()
            if not self._looks and not self.switched_off and self._steps() > 2 * self.every:
                logger.warning(
                    "the annealing probe has seen no batch: pass the loader through "
                    "probe.watch(loader), or give it a few held-out batches"
                )
        self._hook = self._averages = None

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The averages, to go on from; empty before it has begun and for sharded weights.

        Without them a resumed run is silent until its averages have forgotten where they began.
        """
        averages = self._averages
        if averages is None or averages.sharded or self._next == _NEVER:
            return {}
        losses = [[step, transfer.read().tolist()] for step, transfer in self._waiting]
        return {
            "began": self._began,
            "looks": self._looks,
            "next": self._next,
            "losses": losses,
            "averages": averages.averages,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved averages; to be called before training goes on.

        Raises:
            StateError: the state is not ours, or is of another model or other horizons.
        """
        self._saved = state or None
        self.restart()

    # ------------------------------------------------------------------ inside

    def _go_on(self) -> None:
        """Go on from what was loaded."""
        saved, self._saved = self._saved, None
        if self._averages is None or saved is None:
            return
        try:
            began, looks, following = (
                whole(name, saved[name], StateError, least=0) for name in ("began", "looks", "next")
            )
            self._averages.load(saved["averages"])
            waiting = [(int(step), Transfer(losses)) for step, losses in saved["losses"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._fail(StateError(f"not a saved probe: {error!r}"))
        except StateError as error:
            self._fail(error)
        else:
            self._began, self._looks, self._next, self._waiting = began, looks, following, waiting

    @uncompiled
    def _after_step(self, *_: Any) -> None:
        if self._saved is not None:
            self._go_on()
        if self._averages is None:
            return
        steps = self._steps()
        try:
            if self._next == _NEVER:
                self._averages.restart()
                self._began, self._next = steps, (steps // self.every + 1) * self.every
            if steps % self._averages.every == 0:
                self._averages.update()
        except Exception as error:
            self._fail(error)
            return
        if self._batches is not None and steps >= self._next:
            self._sample(self._batches[self._looks % len(self._batches)])

    def _sample(self, batch: Any) -> None:
        """Compare the weights with their averages on a batch."""
        if self._averages is None:
            return
        step = self._steps()
        self._next = (step // self.every + 1) * self.every
        self._looks += 1
        try:
            self._waiting.append((step, Transfer(self._losses(batch))))
        except Exception as error:
            self._fail(error)

    def _losses(self, batch: Any) -> list[Tensor]:
        """The loss with the weights, and with their average over each horizon."""
        assert self._averages is not None
        assert self._model is not None
        assert self.loss is not None
        found = []
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
                found.append(loss.detach().reshape(()).float())
                _reshard(self._model)
        return found

    def _fail(self, error: Exception) -> None:
        self.switched_off, self._averages = True, None
        logger.error(
            "the annealing probe failed and is switched off; all else goes on", exc_info=error
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
    """The module inside wrappers that would talk to other processes or compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _reshard(model: nn.Module) -> None:
    """Have the weights of a sharded model (`fully_shard`) gathered anew when next needed."""
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]
