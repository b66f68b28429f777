"""Writes forecasts to the loggers of a Lightning ``Trainer``."""

from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.monitor import Sink, Update
from lossforecast.callbacks.tensorboard import TensorBoardSink, scalars

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["logger_sinks", "run_name"]


def run_name(trainer: "Trainer") -> str | None:
    """Return the name of the run in the first logger; None without loggers."""
    first = trainer.logger
    if first is None:
        return None
    version = f"version_{first.version}" if isinstance(first.version, int) else first.version
    return f"{first.name}/{version}"


def logger_sinks(trainer: "Trainer") -> list[Sink]:
    """Return a sink for each logger, on the rank that logs."""
    return [_logger_sink(logger) for logger in trainer.loggers] if trainer.is_global_zero else []


def _logger_sink(logger: Any) -> Sink:
    """Return a sink that writes charts to TensorBoard, scalars to any other logger."""
    writer = getattr(logger, "experiment", None)
    if hasattr(writer, "add_custom_scalars") and hasattr(writer, "add_scalar"):
        return TensorBoardSink(writer)

    def log(update: Update) -> None:
        values = scalars(update)
        if values:
            logger.log_metrics(values, step=update.step)

    return log
