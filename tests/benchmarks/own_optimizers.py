"""The optimizers of the small training runs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["SHARE_OF_ADAM_RATE", "optimizers_of"]

SHARE_OF_ADAM_RATE = {
    "Adam": 1.0,
    "AdamW": 1.0,
    "RMSprop": 0.4,
    "Muon": 2.0,
    "Adagrad": 6.0,
    "Lion": 0.15,
}
"""A sensible peak rate of each optimizer, as a multiple of one for Adam."""


class Lion(torch.optim.Optimizer):
    """Sign descent with momentum (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            of_update, of_memory = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                memory = self.state[weight].setdefault("memory", torch.zeros_like(weight))
                direction = memory.lerp(weight.grad, 1 - of_update).sign()
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(direction, alpha=group["lr"])
                memory.lerp_(weight.grad, 1 - of_memory)


def optimizers_of(
    name: str, model: nn.Module, rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model: one, or Muon for hidden matrices and AdamW for all the rest."""
    settings: dict[str, Any] = {"lr": rate, "weight_decay": weight_decay}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if name == "Lion":
        return [Lion(weights, **settings)]
    if name == "SGD":
        return [torch.optim.SGD(weights, momentum=0.9, **settings)]
    if name != "Muon":
        return [getattr(torch.optim, name)(weights, **settings)]
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    hidden = [weight for weight in weights if weight.ndim == 2 and id(weight) not in embeddings]
    chosen = {id(weight) for weight in hidden}
    rest = [weight for weight in weights if id(weight) not in chosen]
    muon = torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **settings)
    return [muon, torch.optim.AdamW(rest, **settings)] if rest else [muon]
