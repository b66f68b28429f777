"""`MLflowSink`: writes forecasts to a run of MLflow."""

from time import time

from lossforecast.callbacks.monitor import Tenths, Update
from lossforecast.callbacks.tensorboard import scalars
from lossforecast.callbacks.trackers.library import draws, library
from lossforecast.errors import ConfigurationError
from lossforecast.plot import plot

__all__ = ["MLflowSink"]


class MLflowSink:
    """Writes every forecast to a run of MLflow, at its optimizer step.

    Args:
        run_id: identifier of the run; by default that of the run that is active when a forecast is
            made, begun by ``mlflow.start_run`` or the Hugging Face ``Trainer``.
        pictures: whether to add a picture such as ``forecast/step_0510.png`` to the artifacts after
            every tenth of the run; by default if matplotlib is installed.

    Raises:
        ConfigurationError: MLflow is not installed.
    """

    reads_trail = False

    def __init__(self, run_id: str | None = None, *, pictures: bool | None = None) -> None:
        library("mlflow", self)
        self._run_id = run_id
        self._tenths, self._draws = Tenths(), draws(pictures)

    def __call__(self, update: Update) -> None:
        """Write one forecast; nothing if there was no loss to forecast from.

        Raises:
            ConfigurationError: no run is active.
        """
        mlflow, values = library("mlflow", self), scalars(update)
        if not values:
            return
        if self._run_id is None and mlflow.active_run() is None:
            raise ConfigurationError(
                "MLflowSink has no run: call mlflow.start_run() before, or give run_id"
            )
        run_id = self._run_id or mlflow.active_run().info.run_id
        client, metric, now = mlflow.MlflowClient(), mlflow.entities.Metric, round(1e3 * time())
        rows = [metric(name, value, now, update.step) for name, value in values.items()]
        client.log_batch(run_id, rows)
        if self._tenths.is_due(update) and self._draws:
            figure = plot(update.forecast, update.forecaster.history, target=update.target)
            # as many digits as the last step, because MLflow sorts the pictures by name
            digits = len(str(update.forecast.schedule.total_steps))
            client.log_figure(run_id, figure, f"forecast/step_{update.step:0{digits}d}.png")
