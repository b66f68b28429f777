"""`WeightAverages`: exponential moving averages of a model's weights, evaluated in place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lossforecast.errors import StateError

__all__ = ["WeightAverages"]


class WeightAverages:
    """Averages of the trained weights of a model over several horizons.

    The average over a horizon of h optimizer steps is ``a <- (1 - 1/h) a + w / h`` at each step,
    starting at the present weights. Each takes one copy of the weights; `exposed` takes one more
    while it lasts. If weights are sharded (`DTensor`), each process averages its shards.

    Args:
        model: its floating-point parameters that require gradients are averaged.
        horizons: horizons in optimizer steps.
        every: steps between two updates.
        device: device of the averages; default: that of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        horizons: Iterable[int],
        every: int = 1,
        device: str | torch.device | None = None,
    ) -> None:
        self.every = every
        trained = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        self.sharded = any(hasattr(p, "to_local") for p in trained)
        """True if the weights are sharded."""
        self._weights = [_local(p) for p in trained]
        self._device = device
        self.averages = {h: [self._average(w) for w in self._weights] for h in sorted({*horizons})}
        """Averages by horizon, one tensor for each trained parameter."""

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights; call it every `every` optimizer steps."""
        first = next(iter(self.averages.values()))
        present = [weight.to(like) for weight, like in zip(self._weights, first, strict=True)]
        for horizon, averages in self.averages.items():
            torch._foreach_lerp_(averages, present, 1 - (1 - 1 / horizon) ** self.every)

    def restart(self) -> None:
        """Start again at the present weights."""
        with torch.no_grad():
            for averages in self.averages.values():
                torch._foreach_copy_(averages, self._weights)

    @property
    def megabytes(self) -> float:
        """Size of one average in 10^6 bytes."""
        first = next(iter(self.averages.values()))
        return sum(a.numel() * a.element_size() for a in first) / 1e6

    @property
    def device(self) -> str:
        """Device of the averages."""
        tensors = [tensor for averages in self.averages.values() for tensor in averages]
        return ", ".join(sorted({str(tensor.device) for tensor in tensors}))

    def load(self, averages: Mapping[int, Sequence[Tensor]]) -> None:
        """Replace the averages by saved ones.

        Raises:
            StateError: they belong to other weights or other horizons.
        """
        shapes = {h: [a.shape for a in tensors] for h, tensors in self.averages.items()}
        saved_shapes = {h: [a.shape for a in tensors] for h, tensors in averages.items()}
        if shapes != saved_shapes:
            raise StateError(
                "the saved averages belong to another model or other horizons: "
                f"{sorted(saved_shapes)}, here {sorted(shapes)}"
            )
        with torch.no_grad():
            for horizon, saved in averages.items():
                for average, value in zip(self.averages[horizon], saved, strict=True):
                    average.copy_(value)

    @contextmanager
    @torch.no_grad()
    def exposed(self) -> Iterator["Exposed"]:
        """Provide a context in which the model can be given averaged weights.

        At its end the weights are restored bit by bit, even after an exception.
        """
        exposed = Exposed(self._weights, self.averages, self._device)
        try:
            yield exposed
        finally:
            exposed.restore()

    def _average(self, weight: Tensor) -> Tensor:
        # in half precision the small updates of an average would be rounded away
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.to(device=self._device, dtype=dtype, copy=True)


class Exposed:
    """The weights of a model, which can be replaced by their averages and restored."""

    def __init__(
        self,
        weights: list[Tensor],
        averages: dict[int, list[Tensor]],
        device: str | torch.device | None,
    ) -> None:
        self._weights, self._averages = weights, averages
        self._raw = [w.to(device=device, copy=True) for w in weights]

    def show(self, horizon: int) -> None:
        """Replace the weights by their averages over a horizon."""
        torch._foreach_copy_(self._weights, self._averages[horizon])

    def restore(self) -> None:
        """Restore the weights."""
        torch._foreach_copy_(self._weights, self._raw)


def _local(parameter: Tensor) -> Tensor:
    """Return the values of a parameter, or this process's shard of them, without autograd."""
    values = parameter.data
    local: Tensor = values.to_local() if hasattr(values, "to_local") else values
    return local
