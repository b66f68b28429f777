"""The command line run in this process, on logs and recorded curves made for the tests."""

import io
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from lossforecast import LRSchedule
from lossforecast.cli.app import main
from lossforecast.cli.schemas import SCHEMAS

PYTHON = [sys.executable, "-m", "lossforecast"]
ENVIRONMENT = {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
TOTAL = 2_000
PLAN = LRSchedule.wsd(TOTAL, 1e-3, warmup=100)
SPEC = "wsd:peak=1e-3,warmup=100"


@dataclass
class Done:
    """What a command wrote, and what it ended with."""

    returncode: int
    output: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        return self.output.decode()


def run(
    *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Done:
    """A command, in this process: starting one takes longer than most commands."""
    out, err, code = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO(), 0
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**ENVIRONMENT, **(environment or {})}.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            main(list(map(str, arguments)))
        except SystemExit as ended:
            code = int(ended.code or 0)
    out.flush()
    return Done(code, out.buffer.getvalue(), err.getvalue())


def result_of(*arguments: object, **options: Any) -> Any:
    """The JSON that a command writes to standard output.

    It must be as its schema says, with no field that is missing there.
    """
    done = run(*arguments, "--json", "-", **options)
    assert done.returncode == 0, done.stderr
    words = arguments[:2] if arguments[0] == "runs" else arguments[:1]
    return written_by("-".join(map(str, words)), done.stdout)


def written_by(command: str, text: str) -> Any:
    """The JSON of a command, which must be as its schema says."""
    written = json.loads(text)
    jsonschema.validate(written, closed(SCHEMAS[command]))
    return written


def closed(schema: Any) -> Any:
    """A schema that allows no other fields."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    return inner | {"additionalProperties": False} if "properties" in schema else inner


def losses_at(steps: Any, level: float = 2.5, seed: int = 0) -> Any:
    """The losses of a run under `PLAN`."""
    noise = np.random.default_rng(seed).normal(size=np.size(steps))
    clean = level + 30 * (PLAN.s1(steps) / 1e-3 + 20) ** -0.6 + 100 * (PLAN.lr(steps) - 1e-3)
    return clean * np.exp(0.002 * noise)


def write_log(path: Path, until: int = TOTAL, *, rates: bool = True, level: float = 2.5) -> Path:
    """A CSV of that run up to a step."""
    steps = np.arange(10, TOTAL + 1, 10)
    losses = losses_at(steps, level)
    lines = ["step,val_loss" + ",lr" * rates]
    for step, loss, rate in zip(steps, losses, PLAN.lr(steps), strict=True):
        if step <= until:
            lines.append(f"{step},{loss}" + f",{rate}" * rates)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_broken_log(path: Path, first: int, last: int) -> Path:
    """A log whose losses are nan from a step on."""
    log = write_log(path, first - 10)
    with log.open("a") as file:
        file.writelines(f"{step},nan,0.001\n" for step in range(first, last + 1, 10))
    return log


def write_curves(
    folder: Path, n: int, *, every: int = 25, name: str = "made", **metadata: object
) -> Path:
    """A folder with n recorded runs of 1,000 steps, in the files of one name."""
    folder.mkdir(exist_ok=True)
    step = np.arange(every, 1_001, every)
    lr = LRSchedule.wsd(1_000, 1e-3, warmup=50).lr(step)
    rng = np.random.default_rng(0)
    clean = 2.5 + 3 * (step + 10.0) ** -0.5 + 150 * (lr - 1e-3)
    losses = [clean * np.exp(0.002 * rng.normal(size=step.size)) for _ in range(n)]
    np.savez(
        folder / f"{name}.npz",
        step=np.tile(step, n),
        lr=np.tile(lr, n),
        loss=np.concatenate(losses).astype(np.float32),
        offsets=np.arange(n + 1) * step.size,
    )
    entries = [
        {
            "run_id": f"run {i}",
            "metric": "val",
            "total_steps": 1_000,
            "schedule": {"type": "wsd"},
            **metadata,
        }
        for i in range(n)
    ]
    (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder
