"""What every test may use: the recorded curves, a fresh Python, skips that say what is missing."""

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # the one that is installed
os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers starve beside other tests
pytest.register_assert_rewrite("support")  # helpers there assert as well
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts jobs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # for the processes of tests


# Files that take long for the tests they have: first, so that two processes end together.
LONG_FILES = (
    "test_types.py",
    "test_panel_page.py",
    "test_ray.py",
    "test_distributed.py",
    "test_accidents.py",
    "test_examples.py",
    "test_huggingface_processes.py",
    "test_lightning_ddp.py",
    "test_fabric.py",
    "test_huggingface.py",
    "test_huggingface_resume.py",
    "test_store_processes.py",
    "test_optuna.py",
    "test_packaging.py",
    "test_capture_device.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, in the order above."""
    rank = {name: i for i, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    """Freeze what the modules hold: to look through it took half of the time of Trainer tests."""
    import hypothesis  # noqa: F401 - its plug-ins look for referrers, which freezing hides

    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, with the reason."""
    if item.get_closest_marker("slow") and not os.environ.get("LOSSFORECAST_FULL"):
        pytest.skip("slow: runs in `make test-full`, or with LOSSFORECAST_FULL=1")
    if item.get_closest_marker("browser"):
        missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
        if missing:
            pytest.skip(f"browser: {' and '.join(missing)} not installed")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="gpu: torch is not installed")
        if not torch.cuda.is_available():
            pytest.skip("gpu: torch sees no CUDA device")


@pytest.fixture(scope="session")
def curves_dir() -> Path:
    """The folder of recorded training curves, named by LOSSFORECAST_CURVES."""
    named = os.environ.get("LOSSFORECAST_CURVES")
    if not named:
        pytest.skip("LOSSFORECAST_CURVES names no folder of recorded curves")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"LOSSFORECAST_CURVES={named} is not a folder; unset it to skip these tests")
    return folder


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Runs a module or a piece of code (the arguments) in a fresh Python and returns its output."""

    def run(*arguments: str, cwd: Path, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def reference() -> Callable[[str], ModuleType]:
    """Loads a slow, obvious reference by its name."""
    from support.references import load_reference  # only now are its assertions rewritten

    return load_reference
