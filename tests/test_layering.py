"""Data moves left to right only: a room imports rooms to its left, and the core no framework."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "lossforecast"
CALLBACKS = ROOT / "callbacks"

ROOMS = (
    "errors",
    "status",
    "checks",
    "parallel",
    "pieces",
    "knots",
    "schedule",
    "schedule_text",
    "schedule_code",
    "lint",
    "history",
    "laws",
    "relaxation",
    "mixture",
    "drops",
    "gaps",
    "run_info",
    "evidence",
    "past",
    "prior",
    "design",
    "solve",
    "walk",
    "scale",
    "posterior",
    "kin",
    "fit",
    "forecast",
    "standing",
    "recommendation",
    "broken",
    "target_miss",
    "recommend",
    "dominated",
    "no_room",
    "patience",
    "advice",
    "reschedule",
    "policies",
    "forecaster",
    "published",
    "baselines",
    "scores",
    "curves",
    "replay",
    "trails",
    "rules",
    "scorecard",
    "report",
    "backtest",
    "sweeps",
    "report_sweeps",
    "learn",
    "database",
    "records",
    "store",
    "windows",
    "log_source",
    "log_events",
    "log_formats",
    "log_steps",
    "readers",
    "lookback",
    "plot",
    "plot_scores",
    "cli_output",
    "cli_backtest",
    "cli_options",
    "cli_look",
    "cli_logs",
    "cli_runs",
    "cli",
    "__main__",
    "__init__",
)
"""The rooms of the core, each importing only rooms named before it."""

LIBRARIES = {"numpy", "scipy"}
"""What the core may import besides the standard library and itself."""

LAZY = {
    "plot": {"matplotlib"},
    "plot_scores": {"matplotlib"},
    "cli": {"typer"},
    "cli_backtest": {"rich", "typer"},
    "cli_logs": {"rich", "typer"},
    "cli_look": {"rich"},
    "cli_options": {"typer"},
    "cli_output": {"matplotlib", "rich", "typer"},
    "cli_runs": {"rich", "typer"},
    "log_events": {"google", "tensorboard"},
    "database": {"sqlalchemy"},
    "store": {"sqlalchemy"},
    "report": {"rich"},
    "report_sweeps": {"rich"},
    "rules": {"optuna"},
}
"""What a room may import besides, inside a function or for type checkers."""

FRAMEWORKS = {
    "lightning",
    "matplotlib",
    "optuna",
    "pytorch_lightning",
    "ray",
    "rich",
    "tensorboard",
    "torch",
    "transformers",
    "typer",
}
"""What must not be loaded before an adapter, or a function of the core, asks for it."""

SLOW = pytest.mark.slow
ADAPTERS = {
    "AnnealingProbe": {"torch"},
    "ForecastPruner": {"optuna"},
    "ForecastScheduler": {"ray", "rich"},  # its progress tables
    "ForecastStopper": {"ray", "rich"},
    # its metrics load transformers where that is installed, its progress bars rich
    "LightningLossForecast": {"lightning", "matplotlib", "rich", "torch", "transformers"},
    "SteerableLR": {"torch"},
    "TorchLossForecast": {"torch"},
    "TransformersLossForecast": {"torch", "transformers"},
    "schedule_from_torch": {"torch"},
}
"""The frameworks that naming an adapter may load."""


@dataclass(frozen=True)
class Import:
    """An import statement or call: the dotted name, and whether it waits until it is needed."""

    name: str
    line: int
    lazy: bool


def imports(node: ast.AST, lazy: bool = False) -> Iterator[Import]:
    """Every import in a syntax tree; a relative one keeps its leading dots."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield Import(alias.name, node.lineno, lazy)
        case ast.ImportFrom(module=module, names=names, level=level):
            for alias in names:
                yield Import(f"{'.' * level}{module or ''}.{alias.name}", node.lineno, lazy)
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__")
            | ast.Attribute(attr="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield Import(name, node.lineno, lazy)
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            for statement in node.body:
                yield from imports(statement, lazy=True)
            for statement in node.orelse:
                yield from imports(statement, lazy)
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            lazy = True
    for child in ast.iter_child_nodes(node):
        yield from imports(child, lazy)


def faults(room: str, source: str) -> list[str]:
    """What a room of the core imports and must not, in words."""
    left = ROOMS[: ROOMS.index(room)]
    outside = sys.stdlib_module_names | LIBRARIES
    found = []
    for each in imports(ast.parse(source)):
        top, _, rest = each.name.partition(".")
        where = f"{room}.py:{each.line} imports {each.name}"
        if not top:
            found.append(f"{where}: import absolutely, from lossforecast.<room>")
        elif top == "lossforecast":
            other = rest.partition(".")[0]
            if other not in left:
                found.append(f"{where}: only {', '.join(left) or 'nothing'} lies to its left")
        elif each.lazy and top in LAZY.get(room, ()):
            continue
        elif top not in outside:
            found.append(f"{where}: the core loads numpy and scipy only")
    return found


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in CORE.glob("*.py")}
    rooms |= {path.parent.name for path in CORE.glob("*/__init__.py")} - {"callbacks"}
    homeless = sorted(rooms - set(ROOMS))
    assert not homeless, (
        f"place {homeless} in ROOMS of {Path(__file__).name}: "
        "after every room it imports, before every room that imports it"
    )


@pytest.mark.parametrize("room", sorted({path.stem for path in CORE.glob("*.py")} & set(ROOMS)))
def test_a_room_imports_only_what_lies_to_its_left(room: str) -> None:
    assert faults(room, (CORE / f"{room}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("fit", "import torch"),
        ("fit", "import numpy, torch.nn"),
        ("fit", "from torch.optim import lr_scheduler"),
        ("fit", "try:\n    import ray\nexcept ImportError:\n    ray = None"),
        ("fit", "def f():\n    import lightning"),
        ("fit", "import importlib\nimportlib.import_module('optuna')"),
        ("fit", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers"),
        ("fit", "from lossforecast.forecast import Forecast"),
        ("fit", "from lossforecast import forecast"),
        ("fit", "import lossforecast.forecast"),
        ("fit", "def f():\n    from lossforecast.cli import main"),
        ("fit", "from lossforecast.fit import fit"),
        ("fit", "from lossforecast import Forecaster"),
        ("fit", "import lossforecast"),
        ("fit", "from . import laws"),
        ("fit", "from .laws import LAWS"),
        ("fit", "import callbacks"),
        ("cli", "from lossforecast.callbacks.torch import TorchLossForecast"),
        ("cli", "from lossforecast import callbacks"),
        ("plot", "import matplotlib.pyplot as plt"),
        ("plot", "def f():\n    import torch"),
    ],
)
def test_a_wrong_import_is_found(room: str, source: str) -> None:
    assert len(faults(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("fit", "import math\nimport numpy as np\nfrom scipy.special import log_ndtr"),
        ("fit", "from lossforecast.laws import LAWS\nfrom lossforecast import errors"),
        ("plot", "def f():\n    import matplotlib.pyplot as plt"),
        ("plot", "import typing\nif typing.TYPE_CHECKING:\n    from matplotlib.axes import Axes"),
        ("__init__", "from lossforecast.forecaster import Forecaster"),
    ],
)
def test_a_right_import_is_left_alone(room: str, source: str) -> None:
    assert faults(room, source) == []


@pytest.mark.parametrize(
    "path", sorted(CALLBACKS.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_adapters_import_absolutely_under_their_installed_name(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [each for each in imports(tree) if each.name.partition(".")[0] in ("", "callbacks")]
    assert wrong == []


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def loaded(names):
    return sorted(set(names) & {name.partition(".")[0] for name in sys.modules})

sys.meta_path.insert(0, Absent())
"""


def test_the_core_works_where_no_framework_is_installed(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    rooms = sorted(path.stem for path in CORE.glob("*.py") if path.stem != "__init__")
    code = f"""
absent = {FRAMEWORKS}
{ABSENT}
import lossforecast
assert not loaded(absent), loaded(absent)
assert "lossforecast.callbacks" not in sys.modules
import importlib
for room in {rooms}:
    importlib.import_module(f"lossforecast.{{room}}")
importlib.import_module("lossforecast.callbacks")
assert not loaded(absent), loaded(absent)
"""
    run_python("-c", code, cwd=tmp_path)


def test_every_adapter_is_found_where_the_table_says() -> None:
    home = importlib.import_module("lossforecast.callbacks")._HOME
    assert sorted(home) == sorted(ADAPTERS), "say in ADAPTERS what naming an adapter may load"
    for name, module in home.items():
        assert name in importlib.import_module(module).__all__


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(
            name, marks=() if name in ("ForecastPruner", "LightningLossForecast") else SLOW
        )
        for name in sorted(ADAPTERS)
    ],
)
def test_naming_an_adapter_loads_no_other_framework(
    adapter: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    code = f"""
absent = {{}}
{ABSENT}
import lossforecast.callbacks
assert not loaded({FRAMEWORKS}), loaded({FRAMEWORKS})
from lossforecast.callbacks import {adapter}
print(*loaded({FRAMEWORKS}))
"""
    assert set(run_python("-c", code, cwd=tmp_path).split()) <= ADAPTERS[adapter]
