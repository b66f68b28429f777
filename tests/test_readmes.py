"""The READMEs: their code runs, prints what they show, and their links and names exist.

Fenced blocks are of four languages:

* `python` is executed, all blocks of a README in order and in one namespace, in an empty directory.
  What it lacks (a model, a log) comes from `support.readme_setup`. A `text` block right after it is
  what it prints.
* `console` has commands of `lossforecast` after a `$`, each with what it prints.
* `sh` is for a shell of the reader's: installing, training for minutes. Not run, but the targets,
  files and extras it names exist.
* `text` elsewhere is a recorded output, with the command that made it.

Output is compared word by word, numbers to 2%; a line of three dots stands for any lines.
"""

import contextlib
import importlib
import io
import itertools
import logging
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.readme_setup import SETUPS

from lossforecast.cli import main

ROOT = Path(__file__).resolve().parents[1]
READMES = sorted(
    path
    for pattern in (
        "README.md",
        *(
            f"{folder}/**/README.md"
            for folder in ("callbacks", "lossforecast", "examples", "tests")
        ),
        "examples/SKILL.md",
    )
    for path in ROOT.glob(pattern)
    if "lossforecast/callbacks" not in path.relative_to(ROOT).as_posix()
    and ".pytest_cache" not in path.parts
)
GENERATED = ("lossforecast/cli/README.md",)  # its help is compared by the tests of the command line
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
WITHIN = 0.02


@dataclass(frozen=True)
class Block:
    """A fenced block of a README."""

    language: str
    line: int
    text: str
    shown: str | None  # what it prints, by the block right after it


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    page = path.read_text(encoding="utf-8")
    matches = list(fence.finditer(page))
    found = []
    for i, match in enumerate(matches):
        line = page.count("\n", 0, match.start()) + 2
        after = matches[i + 1] if i + 1 < len(matches) else None
        follows = after is not None and not page[match.end() : after.start()].strip()
        shown = after[2] if after is not None and follows and after[1] == "text" else None
        found.append(Block(match[1], line, match[2], shown))
    return found


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def assert_shows(shown: str, printed: str, where: str) -> None:
    """Compare what a README shows with what was printed; three dots stand for any lines."""
    parts = re.split(r"^ *\.\.\. *$", shown, flags=re.MULTILINE)
    pattern = r"[\s\S]*".join(r"\s*" + r"\s+".join(map(_pattern, part.split())) for part in parts)
    match = re.fullmatch(rf"{pattern}\s*", printed)
    assert match, f"{where} shows\n{shown}\nbut this is printed:\n{printed}"
    for said, real in zip(NUMBER.findall(shown), match.groups(), strict=True):
        expected, found = (float(each.replace(",", "")) for each in (said, real))
        last_digit = 10.0 ** -len(said.partition("e")[0].partition(".")[2])
        assert found == pytest.approx(expected, rel=WITHIN, abs=last_digit), (
            f"{where} shows {said} where {real} is printed:\n{printed}"
        )


def _pattern(word: str) -> str:
    """Matches a word in which any number may stand in place of each number."""
    texts = map(re.escape, NUMBER.split(word))
    return f"({NUMBER.pattern})".join(texts)


def setup_of(readme: Path, folder: Path) -> dict[str, Any]:
    """The variables that the code of a README may use without defining them."""
    return SETUPS[name(readme)](folder) if name(readme) in SETUPS else {}


@contextlib.contextmanager
def bare_console() -> Iterator[Callable[[], str]]:
    """Collects what is printed, and what the package tells a console nobody has set up."""
    out, errors = io.StringIO(), sys.stderr
    logger = logging.getLogger("lossforecast")

    class Console(io.TextIOBase):
        def write(self, text: str) -> int:
            ours = "lossforecast" in sys._getframe(1).f_globals["__name__"]
            return (out if ours else errors).write(text)

    logger.propagate = False  # pytest has a handler above
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(Console()):
            yield out.getvalue
    finally:
        logger.propagate = True


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "readme", [path for path in READMES if name(path) not in GENERATED], ids=name
)
def test_the_code_runs_and_prints_what_is_shown(
    readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_run = [block for block in blocks(readme) if block.language in ("python", "console")]
    if not to_run:
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOSSFORECAST_STORE", raising=False)
    for folder_of_users in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(folder_of_users, str(tmp_path / "users"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("MPLBACKEND", "agg")
    variables: dict[str, Any] = {"__name__": "__main__", **setup_of(readme, tmp_path)}
    for block in to_run:
        where = f"{name(readme)}:{block.line}"
        if block.language == "console":
            assert_console(block.text, where)
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(readme), "exec")
        with bare_console() as printed:
            exec(code, variables)
        if block.shown is not None:
            assert_shows(block.shown, printed(), where)


def assert_console(session: str, where: str) -> None:
    """Run the commands of a session and compare what they print, errors included."""
    commands = re.split(r"^\$ ", session, flags=re.MULTILINE)
    assert not commands[0].strip(), f"{where}: begin with a command, after a $"
    for command in commands[1:]:
        line, _, shown = re.sub(r"\\\n *", "", command).partition("\n")
        words = shlex.split(line, comments=True)
        assert words[0] == "lossforecast", f"{where}: {line} is for a block of sh"
        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            contextlib.suppress(SystemExit),
        ):
            main(words[1:])
        if shown.strip():
            assert_shows(shown, out.getvalue(), f"{where}: {line}")


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_every_block_is_of_a_language_that_is_checked(readme: Path) -> None:
    fences = re.findall(r"^```.*$", readme.read_text("utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    for block in blocks(readme):
        known = ("python", "console", "sh", "text", *([""] if name(readme) in GENERATED else []))
        assert block.language in known, f"{name(readme)}:{block.line}"


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_commands_for_the_shell_name_what_exists(readme: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = "\n".join(block.text for block in blocks(readme) if block.language == "sh")
    inline = re.findall(r"`([^`\n]+)`", prose(readme))
    for line in [*text.replace("\\\n", " ").splitlines(), *inline]:
        words = (
            shlex.split(line, comments=True)
            if re.match(r"[A-Z_]*=?\w* ?(make|python|pytest|pip) ", line)
            else []
        )
        for word, after in itertools.pairwise(words):
            if word == "make":
                assert after in targets, f"{name(readme)}: no make {after}"
            if re.fullmatch(r"(tests|examples|lossforecast|callbacks)/\S+\.py", after):
                assert (ROOT / after).exists(), f"{name(readme)}: no {after}"
        for extras in re.findall(r"(?:lossforecast|\.)\[([a-z,]+)\]", line):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), line


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_links_lead_somewhere(readme: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(readme)):
        if re.match(r"https?://", target):
            continue
        page, _, anchor = target.partition("#")
        place = (readme.parent / page).resolve() if page else readme
        assert place.exists(), f"{name(readme)} links to {target}"
        assert place.is_relative_to(ROOT), f"{name(readme)} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{name(readme)} links to {target}"


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_names_of_the_package_exist(readme: Path) -> None:
    for dotted in re.findall(r"\blossforecast(?:\.\w+)+", readme.read_text("utf-8")):
        thing, parts = importlib.import_module("lossforecast"), dotted.split(".")[1:]
        for i, part in enumerate(parts):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(".".join(["lossforecast", *parts[: i + 1]]))
            assert hasattr(thing, part), f"{name(readme)} names {dotted}"
            thing = getattr(thing, part)
    for path in re.findall(
        r"`((?:lossforecast|callbacks|tests|examples)/[\w./-]+)`", prose(readme)
    ):
        assert (ROOT / path).exists(), f"{name(readme)} names {path}"


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_lines_are_short(readme: Path) -> None:
    for number, line in enumerate(readme.read_text("utf-8").splitlines(), 1):
        whole = re.match(r"\|| *!?\[|<details>", line)  # a row, a picture or a summary
        assert whole or len(line) <= 120, f"{name(readme)}:{number} has {len(line)} columns"


def test_the_first_page_is_short() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert len(page.splitlines()) <= 200
    assert len(page.encode()) <= 12 * 1024


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.00 b\n", "a 1.01 b\n", True),
        ("a 1.00 b\n", "a 1.10 b\n", False),
        ("a 1.00 b\n", "a 1.00 c\n", False),
        ("...\nlast 5\n", "first\nsecond 2\nlast 5\n", True),
        ("first\n...\n", "first\nsecond\n", True),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n", True),
        ("first\nlast\n", "first\n1\nlast\n", False),
        ("90% (1 to 2)\n", "90% (1 to 2)\n", True),
    ],
)
def test_shown_output_is_compared(shown: str, printed: str, same: bool) -> None:
    if same:
        assert_shows(shown, printed, "here")
    else:
        with pytest.raises(AssertionError):
            assert_shows(shown, printed, "here")
