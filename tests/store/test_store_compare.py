"""`RunStore.compare` and the command `compare`."""

from pathlib import Path

import numpy as np
import pytest
from support.command_line import PLAN, SPEC, TOTAL, losses_at, result_of, run, write_log

from lossforecast import ConfigurationError, LRSchedule, RunInfo, RunStore, StoreError

INFO = RunInfo("val", "adamw", "p", "language modelling", monitor="val_loss")
STEPS = np.arange(10, TOTAL + 1, 10)
HIGH = LRSchedule.wsd(TOTAL, 2e-3, warmup=100)


def add(
    store: RunStore, name: str, level: float, plan: LRSchedule = PLAN, until: int = TOTAL
) -> str:
    """A run with a seed of its own; its loss at the end grows with the level."""
    seed = sum(map(ord, name))
    steps = STEPS[until >= STEPS]
    return store.add(name, INFO, plan, steps, losses_at(steps, level, seed))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two recipes, with three and two runs, and a run in progress of a third."""
    made = RunStore(tmp_path_factory.mktemp("store") / "runs.db")
    for i in range(3):
        add(made, f"low {i}", 2.5 + 0.003 * i)
    for i in range(2):
        add(made, f"high {i}", 2.6 + 0.003 * i, HIGH)
    going = made.begin("going", INFO, PLAN.truncated_to(TOTAL).scaled_from(0, 0.5))
    current = made.compared("low 0").history.until(1_200)
    made.save(going, current, made.run(going).schedule)
    return made


def test_repeats_in_the_store_tell_the_noise(store: RunStore) -> None:
    found = store.compare("low 0", "high 0")
    assert len(found.first.repeats) == 2
    assert len(found.second.repeats) == 1
    assert (found.spread.n_runs, found.spread.n_recipes) == (5, 2)
    assert found.differ
    assert found.interval95[1] < 0
    assert found.difference == pytest.approx(-0.0375, abs=0.01)
    assert found.prob_first_better > 0.99


def test_a_run_is_found_by_key_beginning_or_name(store: RunStore) -> None:
    key = store.compared("low 0").key
    assert store.compared(key).name == store.compared(key[:12]).name == "low 0"
    with pytest.raises(StoreError, match="has no run 'unheard of'"):
        store.compare("low 0", "unheard of")
    with pytest.raises(ConfigurationError, match="they are one and the same run"):
        store.compare("low 0", key)


def test_a_name_that_several_runs_have_is_refused(tmp_path: Path) -> None:
    made = RunStore(tmp_path / "runs.db")
    for level in (2.5, 2.6):
        add(made, "twice", level)
    with pytest.raises(StoreError, match="2 runs named 'twice': give the key of one"):
        made.compared("twice")


def test_excluded_and_damaged_runs_tell_nothing(tmp_path: Path) -> None:
    made = RunStore(tmp_path / "runs.db")
    keys = [add(made, f"low {i}", 2.5 + 0.003 * i) for i in range(4)]
    add(made, "high", 2.6, HIGH)
    assert len(made.compare("low 0", "high").first.repeats) == 3
    made.exclude(keys[1])
    runs = made._database.tables.runs
    with made._database.transaction("written") as connection:
        connection.execute(runs.update().where(runs.c.key == keys[2]), {"curve": '{"a": 1}'})
    assert len(made.compare("low 0", "high").first.repeats) == 1
    with pytest.raises(StoreError, match="are damaged"):
        made.compare("low 2", "high")


def test_a_run_in_progress_is_forecast_from_the_store(store: RunStore) -> None:
    found = store.compare("going", "high 0")
    assert not found.first.finished
    assert found.first.error > 0
    assert found.second.finished


def test_the_command_writes_what_the_store_says(store: RunStore) -> None:
    expected = store.compare("low 0", "high 0")
    found = result_of("compare", "low 0", "high 0", "--store", store.full_url)
    assert found["median"] == pytest.approx(float(expected.difference))
    assert found["upper95"] == pytest.approx(expected.interval95[1])
    assert found["prob_first_better"] == pytest.approx(expected.prob_first_better)
    assert found["spread_runs"] == 5
    assert found["differ"]
    assert found["first"]["repeats"] == list(expected.first.repeats)
    shown = run("compare", "high 0", "low 0", "--store", store.full_url).stdout
    assert "B is better, beyond the noise of seeds and evaluation." in shown
    assert "5 repeats of 2 recipes in the store" in shown
    same = run("compare", "low 0", "low 1", "--store", store.full_url).stdout
    assert "Nothing recorded distinguishes the two." in same


def test_the_command_compares_logs(tmp_path: Path, store: RunStore) -> None:
    one = write_log(tmp_path / "one.csv")
    other = write_log(tmp_path / "other.csv", 1_200, level=2.5001)
    plan = ("--total-steps", TOTAL, "--schedule", SPEC, "--task", "language modelling")
    found = result_of("compare", one, other, *plan)
    assert found["first"]["finished"]
    assert not found["second"]["finished"]
    assert found["spread_runs"] == 0
    assert not found["differ"]
    assert "packaged: no repeats are known" in run("compare", one, other, *plan).stdout
    mixed = result_of(
        *("compare", one, "high 0", "--store", store.full_url, "--project", "p"),
        *(*plan, "--optimizer", "adamw"),
    )
    assert mixed["first"]["name"] == str(one)
    assert len(mixed["first"]["repeats"]) == 3  # the log is of the recipe of `low`
    assert mixed["spread_runs"] == 6


def test_the_command_says_what_is_wrong(tmp_path: Path, store: RunStore) -> None:
    for arguments, message in (
        (("low 0", "high 0"), "there is no log low 0; give --store"),
        (("low 0", "nothing", "--store", store.full_url), "has no run 'nothing'"),
        ((write_log(tmp_path / "a.csv"), "low 0", "--metric", "fun"), "must be train or val"),
    ):
        done = run("compare", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
