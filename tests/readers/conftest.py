"""Logs that several tests of the readers read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback


@pytest.fixture(scope="session")
def trainer_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A checkpoint of the Hugging Face Trainer, and what it logged."""
    folder = tmp_path_factory.mktemp("huggingface")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    row = {"input_ids": torch.arange(16), "labels": torch.arange(16)}
    events: Any = TensorBoardCallback(SummaryWriter(str(folder / "tb")))  # type: ignore
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=60,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            logging_steps=3,
            save_steps=30,
            eval_strategy="steps",
            eval_steps=10,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[row] * 64,
        eval_dataset=[row] * 2,
        callbacks=[events],
    )
    trainer.train()
    return folder, trainer.state.log_history
