"""The slow, obvious references under tests/reference, which is no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_reference"]

_FOLDER = Path(__file__).parents[1] / "reference"


def load_reference(name: str) -> ModuleType:
    """Load a reference by its name."""
    spec = importlib.util.spec_from_file_location(f"reference_{name}", _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
