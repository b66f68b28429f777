"""The benchmark of scale at a small size: what a decision or a prior does, counted. No times."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scale_store import NEW, PLAN, fill, plan_of_search, statements
from scale_sweeps import OptunaSweep, RaySweep
from scale_table import Figure, table
from support.postgres import server

from lossforecast import RunStore
from lossforecast.policies.draws import JointDraws
from lossforecast.policies.sweep_errors import SweepErrors

SCRIPT = Path(__file__).parent / "scale.py"
REPORTS = 16  # enough for forecasts that policies rely on


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def where(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A store that is empty."""
    if request.param == "sqlite":
        yield str(tmp_path_factory.mktemp("scale") / "runs.db")
        return
    with server() as url:
        yield url


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often forecasts were corrected and losses drawn."""
    counts = Counter[str]()

    def counted(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return method(*args, **options)

        monkeypatch.setattr(kind, name, call)

    counted(SweepErrors, "corrected")
    counted(JointDraws, "losses")
    return counts


def drawn_in_a_decision(n_trials: int, n_running: int, calls: Counter[str]) -> Counter[str]:
    """Calls of the second decision in an Optuna sweep."""
    sweep = OptunaSweep.of(n_trials, n_running, n_reports=REPORTS)
    sweep.running[0].should_prune()
    calls.clear()
    sweep.decide(sweep.running[1])
    return calls.copy()


def test_a_decision_corrects_only_the_forecast_that_is_new(calls: Counter[str]) -> None:
    few, many = (drawn_in_a_decision(n, n - 10, calls) for n in (20, 40))
    assert few["corrected"] == many["corrected"] == 1


def test_a_decision_among_twice_as_many_trials_draws_at_most_in_proportion(
    calls: Counter[str],
) -> None:
    few, many = (drawn_in_a_decision(n, n - 10, calls) for n in (20, 40))
    n_draws_at_once = 3
    for n_running, made in ((10, few), (30, many)):
        assert 0 < made["losses"] <= 1 + n_draws_at_once * (n_running - 1)


def test_trials_that_are_over_are_never_drawn(calls: Counter[str]) -> None:
    few, many = (drawn_in_a_decision(n, 10, calls) for n in (20, 80))
    assert max(few["losses"], many["losses"]) <= 1 + 3 * 9


def test_a_decision_of_ray_corrects_only_the_forecast_that_is_new(calls: Counter[str]) -> None:
    sweep = RaySweep.of(40, 20, n_reports=REPORTS)
    sweep.decide(sweep.names[0])
    calls.clear()
    sweep.decide(sweep.names[1])
    assert calls["corrected"] == 1


def test_a_prior_takes_as_many_queries_of_many_runs_as_of_few(where: str) -> None:
    sent = {}
    for n_runs in (100, 1_000):
        store = RunStore(where)
        fill(store, n_runs, n_projects=10)
        with statements(store) as made:
            assert len(store.prior(NEW, PLAN).past) == 4
        sent[n_runs] = [statement for statement, _ in made if "SELECT" in statement]
    assert len(sent[1_000]) == len(sent[100])
    assert sum("curve" in statement for statement in sent[1_000]) == 1
    assert "lossforecast_runs_project" in plan_of_search(store)


def test_a_table_says_which_aims_are_met() -> None:
    lines = table(
        [
            Figure("fast", 12.34, "ms", 20),
            Figure("slow", 1_234.0, "ms", 200),
            Figure("size", 0.5, "GB", computed=True),
        ]
    ).splitlines()
    assert lines[2] == "| fast | 12.3 ms | 20 ms | met |"
    assert lines[3] == "| slow | 1,234 ms | 200 ms | missed |"
    assert lines[4] == "| size (computed) | 0.5 GB |  |  |"


@pytest.mark.parametrize(
    "groups",
    [
        ["sqlite", "panel"],
        pytest.param(["optuna", "ray", "postgres", "fleet"], marks=pytest.mark.slow),
    ],
    ids=["some", "others"],
)
def test_the_short_form_measures_every_group(groups: list[str]) -> None:
    command = [sys.executable, str(SCRIPT), "--short", "--only", *groups]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| figure |") == len(groups)
