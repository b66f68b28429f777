"""`WeightAverages`: exponential moving averages of a model's weights, to be looked at in place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lossforecast.errors import StateError

__all__ = ["WeightAverages"]


class WeightAverages:
    """Averages of the trained weights of a model over several horizons.

    The average over a horizon of h optimizer steps has decay ``1 - 1/h`` a step and starts at the
    present weights. Each costs one copy of the weights, and `exposed` one more while it lasts. Of
    sharded weights (`DTensor`) each process averages its shards.

    Args:
        model: whose floating-point parameters that require gradients are averaged.
        horizons: in optimizer steps.
        every: steps between two updates.
        device: where to keep the averages; by default where the weights are.
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
        """Whether the averages are of shards of the weights."""
        self._weights = [_local(p) for p in trained]
        self._device = device
        self.averages = {h: [self._average(w) for w in self._weights] for h in sorted({*horizons})}
        """By horizon, one tensor for each trained parameter."""

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights; to be called every `every` optimizer steps."""
        likes = next(iter(self.averages.values()))
        present = [w.to(like) for w, like in zip(self._weights, likes, strict=True)]
        for horizon, averages in self.averages.items():
            torch._foreach_lerp_(averages, present, 1 - (1 - 1 / horizon) ** self.every)

    def restart(self) -> None:
        """Begin anew at the present weights."""
        with torch.no_grad():
            for averages in self.averages.values():
                torch._foreach_copy_(averages, self._weights)

    @property
    def megabytes(self) -> float:
        """What one average takes, in 10^6 bytes."""
        first = next(iter(self.averages.values()))
        return sum(a.numel() * a.element_size() for a in first) / 1e6

    @property
    def device(self) -> str:
        """Where the averages are kept."""
        return ", ".join(sorted({str(a.device) for each in self.averages.values() for a in each}))

    def load(self, averages: Mapping[int, Sequence[Tensor]]) -> None:
        """Go on from averages of before.

        Raises:
            StateError: they are of other weights or other horizons.
        """
        mine = {h: [a.shape for a in each] for h, each in self.averages.items()}
        theirs = {h: [a.shape for a in each] for h, each in averages.items()}
        if mine != theirs:
            raise StateError(
                "the saved averages are of another model or over other horizons: "
                f"{sorted(theirs)}, here {sorted(mine)}"
            )
        with torch.no_grad():
            for horizon, saved in averages.items():
                for average, value in zip(self.averages[horizon], saved, strict=True):
                    average.copy_(value)

    @contextmanager
    @torch.no_grad()
    def exposed(self) -> Iterator["Exposed"]:
        """The model with averaged weights in it, as long as the context lasts.

        The weights themselves are put back, bit by bit, however it ends.
        """
        exposed = Exposed(self._weights, self.averages, self._device)
        try:
            yield exposed
        finally:
            exposed.restore()

    def _average(self, weight: Tensor) -> Tensor:
        # in less than single precision the small steps of an average would be lost
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.to(device=self._device, dtype=dtype, copy=True)


class Exposed:
    """The weights of a model, changed for averages and back."""

    def __init__(
        self,
        weights: list[Tensor],
        averages: dict[int, list[Tensor]],
        device: str | torch.device | None,
    ) -> None:
        self._weights, self._averages = weights, averages
        self._raw = [w.to(device=device, copy=True) for w in weights]

    def show(self, horizon: int) -> None:
        """Put the averages over a horizon into the model."""
        torch._foreach_copy_(self._weights, self._averages[horizon])

    def restore(self) -> None:
        """Put the weights back."""
        torch._foreach_copy_(self._weights, self._raw)


def _local(parameter: Tensor) -> Tensor:
    """Its values, or this process's shard of them, hidden from autograd."""
    values = parameter.data
    local: Tensor = values.to_local() if hasattr(values, "to_local") else values
    return local
