"""`TransformersLossForecast` in runs that are resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.hf_processes import (
    TOTAL,
    Scripted,
    stop_from,
    tiny_gpt,
    train,
)
from support.hf_runs import EVALUATE, SAVE, ours
from support.logs import warnings_in

from lossforecast import RunInfo, RunStore
from lossforecast.callbacks import AnnealingProbe, TransformersLossForecast
from lossforecast.callbacks.monitor.update import Update


@pytest.mark.parametrize("restore", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "monitor", "options"),
    [
        pytest.param(Scripted, None, {}, marks=pytest.mark.slow),
        pytest.param(Scripted, "eval_loss", EVALUATE, marks=pytest.mark.slow),
        pytest.param(
            lambda: Scripted(micro_batches=3),
            None,
            {"gradient_accumulation_steps": 3},
            marks=pytest.mark.slow,
        ),
        (tiny_gpt, None, {"gradient_accumulation_steps": 3}),
        (tiny_gpt, "eval_loss", EVALUATE),
    ],
    ids=["train", "eval", "accumulated", "gpt accumulated", "gpt eval"],
)
def test_a_resumed_run_forecasts_recommends_and_is_stored_as_if_never_stopped(
    tmp_path: Path, model: Any, monitor: str | None, options: dict[str, Any], restore: bool
) -> None:
    def callback(name: str) -> TransformersLossForecast:
        about = RunInfo(project="resumed", task="a test")
        return TransformersLossForecast(
            monitor, target=2.25, every_n_steps=4, store=tmp_path / name, run=about
        )

    _, whole = train(tmp_path / "whole", [callback("whole.db")], model=model(), **options)
    again = {**options, **SAVE, "restore_callback_states_from_checkpoint": restore}
    with pytest.raises(ValueError, match="the user's own"):
        train(tmp_path / "run", [callback("run.db")], model=model(), fail_at=75, **again)
    _, resumed = train(tmp_path / "run", [callback("run.db")], model=model(), resume=True, **again)
    first = min(resumed.forecasts)
    assert 60 <= first <= 64
    assert len(resumed.forecasts) == 15
    assert resumed.forecasts == {at: each for at, each in whole.forecasts.items() if at >= first}

    stores = [RunStore(tmp_path / name) for name in ("whole.db", "run.db")]
    (alone,), (run,) = (store.runs() for store in stores)
    assert (run.state, run.step, run.run) == ("finished", alone.step, alone.run)
    assert run.run.task == "a test"
    kept, wanted = stores[1].forecasts(run.key), stores[0].forecasts(alone.key)
    assert kept == wanted
    made = {row["made_at"]: row["mean"] for row in kept}
    assert {at: each[0] for at, each in whole.forecasts.items()}.items() <= made.items()
    assert len(made) >= 30


def test_two_callbacks_in_one_run_are_both_resumed(tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> dict[str, dict[int, float]]:
        updates: dict[str, list[Update]] = {"loss": [], "eval_loss": []}
        callbacks = [
            TransformersLossForecast(monitor, every_n_steps=4, sinks=[updates[name].append])
            for monitor, name in ((None, "loss"), ("eval_loss", "eval_loss"))
        ]
        train(folder, callbacks, **EVALUATE, **options)
        return {
            name: {each.step: each.forecast.mean for each in found}
            for name, found in updates.items()
        }

    whole = run(tmp_path / "whole", **SAVE)
    checkpoint = str(tmp_path / "whole" / "checkpoint-60")
    for name, resumed in run(tmp_path / "resumed", resume=checkpoint).items():
        assert list(resumed) == list(range(64, TOTAL + 1, 4))
        assert resumed == {step: mean for step, mean in whole[name].items() if step > 60}


def test_a_subclass_is_resumed_and_callbacks_of_one_monitor_each_with_its_own(
    tmp_path: Path,
) -> None:
    class Ours(TransformersLossForecast):
        pass

    def run(folder: Path, **options: Any) -> list[dict[int, float]]:
        updates: list[list[Update]] = [[], [], []]
        laws = ("annealing", "power", "auto")
        kinds = (TransformersLossForecast, TransformersLossForecast, Ours)
        callbacks = [
            kind(laws=law, every_n_steps=4, sinks=[found.append])
            for kind, law, found in zip(kinds, laws, updates, strict=True)
        ]
        train(folder, callbacks, **options)
        return [{each.step: each.forecast.mean for each in found} for found in updates]

    whole = run(tmp_path / "whole", **SAVE)
    resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-60"))
    for before, after in zip(whole, resumed, strict=True):
        assert list(after) == list(range(64, TOTAL + 1, 4))
        assert after == {step: mean for step, mean in before.items() if step > 60}
    assert whole[0] != whole[1]


def test_what_the_trainer_made_anew_says_what_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback() -> TransformersLossForecast:
        policy, probe = stop_from(200), AnnealingProbe(cost=0.1)
        return TransformersLossForecast(policy=policy, probe=probe, sinks=[print], every_n_steps=20)

    whole = callback()
    train(tmp_path, [whole], **SAVE)
    assert not whole.switched_off
    resume: dict[str, Any] = {"resume": str(tmp_path / "checkpoint-60")}
    for restore, said in (
        (False, []),
        (True, ["without its policy and probe and sinks: leave that option out"]),
    ):
        caplog.clear()
        options = {"restore_callback_states_from_checkpoint": restore, **resume}
        trainer, _ = train(tmp_path, [callback()], **options)
        assert [each.switched_off for each in ours(trainer)] == [False]
        lines = warnings_in(caplog)
        assert len(lines) == len(said)
        assert all(part in line for part, line in zip(said, lines, strict=True))


def test_a_checkpoint_tells_where_the_store_is_but_no_password(tmp_path: Path) -> None:
    secret = "postgresql+psycopg://me:secret@127.0.0.1:1/runs"
    for given, kept in (
        (tmp_path / "runs.db", str(tmp_path / "runs.db")),
        (RunStore(tmp_path / "runs.db"), f"sqlite:///{tmp_path}/runs.db"),
        (secret, None),
        (secret.replace("me:secret@", ""), secret.replace("me:secret@", "")),
        (None, None),
    ):
        state = TransformersLossForecast(store=given).state()
        assert state["args"]["store"] == kept
        assert "secret" not in json.dumps(state)
        assert state["attributes"]["_missing"] == (["store"] if given == secret else [])


def test_averages_of_another_run_or_none_are_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback() -> TransformersLossForecast:
        return TransformersLossForecast(probe=AnnealingProbe(cost=0.1), every_n_steps=20)

    def resumed(folder: str) -> list[str]:
        caplog.clear()
        checkpoint = str(tmp_path / "run" / "checkpoint-60")
        train(tmp_path / folder, [callback()], resume=checkpoint)
        return warnings_in(caplog)

    for name in ("run", "other"):
        train(tmp_path / name, [callback()], **SAVE)
    assert resumed("run") == []
    (line,) = resumed("other")
    assert "other/checkpoint-60/lossforecast_probe.pt belongs to another run" in line
    (line,) = resumed("elsewhere")
    assert "elsewhere/checkpoint-60/lossforecast_probe.pt is missing" in line


def test_a_probe_without_labels_says_what_it_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TransformersLossForecast(every_n_steps=12, probe=AnnealingProbe(cost=0.1))
    train(tmp_path, [callback], model=tiny_gpt(), label_smoothing_factor=0.1)
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.exc_info is not None
    assert "give AnnealingProbe(loss, batches=[...])" in str(record.exc_info[1])
    assert not callback.switched_off
