"""Runs that train a torch model: their losses, and what their models show."""

from lossforecast.callbacks.torch_run.recognise import recognise
from lossforecast.callbacks.torch_run.torch_run import TorchRun, capture_of

__all__ = ["TorchRun", "capture_of", "recognise"]
