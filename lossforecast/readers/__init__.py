"""Log files of training runs, in the formats that people have."""

from lossforecast.readers.formats import found_in
from lossforecast.readers.log import Log, read_log

__all__ = ["Log", "found_in", "read_log"]
