"""What the tool logged during a test."""

import logging

import pytest


def warnings_in(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Messages of the logger "lossforecast" at `level` or above."""
    ours = [record for record in caplog.records if record.name == "lossforecast"]
    return [record.getMessage() for record in ours if record.levelno >= level]
