"""Plain loops tell on the console where the loss is heading; bars of tqdm can show it, too."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.warm import run_warm

from lossforecast import ConfigurationError
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor import Update
from lossforecast.callbacks.monitor.console import console_line

LOOP = """
import logging, sys, torch
from lossforecast.callbacks import TorchLossForecast
{before}
optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
with TorchLossForecast(optimizer, None, 400, {arguments}) as monitor:
    for step in {steps}:
        monitor.step(2 + 3 * (step + 5.0) ** -0.5)
        optimizer.step()
        {after}
"""
HINT = "lossforecast: the next run like this one could be forecast from this one: store=True"


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that a loop prints in a process of its own, where nobody has configured logging."""

    def run(
        arguments: str = "",
        before: str = "",
        steps: str = "range(400)",
        after: str = "pass",
    ) -> list[str]:
        code = LOOP.format(arguments=arguments, before=before, steps=steps, after=after)
        redirected = f"import sys; sys.stderr = sys.stdout\n{code}"
        out = run_warm("-c", redirected, cwd=tmp_path, output=tmp_path / "out.txt")
        return [line for line in re.split(r"[\r\n]+", out) if line]

    return run


def test_a_new_user_sees_a_line_after_each_tenth_and_what_a_store_would_bring(
    told: Callable[..., list[str]],
) -> None:
    *lines, last = told()
    assert last == HINT
    assert [line.partition(" of 400: ")[0] for line in lines] == [
        f"lossforecast: step {min(-(-40 * tenth // 7) * 7, 400)}" for tenth in range(1, 11)
    ]
    number = r"-?[\d.e-]+"
    for line in lines:
        assert re.search(rf": heading for {number} \(80%: {number} to {number}\)", line)
    assert lines[0].endswith("; no advice yet")


@pytest.mark.parametrize(
    ("arguments", "before", "lines"),
    [
        ("store=False, verbose=False", "", 0),
        ("store=False, sinks=[lambda update: None]", "", 0),
        pytest.param(
            "store=False, sinks=[lambda update: None], verbose=True", "", 10, marks=pytest.mark.slow
        ),
        pytest.param("store=False", "logging.basicConfig()", 0, marks=pytest.mark.slow),
        ("store=False", "logging.basicConfig(level='INFO')", 11),  # one is the kind of the run
        pytest.param(
            "store=False, verbose=True", "logging.basicConfig()", 10, marks=pytest.mark.slow
        ),
        ("store=False", "logging.getLogger('lossforecast').setLevel('WARNING')", 0),
    ],
)
def test_the_console_is_left_to_who_has_asked_for_something_else(
    arguments: str, before: str, lines: int, told: Callable[..., list[str]]
) -> None:
    ours = [line for line in told(arguments, before) if "advice" not in line or "80%" in line]
    assert len([line for line in ours if "go on: " not in line]) == lines


def test_a_line_stays_above_the_bars_of_tqdm(told: Callable[..., list[str]]) -> None:
    pytest.importorskip("tqdm")
    lines = told(
        "store=False",
        before="from tqdm import tqdm; bar = tqdm(range(400), mininterval=0, ascii=True)",
        steps="bar",
        after="bar.set_postfix_str(monitor.postfix)",
    )
    ours = [line for line in lines if line.startswith("lossforecast: step")]
    assert len(ours) == 10
    assert not any("it/s" in line for line in ours)
    bars = [line for line in lines if "it/s" in line]
    assert re.search(r", →2\.\d+\?\]$", next(line for line in bars if "→" in line))
    assert re.search(r", →2\.\d+±\d\.\d+\]$", bars[-1])


TERMINAL = """
import atexit, os, pty
os.environ["TERM"] = "{term}"
ours, theirs = pty.openpty()
sys.stdout = sys.stderr = os.fdopen(theirs, "w", buffering=1)
atexit.register(lambda: os.write(1, os.read(ours, 65536)))
"""


@pytest.mark.parametrize(("term", "clear"), [("xterm", "\x1b[K"), ("dumb", None)])
def test_a_line_replaces_the_bar_in_a_terminal(
    term: str, clear: str | None, told: Callable[..., list[str]]
) -> None:
    """As the bar of Keras, which is drawn again below the line."""
    lines = told(
        "store=False",
        before=TERMINAL.format(term=term),
        after="step % 50 or print(f'{step}/400 ====', end='\\r', flush=True)",
    )
    told_lines = [line for line in lines if "heading for" in line]
    assert len(told_lines) == 10
    assert all(line.startswith(f"{clear or ''}lossforecast: step") for line in told_lines)


def test_a_console_without_arrows_gets_ascii(told: Callable[..., list[str]]) -> None:
    shown = told(
        "verbose=False, store=False",
        before="sys.stdout.reconfigure(encoding='ascii')",
        after="step == 399 and print(monitor.postfix)",
    )
    assert re.fullmatch(r"->2\.\d+(\+-\d\.\d+|\?)", shown[0])


def updates_of(target: float | None, total: int = 400, until: int = 400) -> list[Update]:
    seen: list[Update] = []
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    with TorchLossForecast(
        optimizer, None, total, target=target, sinks=[seen.append], store=False
    ) as monitor:
        for step in range(until):
            monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            optimizer.step()
    return seen


def test_the_step_at_which_the_target_is_reached_is_told() -> None:
    truth = next(step for step in range(400) if 2 + 3 * (step + 5.0) ** -0.5 < 2.2)
    at = {update.step: console_line(update) for update in updates_of(2.2)}
    match = re.search(r"; reaches 2\.2 at about step (\d+), or not at all: (\d+)%", at[161])
    assert match
    assert abs(int(match[1]) - truth) < 25
    assert 0 < int(match[2]) < 50
    assert "; over 99% to end below 2.2" in at[400]


def test_a_target_out_of_reach_is_told_by_its_probability() -> None:
    at = {update.step: console_line(update) for update in updates_of(1.5)}
    assert re.search(r"; \d+% to end below 1\.5", at[203])
    assert "reaches" not in at[203]


def test_a_run_without_a_finite_loss_is_told() -> None:
    seen: list[Update] = []
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    with TorchLossForecast(optimizer, None, 40, sinks=[seen.append], store=False) as monitor:
        assert monitor.postfix == ""
        for _ in range(40):
            monitor.step(float("nan"))
            optimizer.step()
        assert monitor.postfix == ""
    assert console_line(seen[-1]) == "step 40 of 40: no finite loss yet"


def test_verbose_is_true_or_false() -> None:
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    wrong: Any = "yes"
    with pytest.raises(ConfigurationError, match="verbose must be of type bool, not 'yes'"):
        TorchLossForecast(optimizer, None, 40, verbose=wrong)


def test_no_stream_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert updates_of(None)
