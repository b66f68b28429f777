"""The script that checks the forecast of the lowest validation loss."""

from pathlib import Path

import minimum
import numpy as np
import pytest
from support.command_line import write_curves

from lossforecast.backtest.curves import RecordedRun


def run(rise: float, *, end: float | None = None) -> RecordedRun:
    """Validation losses that rise from 30% of the run on; the last tenth is `end`, if given."""
    step = np.arange(20, 2_001, 20)
    noise = 0.002 * np.random.default_rng(0).normal(size=step.size)
    loss = 1 + np.exp(-step / 150) + rise * np.maximum(step - 600, 0) + noise
    if end is not None:
        loss[-10:] = end
    rates, kind = np.full(step.size, 1e-3), {"kind": "small model"}
    return RecordedRun("made", "r", "val", step, rates, loss, 2_000, "adamw", kind)


def test_a_rising_run_is_stopped_once_its_minimum_has_passed() -> None:
    overfits, looks = minimum.looks_at(run(3e-4))
    assert overfits
    assert [look.stays for look in looks] == [look.share > 0.31 for look in looks]
    first = next(look for look in looks if look.stops)
    assert first.prob > 0.95
    assert first.share > 0.4
    assert looks[-1].inside


def test_a_run_that_comes_back_makes_the_stop_wrong() -> None:
    overfits, looks = minimum.looks_at(run(3e-4, end=0.5))
    assert not overfits
    assert not any(look.stays for look in looks if look.share < 0.9)
    assert any(look.stops for look in looks)
    text = "\n".join(minimum.report([run(3e-4, end=0.5)], [(overfits, looks)]))
    assert "other runs: 1 of 1 stopped" in text
    assert "1 had a lower loss later" in text


def test_the_script_reports_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_curves(tmp_path, 2, kind="small model", n_params=90_000)
    minimum.main(["--curves", str(folder)])
    said = capsys.readouterr().out
    assert said.startswith("2 runs, ")
    assert "overfitting runs: 0 of 0 stopped" in said
    assert "other runs: 0 of 2 stopped" in said
