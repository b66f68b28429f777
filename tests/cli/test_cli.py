"""The program as a whole: usage, help, what is missing, and the generated reference."""

import importlib.util
from typing import Any

import pytest
from support import cli_reference
from support.command_line import run


def test_wrong_usage_is_exit_code_2_and_help_is_0() -> None:
    assert run("backtest").returncode == 2
    assert run("backtest", "--curves", ".", "--no-such").returncode == 2
    assert run("no-such-command").returncode == 2
    assert run("backtest", "--jobs", "many", "--curves", ".").returncode == 2
    for arguments in (("--help",), ("backtest", "--help")):
        done = run(*arguments)
        assert done.returncode == 0
        assert "Exit codes: 0 done, 2 invalid request" in " ".join(done.stdout.split())


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_libraries_it_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == missing else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = run("backtest", "--curves", ".")
    assert done.returncode == 2
    assert done.stderr == (
        f'error: the command line needs {missing}: pip install "lossforecast[cli]"\n'
    )


def test_the_reference_shows_the_present_help() -> None:
    page = cli_reference.PAGE.read_text(encoding="utf-8")
    assert cli_reference.with_reference(page) == page, "run: python tests/support/cli_reference.py"
