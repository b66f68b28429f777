"""TensorBoard: the sink that writes forecasts and the panel that shows them."""

from lossforecast.callbacks.tensorboard.sink import TensorBoardSink, scalars

__all__ = ["TensorBoardSink", "scalars"]
