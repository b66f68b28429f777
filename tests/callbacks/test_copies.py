"""Callbacks can be pickled and copied before, during and after a run; a copy is in no run."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from support.lightning_runs import IGNORED_WARNINGS, trainer_of
from support.spawned import (
    Steered,
    batches,
    probe_loss,
    sink,
    train_lightning,
    train_torch,
)
from support.torch_runs import Bench, run
from torch.multiprocessing.spawn import spawn

from lossforecast import ConfigurationError, LRSchedule, Prior, RunInfo, RunStore
from lossforecast.callbacks import (
    AnnealingProbe,
    LightningLossForecast,
    SteerableLR,
    TorchLossForecast,
    TransformersLossForecast,
)
from lossforecast.callbacks.pipeline import LoopCallback

pytestmark = IGNORED_WARNINGS
Copy = Callable[[Any], Any]
COPIES: dict[str, Copy] = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def everything(folder: Path) -> dict[str, Any]:
    """Arguments that all three loops have."""
    return {
        "target": 0.5,
        "stop": True,
        "apply": True,
        "run": RunInfo(project="copies"),
        "prior": Prior(),
        "every_n_steps": 5,
        "probe": AnnealingProbe(probe_loss, horizons=[5]),
        "store": RunStore(folder / "runs.db"),
        "sinks": [sink],
    }


def assert_copy(one: LoopCallback, other: LoopCallback, kind: str) -> None:
    """The other has the settings of the one, and no run."""
    assert other is not one
    assert type(other) is type(one)
    for name in ("target", "stop", "apply", "run", "every_n_steps", "sinks", "monitor", "metric"):
        assert getattr(other.settings, name) == getattr(one.settings, name)
    assert len(other.settings.policies or ()) == len(one.settings.policies or ())
    assert other.settings.place is not None
    assert other.forecast is None
    assert other.recommendation is None
    if kind != "copy" and one.settings.probe is not None:
        assert other.settings.probe is not one.settings.probe


class CopyAt(pl.Callback):
    """Copies a callback in the middle of a run."""

    def __init__(self, watched: LightningLossForecast, make: Copy) -> None:
        self.watched, self.make, self.made = watched, make, list[Any]()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 25:
            self.made = [self.make(self.watched), trainer]


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_for_lightning_starts_a_run_of_its_own(kind: str, tmp_path: Path) -> None:
    make, callback = COPIES[kind], LightningLossForecast(**everything(tmp_path))
    before, during = make(callback), CopyAt(callback, make)
    bar = {"enable_progress_bar": True, "max_steps": 60}
    trainer_of(callback, during, **bar).fit(Steered(), batches())
    assert callback.forecast is not None
    mean = callback.forecast.mean
    for each in (before, during.made[0], make(callback)):
        assert_copy(callback, each, kind)
        trainer_of(each, **bar).fit(Steered(), batches())
        assert each.forecast is not None
        assert not each.switched_off
    assert callback.forecast.mean == mean


def test_a_trainer_can_be_copied_and_trains_on(tmp_path: Path) -> None:
    arguments = everything(tmp_path) | {"probe": None}
    callback = LightningLossForecast(**arguments)
    trainer = trainer_of(callback, max_steps=60)
    each: Any
    for each in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        each.fit(Steered(), batches())
        (ours,) = [c for c in each.callbacks if isinstance(c, LightningLossForecast)]
        assert ours is not callback
        assert ours.forecast is not None
    assert callback.forecast is None


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_for_a_plain_loop_is_in_no_run(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, bench = COPIES[kind], Bench()
    arguments = everything(tmp_path) | {"probe": None}
    scheduler = SteerableLR(bench.optimizer, 60)
    with TorchLossForecast(bench.optimizer, scheduler, 60, **arguments) as monitor:
        copies = [make(monitor)]
        run(bench, monitor, range(30), scheduler)
        copies.append(make(monitor))
    copies.append(make(monitor))
    assert monitor.forecast is not None
    for each in copies:
        caplog.clear()
        assert_copy(monitor, each, kind)
        with each:
            assert run(Bench(), each, range(10)) == 10
            each.validation(1.0)
        (record,) = caplog.records
        assert "this is a copy of a TorchLossForecast" in record.getMessage()
        with pytest.raises(ConfigurationError, match="create a TorchLossForecast"):
            each.state_dict()


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_for_hugging_face(kind: str, tmp_path: Path) -> None:
    callback = TransformersLossForecast(**everything(tmp_path))
    assert_copy(callback, COPIES[kind](callback), kind)


def test_the_schedule_and_the_default_policies_are_kept() -> None:
    plan = LRSchedule.cosine(100, 0.1)
    callback = TransformersLossForecast(schedule=plan, apply=True)
    other = pickle.loads(pickle.dumps(callback))
    assert other.settings.schedule == plan
    assert other.settings.policies is not None
    assert len(other.settings.policies) == 3


@pytest.mark.slow
def test_spawned_workers_train_with_what_they_get(tmp_path: Path) -> None:
    callback = LightningLossForecast(**everything(tmp_path))
    spawn(train_lightning, (callback, str(tmp_path)), nprocs=1)  # type: ignore[no-untyped-call]
    bench, arguments = Bench(), everything(tmp_path) | {"probe": None, "store": None}
    monitor = TorchLossForecast(bench.optimizer, SteerableLR(bench.optimizer, 60), 60, **arguments)
    spawn(train_torch, (monitor.settings, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    monitor.close()
    found = [float((tmp_path / name).read_text()) for name in ("lightning-0", "torch-0", "torch-1")]
    assert found[1] == found[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_lightning_spawns_its_processes_with_it(tmp_path: Path) -> None:
    callback = LightningLossForecast(**(everything(tmp_path) | {"stop": False}))
    options: dict[str, Any] = {"strategy": "ddp_spawn", "devices": 2, "max_steps": 20}
    trainer_of(callback, **options).fit(Steered(), batches())
    (stored,) = RunStore(tmp_path / "runs.db").runs()
    assert stored.state == "finished"
