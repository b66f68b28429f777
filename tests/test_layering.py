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

PACKAGES = (
    "version",
    "printable",
    "errors",
    "status",
    "arrays",
    "checks",
    "signals",
    "log",
    "numerics",
    "schedule",
    "laws",
    "runs",
    "prior",
    "posterior",
    "estimate",
    "ladder",
    "display",
    "plot",
    "forecast",
    "advice",
    "policies",
    "forecaster",
    "comparison",
    "store",
    "readers",
    "backtest",
    "cli",
    "__main__",
    "__init__",
)
"""The packages (and single modules) of the core; each imports only those named before it."""

CALLBACK_PACKAGES = (
    "version",
    "capture",
    "distributed",
    "lr_schedulers",
    "probe",
    "monitor",
    "tensorboard",
    "trackers",
    "pipeline",
    "loop",
    "keras",
    "torch_run",
    "torch",
    "lightning",
    "huggingface",
    "sweeps",
    "__init__",
)
"""The same for `callbacks`, whose modules may import all of the core below `cli`."""

HOSTS = {"keras", "torch", "lightning", "huggingface", "sweeps"}
"""Of these, the adapters to one host each: none imports another."""

LIBRARIES = {"numpy", "scipy"}
"""What the core may import besides the standard library and itself."""

LAZY = {
    "forecast": {"matplotlib"},
    "plot": {"matplotlib"},
    "backtest.plot": {"matplotlib"},
    "backtest.sweep_plot": {"matplotlib"},
    "backtest.rules": {"optuna"},
    "cli.app": {"typer"},
    "cli.backtest": {"rich", "typer"},
    "cli.compare": {"rich", "typer"},
    "cli.demo": {"rich", "typer"},
    "cli.family_tables": {"rich"},
    "cli.forecast": {"typer"},
    "cli.ladder_tables": {"rich"},
    "cli.learn_prior": {"rich", "typer"},
    "cli.live": {"rich"},
    "cli.options": {"typer"},
    "cli.output": {"matplotlib", "rich", "typer"},
    "cli.plan": {"rich", "typer"},
    "cli.replay": {"rich", "typer"},
    "cli.runs": {"rich", "typer"},
    "cli.schema": {"typer"},
    "cli.score_tables": {"rich"},
    "cli.sweep_tables": {"rich"},
    "cli.tables": {"rich"},
    "cli.watch": {"rich", "typer"},
    "cli.what_if": {"rich", "typer"},
    "readers.formats.tensorboard": {"google", "tensorboard"},
    "store.address": {"sqlalchemy"},
    "store.database": {"sqlalchemy"},
    "store.engines": {"sqlalchemy"},
    "store.plan_plot": {"matplotlib"},
    "store.reader": {"sqlalchemy"},
    "store.run_store": {"sqlalchemy"},
    "store.schema": {"sqlalchemy"},
}
"""What a module of the core may import besides, inside a function or for type checkers."""

SHOWS = {"lossforecast.cli.demo"}
"""Modules that show an adapter to people, and may import the face of `callbacks`."""

FRAMEWORKS = {
    "jax",
    "keras",
    "lightning",
    "matplotlib",
    "mlflow",
    "optuna",
    "pytorch_lightning",
    "ray",
    "rich",
    "tensorboard",
    "torch",
    "trackio",
    "transformers",
    "typer",
    "wandb",
}
"""What must not be loaded before an adapter, or a function of the core, asks for it."""

SLOW = pytest.mark.slow
ADAPTERS: dict[str, set[str]] = {
    "AccelerateSink": set(),
    "AnnealingProbe": {"torch"},
    "CSVSink": set(),
    "ForecastPruner": {"optuna"},
    "ForecastScheduler": {"ray", "rich"},  # its progress tables
    "ForecastStopper": {"ray", "rich"},
    "KerasLossForecast": {"jax", "keras", "matplotlib", "rich", "torch"},  # one of its backends
    # its metrics load transformers where that is installed, its progress bars rich
    "LightningLossForecast": {"lightning", "matplotlib", "rich", "torch", "transformers"},
    "LossForecast": set(),
    "MLflowSink": set(),
    "SteerableLR": {"torch"},
    "TensorBoardSink": set(),
    "TorchLossForecast": {"torch"},
    "TrackioSink": set(),
    "TransformersLossForecast": {"torch", "transformers"},
    "WandbSink": set(),
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


def name_of(path: Path) -> str:
    """The dotted name of a module, from its place in the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("lossforecast", *parts) if parts[0] == "callbacks" else parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path
    for folder in (CORE, CALLBACKS)
    for path in sorted(folder.rglob("*.py"))
    if folder is CALLBACKS or not path.is_relative_to(CORE / "callbacks")
}


def package_of(module: str) -> tuple[str, ...]:
    """The package of a module: ("fit",) of the core, ("callbacks", "monitor") of the adapters."""
    first, *rest = [*module.split(".")[1:], "__init__"]
    return ("callbacks", rest[0]) if first == "callbacks" else (first,)


def face_of(package: tuple[str, ...]) -> str:
    """The module that other packages may import."""
    return ".".join(("lossforecast", *package)).removesuffix(".__init__")


def order_of(package: tuple[str, ...]) -> int:
    """Its place: the core below `cli`, then the adapters, then the rest of the core."""
    if package[0] == "callbacks":
        return PACKAGES.index("cli") + CALLBACK_PACKAGES.index(package[1])
    place = PACKAGES.index(package[0])
    return place + len(CALLBACK_PACKAGES) * (place >= PACKAGES.index("cli"))


def exports_of(module: str) -> set[str]:
    """The names in `__all__` of a module."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def target_of(name: str) -> str:
    """The module that an import names; a function of a face may be called like its module."""
    module, _, leaf = name.rpartition(".")
    if module in MODULES and leaf in exports_of(module):
        return module
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def faults(module: str, source: str) -> list[str]:
    """The imports of a module that break a rule of the layering, in words."""
    mine, faulty = package_of(module), []
    lazily = LAZY.get(module.partition(".")[2], set())
    for each in imports(ast.parse(source)):
        top = each.name.partition(".")[0]
        where = f"{module}:{each.line} imports {each.name}"
        if top in ("", "callbacks"):
            faulty.append(f"{where}: import absolutely, from lossforecast.<package>")
        elif top == "lossforecast":
            target = target_of(each.name)
            theirs = package_of(target)
            if theirs == mine:
                continue
            if module != "lossforecast.callbacks" and order_of(theirs) >= order_of(mine):
                faulty.append(f"{where}: {face_of(theirs)} does not come before {face_of(mine)}")
            elif theirs[0] == "callbacks" and mine[0] != "callbacks" and module not in SHOWS:
                faulty.append(f"{where}: the core does not know its adapters")
            elif mine[0] == theirs[0] == "callbacks" and {mine[1], theirs[1]} <= HOSTS:
                faulty.append(f"{where}: an adapter does not import another")
            elif target != face_of(theirs) and module != "lossforecast.callbacks":
                faulty.append(f"{where}: only the face, {face_of(theirs)}, is for other packages")
        elif mine[0] == "callbacks" or top in LIBRARIES | sys.stdlib_module_names:
            continue
        elif not (each.lazy and top in lazily):
            faulty.append(f"{where}: the core loads numpy and scipy only")
    return faulty


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    state: dict[str, bool] = {}

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if state.setdefault(module, False):
            return []
        for other in sorted(edges.get(module, ())):
            if closed := visit(other, [*path, module]):
                return closed
        state[module] = True
        return []

    return next((closed for module in sorted(edges) if (closed := visit(module, []))), [])


def inner_edges() -> dict[str, set[str]]:
    """Which modules of its own package each module imports; a face imports its modules only."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            targets = {target_of(each.name) for each in imports(tree)}
            mine = package_of(module)
            edges[module] = {
                name for name in targets if name in MODULES and package_of(name) == mine
            }
    return edges


def test_every_package_has_its_place() -> None:
    ours = {package_of(module)[0] for module in MODULES} - {"callbacks"}
    theirs = {package_of(module)[1] for module in MODULES if ".callbacks" in module}
    homeless = sorted(ours - set(PACKAGES)) + sorted(theirs - set(CALLBACK_PACKAGES))
    assert not homeless, (
        f"place {homeless} in PACKAGES or CALLBACK_PACKAGES of {Path(__file__).name}: "
        "after every package it imports, before every package that imports it"
    )
    assert {path.parent for path in MODULES.values()} == {
        path.parent for path in MODULES.values() if path.name == "__init__.py"
    }


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_package_imports_only_faces_of_packages_before_it(module: str) -> None:
    assert faults(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_no_package_has_a_circle_inside() -> None:
    assert circle(inner_edges()) == []


def test_a_circle_is_found() -> None:
    a, b, c = "lossforecast.runs.a", "lossforecast.runs.b", "lossforecast.runs.c"
    assert circle({a: {b}, b: {c}, c: set()}) == []
    assert circle({a: {b}, b: {c}, c: {b}}) == [b, c, b]
    assert circle({a: {a}}) == [a, a]


FIT = "lossforecast.posterior.fit"
SINK = "lossforecast.callbacks.tensorboard.sink"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (FIT, "import torch"),
        (FIT, "import numpy, torch.nn"),
        (FIT, "from torch.optim import lr_scheduler"),
        (FIT, "try:\n    import ray\nexcept ImportError:\n    ray = None"),
        (FIT, "def f():\n    import lightning"),
        (FIT, "import importlib\nimportlib.import_module('optuna')"),
        (FIT, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers"),
        (FIT, "from lossforecast.forecast import Forecast"),
        (FIT, "from lossforecast import forecast"),
        (FIT, "import lossforecast.forecast"),
        (FIT, "def f():\n    from lossforecast.cli import main"),
        (FIT, "from lossforecast import Forecaster"),
        (FIT, "import lossforecast"),
        (FIT, "from lossforecast.prior.prior import Prior"),
        (FIT, "import lossforecast.prior.prior"),
        (FIT, "from lossforecast.prior import drops"),
        (FIT, "from . import relaxation"),
        (FIT, "from .node_set import NodeSet"),
        (FIT, "import callbacks"),
        ("lossforecast.cli.app", "from lossforecast.callbacks.torch import TorchLossForecast"),
        ("lossforecast.cli.app", "from lossforecast import callbacks"),
        ("lossforecast.plot", "import matplotlib.pyplot as plt"),
        ("lossforecast.plot", "def f():\n    import torch"),
        (SINK, "from lossforecast.callbacks.monitor.update import Update"),
        (SINK, "from lossforecast.callbacks.pipeline import Pipeline"),
        (SINK, "from lossforecast.callbacks.lightning import LightningLossForecast"),
        (SINK, "from lossforecast.callbacks import SteerableLR"),
        (SINK, "from lossforecast.cli import main"),
        (SINK, "from lossforecast.forecast.estimate import Estimate\nfrom .plugin import record"),
        ("lossforecast.callbacks.torch", "from lossforecast.callbacks.lightning import x"),
        (
            "lossforecast.callbacks.lightning.callback",
            "from lossforecast.callbacks.torch import y",
        ),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(faults(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (FIT, "import math\nimport numpy as np\nfrom scipy.special import log_ndtr"),
        (FIT, "from lossforecast.laws import LAWS\nfrom lossforecast import errors"),
        (FIT, "from lossforecast.posterior.node_set import NodeSet"),
        ("lossforecast.plot", "def f():\n    import matplotlib.pyplot as plt"),
        (
            "lossforecast.plot",
            "import typing\nif typing.TYPE_CHECKING:\n    from matplotlib.axes import Axes",
        ),
        ("lossforecast", "from lossforecast.forecaster import Forecaster"),
        (SINK, "import torch\nfrom lossforecast.callbacks.monitor import Update"),
        (SINK, "from lossforecast.callbacks.tensorboard.plugin import record"),
        (SINK, "from lossforecast.plot import plot\nfrom lossforecast.store import RunStore"),
    ],
)
def test_a_right_import_is_left_alone(module: str, source: str) -> None:
    assert faults(module, source) == []


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
    core = sorted(module for module in MODULES if package_of(module)[0] != "callbacks")
    code = f"""
absent = {FRAMEWORKS}
{ABSENT}
import lossforecast
assert not loaded(absent), loaded(absent)
assert not loaded(["scipy"]), "its import takes longer than that of the rest"
assert "lossforecast.callbacks" not in sys.modules
import importlib
for module in {core}:
    importlib.import_module(module)
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
