"""`backtest --ladder` and the scaling laws it compares with."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command_line import run, written_by
from support.families import run_of

from lossforecast.backtest import LADDER_BASELINES
from lossforecast.backtest.scaling_laws import ScalingPoint, fit_scaling_law

SIZES = (1e8, 2e8, 4e8)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sizes with two lengths each, and one run of another evaluation set."""
    folder = tmp_path_factory.mktemp("family")
    entries: list[dict[str, object]] = []
    columns = []
    for n_params in SIZES:
        for length in (0.5, 1.0):
            plan, steps, losses = run_of(n_params, length=length, seed=len(entries))
            columns.append((steps, plan.lr(steps), losses))
            entries.append(entry(n_params, plan.total_steps, f"{n_params:g} x {length:g}", "web"))
    columns.append(columns[-1])
    entries.append(entry(SIZES[-1], entries[-1]["total_steps"], "on code", "code"))
    step, lr, loss = (np.concatenate(part) for part in zip(*columns, strict=True))
    offsets = np.cumsum([0, *(len(steps) for steps, _, _ in columns)])
    np.savez(folder / "made.npz", step=step, lr=lr, loss=loss, offsets=offsets)
    (folder / "made.json").write_text(json.dumps(entries))
    return folder


def entry(n_params: float, total_steps: object, run_id: str, val_set: str) -> dict[str, object]:
    return {
        "run_id": run_id,
        "metric": "val",
        "val_set": val_set,
        "n_params": n_params,
        "batch_tokens": 1e6,
        "total_steps": total_steps,
        "optimizer": "AdamW",
        "kind": "large language model",
        "schedule": {"type": "cosine"},
    }


def test_every_size_is_forecast_from_all_smaller_ones(family: Path, tmp_path: Path) -> None:
    out = tmp_path / "ladder.json"
    done = run("backtest", "--ladder", "--curves", family, "--json", out)
    assert done.returncode == 0, done.stderr
    found = written_by("backtest-ladder", out.read_text())
    assert {each["run_id"] for each in found} == {
        f"{n:g} x {length:g}" for n in SIZES[1:] for length in (0.5, 1.0)
    }
    for each in found:
        assert each["from_params"] == [n for n in SIZES if n < each["n_params"]]
        assert set(LADDER_BASELINES) <= set(each)
        assert each["lower80"] < each["median"] < each["upper80"]
        assert abs(each["median"] / each["truth"] - 1) < 0.03
        assert (each["last_value"] is None) == (each["fraction"] == 0)
        assert (each["chinchilla"] is None) == (len(each["from_params"]) == 1)
    for run_id in {each["run_id"] for each in found}:
        fractions = [each["fraction"] for each in found if each["run_id"] == run_id]
        assert fractions[0] == 0
        assert fractions == sorted(fractions)
    assert "from smaller runs" in done.stdout
    assert "Traceback" not in done.stderr


def test_without_smaller_runs_it_says_so(tmp_path: Path, family: Path) -> None:
    entries = json.loads((family / "made.json").read_text())
    alone = [{**each, "n_params": SIZES[0]} for each in entries]
    (tmp_path / "made.json").write_text(json.dumps(alone))
    (tmp_path / "made.npz").write_bytes((family / "made.npz").read_bytes())
    done = run("backtest", "--ladder", "--curves", tmp_path)
    assert done.returncode != 0
    assert "no run with smaller ones" in done.stderr


def test_options_of_other_modes_are_refused(family: Path) -> None:
    done = run("backtest", "--ladder", "--curves", family, "--told", "nothing")
    assert done.returncode != 0
    assert "leave them out" in done.stderr


@pytest.mark.parametrize("with_rate", [False, True])
def test_a_scaling_law_is_recovered(with_rate: bool) -> None:
    def loss(n: float, d: float, rate: float) -> float:
        return float(1.7 + 400 * n**-0.34 + 400 * d**-0.28 + 0.1 * rate * with_rate)

    points = [
        ScalingPoint(n, d, rate, loss(n, d, rate))
        for n in (1e8, 3e8, 1e9)
        for d in (2e9, 1e10, 5e10)
        for rate in (0.1, 1.0)
    ]
    law = fit_scaling_law(points, with_rate=with_rate)
    assert law is not None
    assert law.loss(3e9, 1e11, 0.1) == pytest.approx(loss(3e9, 1e11, 0.1), rel=0.01)


def test_one_size_gives_no_scaling_law() -> None:
    points = [ScalingPoint(1e8, d, 0.1, 3.0) for d in (1e9, 1e10)]
    assert fit_scaling_law(points, with_rate=False) is None
