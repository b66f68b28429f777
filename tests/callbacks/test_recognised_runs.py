"""Facts recognised about a run reach its forecaster, its log, its store and its checkpoints."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric import Fabric
from support.hf_models import gpt2_config
from support.lightning_runs import IGNORED_WARNINGS, loader, trainer_of
from support.logs import warnings_in
from support.models import LanguageModel, optimizer_of
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from lossforecast import LRSchedule, RunInfo, RunStore, StateError
from lossforecast.callbacks import (
    LightningLossForecast,
    TorchLossForecast,
    TransformersLossForecast,
)
from lossforecast.callbacks.pipeline.describe import kind_message
from lossforecast.callbacks.pipeline.recognition import Recognition
from lossforecast.runs import RunKind

pytestmark = IGNORED_WARNINGS
STEPS = 40
LM = "language modelling"
LARGE = RunKind.LARGE_LANGUAGE_MODEL


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about the kind of the run."""
    found = warnings_in(caplog, logging.INFO)
    return [line for line in found if line.startswith("kind of run")]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "lossforecast")
    return caplog


def model_13m() -> LanguageModel:
    return LanguageModel(20_000, layers=4, width=256, hidden=1_024)


def size_of(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def loss_at(step: int) -> float:
    return 2 + 3 / math.sqrt(step + 5)


def plain(optimizer: Any, *, state: Any = None, until: int = STEPS, **options: Any) -> Any:
    """A plain loop with scripted losses and no gradients."""
    monitor = TorchLossForecast(optimizer, None, STEPS, every_n_steps=4, **options)
    if state is not None:
        monitor.load_state_dict(state)
    for step in range(monitor.steps, until):
        monitor.step(loss_at(step))
        optimizer.step()
    if until == STEPS:
        monitor.close()
    return monitor


# ---------------------------------------------------------------------- each host


def test_a_plain_loop(log: pytest.LogCaptureFixture) -> None:
    model = model_13m()
    monitor = plain(optimizer_of(model))
    for metric in ("train", "val"):
        run = monitor.forecaster_of(metric).run
        assert (run.task, run.n_params, run.kind) == (LM, size_of(model), LARGE)
        assert (run.project, run.model) == (None, None)
    assert lines(log) == [
        "kind of run: large language model (13.4M parameters, AdamW), recognised by its "
        "vocabulary of 20,000 rows; RunInfo(task=...) changes that"
    ]


def test_a_fabric_loop(log: pytest.LogCaptureFixture) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model = LanguageModel(layers=6)
    model, optimizer = fabric.setup(model, optimizer_of(model))
    monitor = TorchLossForecast(optimizer, total_steps=STEPS, every_n_steps=4)
    tokens = torch.arange(32).reshape(2, 16)
    for _ in range(4):
        loss = model(tokens)
        monitor.step(loss)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    monitor.close()
    run = monitor.forecaster.run
    assert (run.task, run.n_params, run.kind) == (LM, size_of(model), RunKind.SMALL_MODEL)
    assert lines(log) == ["kind of run: small model (87,904 parameters, AdamW)"]


class Module(pl.LightningModule):
    """Trains a model that it holds, without a gradient, by a scripted loss."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        weight = next(self.model.parameters())
        return loss_at(self.global_step) + 0 * weight[0, 0]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", loss_at(self.global_step))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def gpt2_14m() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(gpt2_config(50_304, width=256))


def test_a_lightning_module_with_a_hugging_face_model(log: pytest.LogCaptureFixture) -> None:
    model = gpt2_14m()
    train, val = LightningLossForecast(), LightningLossForecast("val_loss")
    trainer = trainer_of(train, val, max_steps=2, val_check_interval=2)
    trainer.fit(Module(model), loader(STEPS), loader(1))
    for callback in (train, val):
        assert callback.forecaster is not None
        run = callback.forecaster.run
        assert (run.task, run.n_params, run.kind) == (LM, size_of(model), LARGE)
    assert set(lines(log)) == {
        "kind of run: large language model (13.7M parameters, SGD), recognised by its class "
        "GPT2LMHeadModel; RunInfo(task=...) changes that"
    }


def test_a_lightning_module_of_another_kind(log: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast()
    model = torch.nn.Linear(4_000, 3_000)
    trainer_of(callback, max_steps=2).fit(Module(model), loader(STEPS), loader(1))
    assert callback.forecaster is not None
    run = callback.forecaster.run
    assert (run.task, run.n_params, run.kind) == (None, size_of(model), RunKind.OTHER)
    assert lines(log) == [
        "kind of run: other (12M parameters, SGD), task unknown; RunInfo(task=...) names it"
    ]


def train_with_transformers(
    folder: Path,
    model: Any,
    callback: TransformersLossForecast,
    *,
    steps: int = 2,
    save_steps: int = 0,
    resume: bool = False,
) -> RunInfo:
    tokens = torch.arange(16)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or steps,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    data: Any = [{"input_ids": tokens, "labels": tokens}] * 8
    Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train(
        resume_from_checkpoint=resume
    )
    assert callback.forecaster is not None
    return callback.forecaster.run


def test_the_hugging_face_trainer(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    model = gpt2_14m()
    run = train_with_transformers(tmp_path, model, TransformersLossForecast(every_n_steps=1))
    assert (run.task, run.n_params, run.kind) == (LM, size_of(model), LARGE)
    assert lines(log) == [
        "kind of run: large language model (13.7M parameters, AdamW), recognised by its "
        "class GPT2LMHeadModel; RunInfo(task=...) changes that"
    ]


def test_a_model_loaded_from_a_checkpoint_is_fine_tuned(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    gpt2_14m().save_pretrained(tmp_path / "gpt2")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2")
    run = train_with_transformers(tmp_path, model, TransformersLossForecast(every_n_steps=1))
    assert (run.task, run.kind) == ("fine-tuning a language model", RunKind.OTHER)
    (line,) = lines(log)
    assert "other (13.7M parameters, AdamW), task 'fine-tuning a language model', because" in line
    assert "GPT2LMHeadModel was loaded from '" in line


# ---------------------------------------------------------------------- what the user gives


def test_what_the_user_gives_wins(log: pytest.LogCaptureFixture) -> None:
    given = RunInfo(task="music", n_params=2e9, optimizer="muon")
    run = plain(optimizer_of(LanguageModel()), run=given).forecaster.run
    assert (run.task, run.n_params, run.optimizer) == ("music", 2e9, "muon")
    assert lines(log) == ["kind of run: other (2B parameters, muon), task 'music', as RunInfo says"]
    run = plain(optimizer_of(LanguageModel()), run=RunInfo(task="", n_params=0)).forecaster.run
    assert (run.task, run.n_params) == ("", 0)


@pytest.mark.parametrize(
    ("run", "given", "seen", "line"),
    [
        (
            {"task": LM, "n_params": 124_439_808},
            {"task": LM},
            {},
            "large language model (124M parameters, AdamW), as RunInfo says",
        ),
        (
            {"task": LM, "n_params": 999_600_000},
            {"task": LM},
            {},
            "large language model (1B parameters, AdamW), as RunInfo says",
        ),
        (
            {"task": LM},
            {"project": "mine"},
            {"task": LM, "reason": "recognised by its class"},
            "large language model (size unknown, AdamW), recognised by its class; "
            "RunInfo(task=...) changes that",
        ),
        (
            {"task": LM, "n_params": 6.7e9},
            None,
            {},
            "large language model (6.7B parameters, AdamW), as when the run began; "
            "RunInfo(task=...) changes that",
        ),
        ({"task": LM, "n_params": 3e5}, None, {}, "small model (300,000 parameters, AdamW)"),
        (
            {},
            None,
            {"reason": "X may have its weights from 'x'"},
            "other (size unknown, AdamW), task unknown, X may have its weights from 'x'; "
            "RunInfo(task=...) names it",
        ),
    ],
)
def test_the_line_of_the_log(
    run: dict[str, Any], given: dict[str, Any] | None, seen: dict[str, Any], line: str
) -> None:
    facts = RunInfo(optimizer="AdamW", **run)
    told = None if given is None else RunInfo(**given)
    assert kind_message(facts, told, Recognition(**seen)) == f"kind of run: {line}"


# ---------------------------------------------------------------------- checkpoints and stores


def test_a_resumed_run_stays_what_it_was_unless_the_user_says_otherwise(
    log: pytest.LogCaptureFixture,
) -> None:
    state = plain(optimizer_of(model_13m()), until=20).state_dict()
    log.clear()
    tied = LanguageModel(40_000, width=256, tied=True)  # it is not recognised
    run = plain(optimizer_of(tied), state=state).forecaster.run
    assert (run.task, run.n_params, run.kind) == (LM, size_of(model_13m()), LARGE)
    assert lines(log)[0].endswith("task unknown; RunInfo(task=...) names it")
    assert lines(log)[1:] == [
        "kind of run: large language model (13.4M parameters, AdamW), as when the run began; "
        "RunInfo(task=...) changes that"
    ]
    log.clear()
    given = RunInfo(task="music")
    monitor = plain(optimizer_of(model_13m()), state=state, run=given)
    for metric in ("train", "val"):
        assert monitor.forecaster_of(metric).run.task == "music"
    assert lines(log) == [
        "kind of run: other (13.4M parameters, AdamW), task 'music', as RunInfo says"
    ]


@pytest.mark.parametrize(
    "damaged", [{}, {"forecasters": []}, {"forecasters": {"train": 3}}, [], None], ids=repr
)
def test_a_damaged_state_is_refused_also_with_new_facts(damaged: Any) -> None:
    monitor = plain(optimizer_of(LanguageModel()), until=20, run=RunInfo(task="music"))
    with pytest.raises(StateError):
        monitor.load_state_dict(damaged)
    assert monitor.steps == 20


def test_a_trainer_resumed_with_loaded_weights_goes_on_as_it_began(tmp_path: Path) -> None:
    def callback() -> TransformersLossForecast:
        return TransformersLossForecast(every_n_steps=1, store=tmp_path / "runs.db")

    fresh = GPT2LMHeadModel(gpt2_config())
    train_with_transformers(tmp_path, fresh, callback(), steps=8, save_steps=8)
    store = RunStore(tmp_path / "runs.db")
    (before,) = store.runs()
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-8")
    run = train_with_transformers(tmp_path, loaded, callback(), steps=12, resume=True)
    assert (run.task, run.n_params) == (LM, size_of(loaded))
    assert {each.run.task for each in store.runs()} == {LM}
    assert before.run in [each.run for each in store.runs()]


def test_runs_of_one_script_are_alike_and_like_those_stored_before(tmp_path: Path) -> None:
    def train(**options: Any) -> TorchLossForecast:
        monitor: TorchLossForecast = plain(
            optimizer_of(model_13m()), store=tmp_path / "runs.db", **options
        )
        return monitor

    store, about = RunStore(tmp_path / "runs.db"), RunInfo(optimizer="AdamW", project="one")
    steps = range(STEPS)
    plan = LRSchedule.constant(STEPS, 1e-3)
    old = store.add("old", about, plan, steps, [loss_at(step) + 0.01 for step in steps])
    given = RunInfo(project="one")
    train(run=given)
    new, _ = store.runs()
    assert (new.run.task, new.run.n_params) == (LM, size_of(model_13m()))
    third = train(run=given)
    assert {past.name for past in third.forecaster.prior.past} == {old, new.key}
