"""Generates the reference of the command line: `python tests/support/cli_reference.py`.

Writes it into lossforecast/cli/README.md, between two comments. A test fails when the page differs
from the help of the present program.
"""

import re
from pathlib import Path
from typing import Any

import click
import typer.main

from lossforecast.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "lossforecast" / "cli" / "README.md"
BEGIN, END = "<!-- help of the command line -->", "<!-- end of help -->"
WIDTH = 100


def reference() -> str:
    """Every command with its help, in Markdown."""
    plain = app()
    plain.rich_markup_mode = None  # without frames
    root = typer.main.get_command(plain)
    return "\n".join(_help(["lossforecast"], root))


def _help(words: list[str], command: Any) -> list[str]:
    commands = getattr(command, "commands", {})
    if commands:
        return [line for name, child in commands.items() for line in _help([*words, name], child)]
    context = click.Context(command, info_name=" ".join(words), terminal_width=WIDTH)
    context.max_content_width = WIDTH
    text = re.sub(r" +$", "", command.get_help(context), flags=re.MULTILINE)
    text = text.partition("\n\nExit codes")[0].partition("\n\n  Exit codes")[0]
    summary = (command.help or "").partition("\n")[0]
    name = " ".join(words)
    return [
        f"<details><summary><code>{name}</code>: {summary}</summary>\n",
        f"```\n$ {name} --help\n{text.strip()}\n```\n\n</details>\n",
    ]


def with_reference(page: str) -> str:
    """The page, with the text between the two comments replaced by the present reference."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
