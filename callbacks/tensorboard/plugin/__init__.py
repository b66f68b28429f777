"""The *Loss forecast* panel of TensorBoard: its record in the logs, its server and its page."""

from lossforecast.callbacks.tensorboard.plugin.record import PLUGIN, TAG, read, write

__all__ = ["PLUGIN", "TAG", "read", "write"]
