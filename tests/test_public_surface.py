"""The names outside code may rely on. Changing one of these lists is a release note."""

import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PUBLIC = {
    "lossforecast": [
        "Action",
        "Bins",
        "Caveat",
        "ConfigurationError",
        "Forecast",
        "Forecaster",
        "History",
        "LRSchedule",
        "LossForecastError",
        "ObservationError",
        "Prior",
        "Reason",
        "Recommendation",
        "RunInfo",
        "RunStore",
        "ScheduleError",
        "StateError",
        "Status",
        "StoreError",
        "__version__",
    ],
    "lossforecast.callbacks": [
        "AccelerateSink",
        "AnnealingProbe",
        "CSVSink",
        "ForecastPruner",
        "ForecastScheduler",
        "ForecastStopper",
        "KerasLossForecast",
        "LightningLossForecast",
        "LossForecast",
        "MLflowSink",
        "SteerableLR",
        "TensorBoardSink",
        "TorchLossForecast",
        "TrackioSink",
        "TransformersLossForecast",
        "WandbSink",
        "schedule_from_torch",
    ],
}

MODULES = sorted(
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in [
        *(path.relative_to(ROOT) for path in ROOT.glob("lossforecast/*.py")),
        *(path.relative_to(ROOT) for path in ROOT.glob("lossforecast/[!c]*/**/*.py")),
        *(path.relative_to(ROOT) for path in ROOT.glob("lossforecast/cli/*.py")),
        *("lossforecast" / path.relative_to(ROOT) for path in ROOT.glob("callbacks/**/*.py")),
    ]
    if path.stem == "__init__" or not path.stem.startswith("_")
)


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_the_public_names_are_these(package: str) -> None:
    assert PUBLIC[package] == sorted(PUBLIC[package])
    assert importlib.import_module(package).__all__ == PUBLIC[package]


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in sorted(PUBLIC) for name in PUBLIC[package]]
)
def test_every_public_name_resolves_and_is_documented(package: str, name: str) -> None:
    thing = getattr(importlib.import_module(package), name)
    if name == "__version__":
        return
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    written = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert written
    assert not written.startswith(f"{name}("), "a dataclass's made-up docstring is none"


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match="NoSuchName"):
        getattr(module, "NoSuchName")  # noqa: B009, a name type checkers know to be missing
    assert set(PUBLIC[package]) <= set(dir(module))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_of_it_is_public(module: str) -> None:
    imported = importlib.import_module(module)
    assert imported.__doc__
    assert isinstance(imported.__all__, list)
    assert imported.__all__
    assert len(set(imported.__all__)) == len(imported.__all__)
    for name in imported.__all__:
        getattr(imported, name)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert importlib.import_module("lossforecast").__version__ == project["version"]
