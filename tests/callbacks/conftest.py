"""Fixtures of the tests of callbacks."""

import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch computes with one thread: sums of tensors are then the same to the bit every time."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
