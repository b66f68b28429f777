"""`TrainerProbe`: an annealing probe under the Hugging Face ``Trainer``."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.errors import ConfigurationError
from lossforecast.log import logger

__all__ = ["TrainerProbe"]

_FILE = "lossforecast_probe.pt"  # beside the Trainer's own files in a checkpoint


class TrainerProbe:
    """Passes batches to a probe as the model gets them, and saves its averages in checkpoints.

    Args:
        probe: the probe.
    """

    def __init__(self, probe: AnnealingProbe) -> None:
        self.probe = probe
        self._run = ""  # identifies the run in the state and beside the averages
        self._hook: Any = None

    def begin(self, optimizer: Any, steps: Callable[[], int], total_steps: int, model: Any) -> None:
        """Begin to average the weights and to measure.

        Args:
            optimizer: the torch optimizer.
            steps: returns the optimizer steps taken.
            total_steps: length of the run.
            model: the model that is trained.
        """
        self._run = uuid.uuid4().hex
        self.probe.begin(optimizer, steps, total_steps, model=model, loss=_model_loss)
        if any(hasattr(p, "to_local") for p in model.parameters()):
            return  # sharded: the weights have already been gathered when such a hook is called

        self._hook = model.register_forward_pre_hook(_Measure(self.probe), with_kwargs=True)

    def close(self) -> None:
        """Remove the hooks from the model and the optimizer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self.probe.close()

    def run(self) -> str | None:
        """Return the identifier of the saved averages; None if there are none yet."""
        return self._run if self.probe.state_dict() else None

    def save(self, folder: Path) -> None:
        """Write the averages into the folder of a checkpoint."""
        averages = self.probe.state_dict()
        if averages and folder.is_dir():
            torch.save({"run": self._run, "probe": averages}, folder / _FILE)

    def load(self, folder: Path, run: str | None) -> None:
        """Load the averages of a checkpoint; warn if they are missing or of another run.

        Args:
            folder: folder of the checkpoint.
            run: what `run` returned when the checkpoint was saved.
        """
        if run is None:
            return
        self._run = run
        path = folder / _FILE
        saved = torch.load(path, weights_only=True) if path.exists() else {}
        if saved.get("run") == run:
            self.probe.load_state_dict(saved["probe"])
        elif processes()[0] == 0:
            logger.warning(
                "the averages of the annealing probe were not restored: %s %s. It measures nothing "
                "until its new averages have forgotten the weights they begin with",
                path,
                "belongs to another run" if saved else "is missing",
            )


class _Measure:
    """Hook of a model that passes its batches to a probe; a copy of the model has none."""

    def __init__(self, probe: AnnealingProbe | None = None) -> None:
        self._probe = probe

    def __call__(self, module: Any, inputs: Any, keywords: dict[str, Any]) -> None:
        if self._probe is not None and module.training and torch.is_grad_enabled():
            # without the number of items, by which the model would divide its loss
            batch = {k: v for k, v in keywords.items() if k != "num_items_in_batch"}
            self._probe.measure_if_due(batch)

    def __reduce__(self) -> tuple[type["_Measure"], tuple[()]]:
        return _Measure, ()


def _model_loss(model: Any, batch: Mapping[str, Any]) -> Any:
    """Return the loss among the outputs of a model of the library."""
    outputs = model(**batch)
    if not isinstance(outputs, Mapping):
        return outputs[0]
    if outputs.get("loss") is None:
        raise ConfigurationError(
            "the model returns no loss, as with label_smoothing_factor or compute_loss_func: give "
            "AnnealingProbe(loss, batches=[...]), the loss of the model and a batch that has labels"
        )
    return outputs["loss"]
