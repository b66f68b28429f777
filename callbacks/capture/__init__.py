"""Losses and learning rates captured without waiting for the device."""

from lossforecast.callbacks.capture.loss_capture import LossCapture
from lossforecast.callbacks.capture.optimizers import innermost
from lossforecast.callbacks.capture.transfer import Transfer, uncompiled

__all__ = ["LossCapture", "Transfer", "innermost", "uncompiled"]
