"""`TensorBoardSink`: writes forecasts for the tab "Loss forecast" and TensorBoard's own tabs."""

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.monitor import Tenths, Update
from lossforecast.callbacks.tensorboard.plugin import record
from lossforecast.plot import plot

__all__ = ["LAYOUT", "TensorBoardSink", "picture", "scalars", "summary"]

_DETAILS = "Loss forecast in detail"
_TARGET = "Probability of reaching the target"

LAYOUT: dict[str, Any] = {
    "Loss forecast": {
        "Final loss, 80% interval": [
            "Margin",
            ["forecast/final_loss", "forecast/lower", "forecast/upper"],
        ],
    },
    # in a section of their own, because TensorBoard draws lines in front of a margin
    _DETAILS: {
        "Drop still to come from annealing": ["Multiline", ["^forecast/anneal_gain$"]],
        _TARGET: ["Multiline", ["^forecast/prob_target$"]],
    },
}
"""Layout of the tab *Custom Scalars*; written once per run, because only the last one counts."""


def scalars(update: Update) -> dict[str, float]:
    """Return the numbers of a forecast by tag; none if there was no loss to forecast from.

    The tags are `forecast/final_loss`, the median, with the 80% interval `forecast/lower` and
    `forecast/upper`; `forecast/anneal_gain`; and `forecast/prob_target` if there is a target.
    """
    forecast = update.forecast
    lower, upper = forecast.interval(0.8)
    if lower != lower:
        return {}
    values = {
        "forecast/final_loss": forecast.median,
        "forecast/lower": lower,
        "forecast/upper": upper,
        "forecast/anneal_gain": forecast.anneal_gain.mean,
    }
    if update.target is not None:
        values["forecast/prob_target"] = forecast.prob_below(update.target)
    return values


def summary(update: Update) -> Any:
    """Return the data of the tab "Loss forecast" as a ``Summary`` of TensorBoard.

    It is one tensor of one string, which holds the present forecast and all earlier ones.
    """
    from tensorboard.compat.proto import (  # type: ignore[import-untyped]
        summary_pb2,
        tensor_pb2,
        types_pb2,
    )

    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=record.PLUGIN),
        display_name="Loss forecast",
        data_class=summary_pb2.DATA_CLASS_TENSOR,
    )
    content = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[record.write(update)])
    value = summary_pb2.Summary.Value(tag=record.TAG, metadata=metadata, tensor=content)
    return summary_pb2.Summary(value=[value])


def picture(update: Update) -> NDArray[np.uint8]:
    """Draw the forecast with `lossforecast.plot`; return the pixels, (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(plot(update.forecast, update.forecaster.history, target=update.target))
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: Any = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()


class TensorBoardSink:
    """Writes every forecast to a ``SummaryWriter``, of torch, tensorboardX or a Lightning logger.

    Args:
        writer: the writer. Any other object with `add_scalar` and `add_custom_scalars` works, too,
            but then the tab "Loss forecast" has no data.
        pictures: whether to add a picture after every tenth of the run, for viewers without the
            tab; each takes a few tenths of a second. Needs matplotlib.
    """

    def __init__(self, writer: Any, *, pictures: bool = False) -> None:
        self._writer = writer
        self._laid_out = False
        self._tenths = Tenths()
        self._pictures = pictures
        writes_summaries = hasattr(writer, "_get_file_writer")
        self._tab = writes_summaries and importlib.util.find_spec("tensorboard") is not None

    def __call__(self, update: Update) -> None:
        """Write one forecast at its optimizer step.

        A forecast without numbers, of a run that had no finite loss yet, is written for the tab
        "Loss forecast" alone: the run is listed there even if its losses are nan from the start.
        """
        values = scalars(update)
        if values and not self._laid_out:
            self._laid_out = True
            details = dict(LAYOUT[_DETAILS])
            if update.target is None:
                del details[_TARGET]
            self._writer.add_custom_scalars({**LAYOUT, _DETAILS: details})
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, update.step)
        if self._tab:
            self._add(summary(update), update.step)
        if values and self._tenths.is_due(update) and self._pictures:
            image = picture(update)
            self._writer.add_image("forecast/picture", image, update.step, dataformats="HWC")

    def _add(self, record_summary: Any, step: int) -> None:
        """Add a summary, converted to the classes of tensorboardX if that is the writer."""
        if type(self._writer).__module__.startswith("tensorboardX"):
            from tensorboardX.proto import summary_pb2  # type: ignore[import-untyped]

            data = record_summary.SerializeToString()
            record_summary = summary_pb2.Summary.FromString(data)
        self._writer._get_file_writer().add_summary(record_summary, step)
