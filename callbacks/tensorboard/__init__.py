"""TensorBoard: the sink that writes forecasts and the panel that shows them."""

from lossforecast.callbacks.tensorboard.sink import TensorBoardSink, picture, scalars

__all__ = ["TensorBoardSink", "picture", "scalars"]
