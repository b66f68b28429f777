"""Logs of training runs, in the formats that trackers write.

`read_log` finds the log, recognises its format and returns a `Log` with the losses and learning
rates. A format is one module of `lossforecast.readers.formats`, listed in `FORMATS`.
"""

from lossforecast.readers.find import find_log
from lossforecast.readers.formats import FORMATS
from lossforecast.readers.log import Log
from lossforecast.readers.read import read_log

__all__ = ["FORMATS", "Log", "find_log", "read_log"]
