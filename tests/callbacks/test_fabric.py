"""`TorchLossForecast` in the loops of Lightning Fabric, in one process and in two."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.fabric import Fabric
from support.fabric_processes import EVERY, TOTAL, train
from support.policies import stop_from
from support.processes import SUPPORT, answers, run_script

from lossforecast import RunStore

Seen = dict[str, Any]


def fabric(precision: Any = "32-true") -> Any:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    ("apart", "wrapped_first"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_a_fabric_loop_is_watched_like_a_plain_one(
    apart: bool, wrapped_first: bool, accumulate: int
) -> None:
    plain = train(None, accumulate=accumulate)
    found = train(fabric(), apart=apart, wrapped_first=wrapped_first, accumulate=accumulate)
    assert len(found["forecasts"]) == TOTAL / EVERY
    assert found == plain


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_and_rates_are_those_of_the_loop_which_notices_nothing(
    precision: str, accumulate: int
) -> None:
    found = train(fabric(precision), accumulate=accumulate)
    bare = train(fabric(precision), accumulate=accumulate, watched=False)
    assert found["weights"] == bare["weights"]
    assert list(found["seen"]) == list(found["losses"]) == list(range(TOTAL))
    np.testing.assert_allclose(
        list(found["seen"].values()), list(found["losses"].values()), rtol=1e-12
    )
    used = found["rates"]
    assert found["plan"] == list(used.values())
    assert found["seen rates"] == {step: rate for step, rate in used.items() if step < TOTAL}
    assert list(found["forecasts"]) == list(range(EVERY, TOTAL + 1, EVERY))
    assert not found["off"]
    assert found["log"] == []


@pytest.mark.parametrize("wrapped_first", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("precision", "accumulate", "save_at"),
    [("32-true", 1, 60), ("32-true", 3, 67), ("bf16-mixed", 1, 67)],
)
def test_a_loop_resumed_with_fabric_forecasts_and_trains_the_same(
    tmp_path: Path, precision: str, accumulate: int, save_at: int, wrapped_first: bool
) -> None:
    options: dict[str, Any] = {"accumulate": accumulate, "wrapped_first": wrapped_first}
    whole = train(fabric(precision), target=0.5, **options)
    saved = {**options, "save_at": save_at, "save_to": tmp_path / "all.pt"}
    train(fabric(precision), target=0.5, fail_at=80, **saved)
    resumed = train(fabric(precision), target=0.5, resume=tmp_path / "all.pt", **options)
    assert resumed["weights"] == whole["weights"]
    # one that is due after a step is made when the next loss comes
    assert list(resumed["forecasts"]) == list(range(60 if save_at == 60 else 70, TOTAL + 1, EVERY))
    assert resumed["forecasts"].items() <= whole["forecasts"].items()
    assert resumed["seen"] == whole["seen"]
    assert resumed["plan"] == whole["plan"]
    assert resumed["log"] == whole["log"][-len(resumed["log"]) :]


def test_a_run_is_stored_and_resumed_in_its_record(tmp_path: Path) -> None:
    where = tmp_path / "runs.db"
    train(fabric(), store=where, fail_at=80, save_at=60, save_to=tmp_path / "all.pt")
    store = RunStore(where)
    (run,) = store.runs()
    assert run.state == "failed"
    found = train(fabric(), store=where, resume=tmp_path / "all.pt")
    (run,) = store.runs()
    assert (run.state, run.step, run.run.n_params) == ("finished", TOTAL - 1, 97)
    made = store.forecasts(run.key)
    assert [row["made_at"] for row in made] == list(range(EVERY - 1, TOTAL, EVERY))
    assert [row["mean"] for row in made[5:]] == [mean for mean, *_ in found["forecasts"].values()]


def test_an_event_is_marked_in_a_fabric_loop_as_in_a_plain_one() -> None:
    found = train(fabric(), accumulate=2, event_at=63)
    assert found["events"] == ((63, "other batches"),)
    assert found == train(None, accumulate=2, event_at=63)
    assert found["forecasts"][70] != train(fabric(), accumulate=2)["forecasts"][70]
    assert found["log"] == []


def test_a_loop_is_stopped_only_if_asked_to() -> None:
    advised = train(fabric(), policy=stop_from(60))
    assert len(advised["losses"]) == TOTAL
    stopped = train(fabric(), policy=stop_from(60), stop=True)
    assert len(stopped["losses"]) == 60
    assert stopped["log"] == advised["log"] == ["step 60: stop: scripted"]


# ---------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Seen]]:
    folder = tmp_path_factory.mktemp("fabric")
    run_script(SUPPORT / "fabric_processes.py", folder, limit=900)
    return folder, answers(folder)


def of(found: tuple[Path, list[Seen]], name: str) -> tuple[Seen, Seen]:
    first, other = (each[name] for each in found[1])
    return first, other


def test_losses_are_averaged_and_only_the_first_process_forecasts(found: Any) -> None:
    first, other = of(found, "whole")
    assert first["losses"] != other["losses"]
    means = [
        np.mean([first["losses"][str(step)], other["losses"][str(step)]]) for step in range(TOTAL)
    ]
    np.testing.assert_allclose(list(first["seen"].values()), means, rtol=1e-12)
    assert first["seen"] == other["seen"]
    assert list(map(int, first["forecasts"])) == list(range(EVERY, TOTAL + 1, EVERY))
    assert other["forecasts"] == {}
    assert (first["log"], other["log"]) == ([], [])
    assert (first["off"], other["off"]) == (False, False)
    store = RunStore(found[0] / "runs.db")
    (run,) = store.runs()
    assert (run.state, run.step) == ("finished", TOTAL - 1)
    kept = [row["mean"] for row in store.forecasts(run.key)]
    assert kept == [mean for mean, *_ in first["forecasts"].values()]


def test_two_processes_train_as_without_a_monitor(found: Any) -> None:
    (first, other), (bare, _) = of(found, "whole"), of(found, "bare")
    assert first["weights"] == other["weights"] == bare["weights"]


def test_both_processes_stop_after_the_same_step(found: Any) -> None:
    first, other = of(found, "stopped")
    assert len(first["losses"]) == len(other["losses"])
    assert 60 <= len(first["losses"]) < TOTAL
    assert first["weights"] == other["weights"]
    assert (first["log"], other["log"]) == (["step 60: stop: scripted"], [])


def test_two_processes_resume_with_fabric(found: Any) -> None:
    for name, saved_at in (("", 60), (" inside", 67)):
        whole, _ = of(found, f"saved{name}")
        resumed, other = of(found, f"resumed{name}")
        assert resumed["weights"] == whole["weights"]
        assert resumed["seen"] == other["seen"]
        assert list(map(int, resumed["forecasts"])) == list(range(70, TOTAL + 1, EVERY))
        differing = {
            int(step) for step, loss in whole["seen"].items() if loss != resumed["seen"][step]
        }
        # Fabric saves the state of process 0, which does not know the others' latest losses
        assert differing <= set(range(saved_at // EVERY * EVERY, saved_at))
        if saved_at % EVERY == 0:
            assert resumed["forecasts"].items() <= whole["forecasts"].items()
