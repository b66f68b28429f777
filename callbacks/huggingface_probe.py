"""`TrainerProbe`: an annealing probe in the Hugging Face ``Trainer``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.probe import AnnealingProbe

__all__ = ["TrainerProbe"]

_FILE = "lossforecast_probe.pt"  # beside the Trainer's own files in a checkpoint


class TrainerProbe:
    """Lets a probe look at the batches that the model gets, and keeps it in the checkpoints.

    Args:
        probe: what looks.
    """

    def __init__(self, probe: AnnealingProbe) -> None:
        self.probe = probe
        self._hook: Any = None

    def begin(self, optimizer: Any, capture: LossCapture, total_steps: int, model: Any) -> None:
        """Begin to average the weights and to look."""
        self.probe.begin(optimizer, lambda: capture.steps, total_steps, model, loss=_loss_of)
        if any(hasattr(p, "to_local") for p in model.parameters()):
            return  # whose weights are gathered already when the hook is called

        def look(module: Any, inputs: Any, keywords: dict[str, Any]) -> None:
            if module.training and torch.is_grad_enabled():
                # with which losses are divided by the number of items of all micro-batches
                batch = {k: v for k, v in keywords.items() if k != "num_items_in_batch"}
                self.probe.look(batch)

        self._hook = model.register_forward_pre_hook(look, with_kwargs=True)

    def close(self) -> None:
        """Take the hooks off the model and the optimizer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.probe.close()

    def save(self, folder: Path) -> None:
        """Write the averages beside what the Trainer has written."""
        found = self.probe.state_dict()
        if found and folder.is_dir():
            torch.save(found, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Go on with the averages of a checkpoint."""
        path = folder / _FILE
        if path.exists():
            self.probe.load_state_dict(torch.load(path, weights_only=True))


def _loss_of(model: Any, batch: Mapping[str, Any]) -> Any:
    """The loss that a model of the library returns with its outputs."""
    outputs = model(**batch)
    return outputs["loss"] if isinstance(outputs, Mapping) else outputs[0]
