"""The adapter for plain PyTorch loops."""

from lossforecast.callbacks.torch.callback import TorchLossForecast

__all__ = ["TorchLossForecast"]
