"""The forecast is behind the progress bar of the Hugging Face ``Trainer``."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.hf_processes import train
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.huggingface.progress import show_in_bar


def test_the_bar_of_the_training_shows_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    callback = TransformersLossForecast(every_n_steps=4)
    train(tmp_path, [callback], disable_tqdm=False)
    bars = [line for line in re.split(r"[\r\n]", capfd.readouterr().err) if "it/s" in line]
    assert "→" not in bars[0]
    assert any(re.search(r"→\d\.\d+\?", line) for line in bars)
    assert callback.postfix.startswith("→")
    assert bars[-1].rstrip().endswith(f", {callback.postfix}]")


def test_other_bars_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"mininterval": 0}
    with (
        tqdm(total=7, **options) as shorter,
        tqdm(total=9, desc="mine", **options) as named,
        tqdm(total=9, disable=True) as hidden,
        tqdm(total=9, **options) as training,
    ):
        show_in_bar(9, "→2.00±0.10")
        assert training.postfix == "→2.00±0.10"
        assert [bar.postfix for bar in (shorter, named)] == [None, None]
        assert not hasattr(hidden, "postfix") or hidden.postfix is None
