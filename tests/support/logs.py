"""What the tool logged during a test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest  # scripts that run in processes of their own need none


def warnings_in(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Messages of the logger "lossforecast" at `level` or above."""
    ours = [record for record in caplog.records if record.name == "lossforecast"]
    return [record.getMessage() for record in ours if record.levelno >= level]


class WarningLog(logging.Handler):
    """Keeps the messages of warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
