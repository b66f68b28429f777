"""`TrainerProbe`: an annealing probe in the Hugging Face ``Trainer``."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.errors import ConfigurationError
from lossforecast.log import logger

__all__ = ["TrainerProbe"]

_FILE = "lossforecast_probe.pt"  # beside the Trainer's own files in a checkpoint


class TrainerProbe:
    """Lets a probe look at the batches that the model gets, and keeps it in the checkpoints.

    Args:
        probe: what looks.
    """

    def __init__(self, probe: AnnealingProbe) -> None:
        self.probe = probe
        self._run = ""  # in the state and beside the averages, so that they are not of another one
        self._hook: Any = None

    def begin(self, optimizer: Any, capture: LossCapture, total_steps: int, model: Any) -> None:
        """Begin to average the weights and to look."""
        self._run = uuid.uuid4().hex
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

    def run(self) -> str | None:
        """What to find the averages of this run by; None if there are none yet."""
        return self._run if self.probe.state_dict() else None

    def save(self, folder: Path) -> None:
        """Write the averages beside what the Trainer has written."""
        found = self.probe.state_dict()
        if found and folder.is_dir():
            torch.save({"run": self._run, "probe": found}, folder / _FILE)

    def load(self, folder: Path, run: str | None) -> None:
        """Go on with the averages of a checkpoint, if they are there and of this run.

        Args:
            folder: of the checkpoint.
            run: as `run` said when the checkpoint was made.
        """
        if run is None:
            return
        self._run = run
        path = folder / _FILE
        found = torch.load(path, weights_only=True) if path.exists() else {}
        if found.get("run") == run:
            self.probe.load_state_dict(found["probe"])
        elif processes()[0] == 0:
            logger.warning(
                "the averages of the annealing probe are not resumed: %s %s. It is silent until "
                "new ones have settled",
                path,
                "is of another run" if found else "is missing",
            )


def _loss_of(model: Any, batch: Mapping[str, Any]) -> Any:
    """The loss that a model of the library returns with its outputs."""
    outputs = model(**batch)
    if not isinstance(outputs, Mapping):
        return outputs[0]
    if outputs.get("loss") is None:
        raise ConfigurationError(
            "the model returns no loss, as with label_smoothing_factor or compute_loss_func: give "
            "AnnealingProbe(loss, batches=[...]), the loss of the model and a batch that has labels"
        )
    return outputs["loss"]
