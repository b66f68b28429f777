"""The known log formats, one module each."""

from lossforecast.readers.formats.epoch_files import EpochFiles
from lossforecast.readers.formats.json_document import JsonDocument
from lossforecast.readers.formats.json_lines import JsonLines
from lossforecast.readers.formats.long_table import LongTable
from lossforecast.readers.formats.metric_files import MetricFiles
from lossforecast.readers.formats.notebook import Notebook, WebPage
from lossforecast.readers.formats.number_table import NumberTable
from lossforecast.readers.formats.table import Table
from lossforecast.readers.formats.tensorboard import TensorBoardEvents
from lossforecast.readers.formats.text_log import TextLog
from lossforecast.readers.formats.trainer_state import TrainerState
from lossforecast.readers.source import LogFormat

__all__ = ["FORMATS"]

FORMATS: tuple[LogFormat, ...] = (
    TensorBoardEvents(),
    Notebook(),
    WebPage(),
    LongTable(),
    Table(),
    JsonLines(),
    TrainerState(),
    JsonDocument(),
    MetricFiles(),
    EpochFiles(),
    NumberTable(),
    TextLog(),
)
"""All formats, in the order in which folders are searched and files are tried for them."""
