"""What is built and installed is what is in the repository, `callbacks` in its place."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.browsing import tensorboard
from support.panel_logs import write

ROOT = Path(__file__).resolve().parents[1]
LINK = ROOT / "lossforecast" / "callbacks"

SOURCES = ("lossforecast", "callbacks", "tests", "examples")
FILES = (".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Built:
    """What building gave, and the tree it was built from."""

    tree: Path
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path

    def package(self) -> dict[str, bytes]:
        """Every file that belongs in the installed package, by its installed name."""
        folders = {"lossforecast": "lossforecast", "callbacks": "lossforecast/callbacks"}
        return {
            f"{name}/{path.relative_to(self.tree / folder).as_posix()}": path.read_bytes()
            for folder, name in folders.items()
            for path in files(self.tree / folder)
        }


def files(folder: Path) -> list[Path]:
    """The files under a folder, not following links."""
    return [Path(at) / name for at, _, names in os.walk(folder) for name in names]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, run_python: Callable[..., str]) -> Built:
    """The sdist, the wheel made from it and the wheel made from the tree, from a copy of it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)

    def build(*what: str) -> Path:
        out = tmp_path_factory.mktemp("dist")
        run_python("-m", "build", "--no-isolation", "--outdir", str(out), *what, cwd=tree)
        return out

    (wheel,) = build("--wheel").iterdir()
    sdist, wheel_of_sdist = sorted(build().iterdir(), key=lambda path: path.suffix)
    return Built(tree, sdist, wheel, wheel_of_sdist)


@pytest.fixture(scope="module")
def installed(
    built: Built, tmp_path_factory: pytest.TempPathFactory, run_python: Callable[..., str]
) -> Path:
    """A folder into which the wheel was installed, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target))
    run_python(*pip, str(built.wheel), cwd=target)
    return target


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Built) -> None:
    inside = contents(built.wheel)
    assert {name: data for name, data in inside.items() if ".dist-info/" not in name} == (
        built.package()
    )
    assert "lossforecast/py.typed" in inside


def test_the_wheel_made_from_the_sdist_is_the_same(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_the_sdist_holds_the_sources_the_tests_and_the_examples(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        path.relative_to(built.tree).as_posix()
        for folder in SOURCES
        for path in files(built.tree / folder)
    }
    assert expected | set(FILES) <= inside


def test_only_the_package_and_its_command_are_installed(installed: Path) -> None:
    here = sorted(path.name for path in installed.iterdir())
    assert [re.sub(r"-.*\.", "-*.", name) for name in here] == [
        "bin",
        "lossforecast",
        "lossforecast-*.dist-info",
    ]
    assert [path.name for path in (installed / "bin").iterdir()] == ["lossforecast"]
    assert (installed / "lossforecast" / "py.typed").is_file()
    assert not (installed / "lossforecast" / "callbacks").is_symlink()


@pytest.mark.slow
def test_every_module_and_adapter_imports_where_the_repository_is_not(
    built: Built, installed: Path, run_python: Callable[..., str], tmp_path: Path
) -> None:
    modules = sorted(
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in built.package()
        if name.endswith(".py")
    )
    assert "lossforecast.forecaster" in modules
    assert "lossforecast.callbacks.torch" in modules
    code = f"""
import importlib, sys
from pathlib import Path

repository = Path({str(ROOT)!r})
sys.path = [entry for entry in sys.path if Path(entry).resolve() != repository]
for name in {modules}:
    importlib.import_module(name)
callbacks = sys.modules["lossforecast.callbacks"]
for name in callbacks.__all__:
    getattr(callbacks, name)
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "lossforecast":
        print(module.__file__)
"""
    loaded = run_python("-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert len(loaded) >= len(modules)
    assert [path for path in loaded if not Path(path).is_relative_to(installed)] == []


@pytest.mark.slow
def test_a_fresh_environment_has_the_tab_in_tensorboard(
    built: Built, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    """From the wheel and what its extra brings, without torch."""
    write(tmp_path / "logs" / "run", upto=1_000)
    run_python("-m", "venv", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    install = [str(python), "-m", "pip", "install", "--quiet", *pins]
    subprocess.run([*install, f"{built.wheel}[tensorboard]"], check=True, cwd=tmp_path)
    assert subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode
    with tensorboard(tmp_path / "logs", python=str(python)) as (address, _):

        def fetched(path: str) -> bytes:
            with urllib.request.urlopen(f"{address}data/{path}", timeout=60) as response:
                found: bytes = response.read()
                return found

        while not json.loads(fetched("plugin/lossforecast/runs"))["runs"]:
            pass  # until the log is read
        tab = json.loads(fetched("plugins_listing"))["lossforecast"]
        assert (tab["enabled"], tab["tab_name"]) == (True, "Loss forecast")
        for name in ("index.js", "panel.js", "charts.js", "panel.css", "plotly.min.js"):
            assert len(fetched(f"plugin/lossforecast/{name}")) > 100


def git(*arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return done.stdout


def test_the_link_to_callbacks_is_committed_as_a_link() -> None:
    if Path(git("rev-parse", "--show-toplevel").strip()).resolve() != ROOT:
        pytest.skip("not a git checkout of its own")
    mode, blob, *_ = git("ls-files", "--stage", "lossforecast/callbacks").split() or ("none", "")
    assert mode == "120000", "git add lossforecast/callbacks as a symbolic link to ../callbacks"
    assert git("cat-file", "blob", blob) == "../callbacks"
    assert LINK.is_symlink(), "clone with core.symlinks=true"
    assert LINK.readlink() == Path("../callbacks")


def constraints() -> dict[str, str]:
    """The pinned version of every package in constraints.txt, by its canonical name."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, f"not a pin: {line}"
            assert canonicalize_name(name) not in pins, f"pinned twice: {name}"
            pins[canonicalize_name(name)] = version
    return pins


def declared() -> list[Requirement]:
    """Every dependency in pyproject.toml, of the package and of all its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [each for each in map(Requirement, lines) if each.name != "lossforecast"]


def left_to_torch(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))


def test_torch_is_pinned_for_every_build_of_it() -> None:
    pins = constraints()
    assert pins["torch"] == "2.13.0"
    assert not [name for name, version in pins.items() if "+" in version or left_to_torch(name)]


@pytest.mark.parametrize("dependency", declared(), ids=str)
def test_every_dependency_is_pinned_at_a_version_it_allows(dependency: Requirement) -> None:
    pins = constraints()
    assert canonicalize_name(dependency.name) in pins
    assert pins[canonicalize_name(dependency.name)] in dependency.specifier


@pytest.mark.skipif(sys.platform != "linux", reason="the pins were made on Linux")
def test_everything_the_dependencies_bring_along_is_pinned() -> None:
    waiting = [(each.name, frozenset(each.extras)) for each in declared()]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen or left_to_torch(name) or name == "pip":  # every venv has one
            continue
        seen.add((name, extras))
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            wanted = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(map(needed.marker.evaluate, wanted)):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    assert sorted({name for name, _ in seen if canonicalize_name(name) not in constraints()}) == []
