"""Helpers for tests of whole Hugging Face runs."""

from pathlib import Path
from typing import Any

from lossforecast.callbacks import TransformersLossForecast

SCRIPT = Path(__file__).with_name("hf_processes.py")
SAVE: dict[str, Any] = {"save_strategy": "steps", "save_steps": 60}
EVALUATE: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4}


def ours(trainer: Any) -> list[TransformersLossForecast]:
    """The callbacks that a Trainer has in the end; it may have made them anew."""
    each = trainer.callback_handler.callbacks
    return [one for one in each if isinstance(one, TransformersLossForecast)]
