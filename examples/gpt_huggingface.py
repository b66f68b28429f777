"""The Hugging Face Trainer with a forecast: a small GPT-2 on the bytes of Python's own sources.

python examples/gpt_huggingface.py                 # about a minute on two CPU cores
python examples/gpt_huggingface.py --steps 200     # a quick look
"""

import argparse
from pathlib import Path

import torch
from gpt import standard_library
from narrator import Narrator, report
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from lossforecast.callbacks import TransformersLossForecast

LENGTH = 64  # bytes of a window


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The text cut into windows, as the Trainer expects it; the model shifts the labels itself."""

    def __init__(self, text: torch.Tensor) -> None:
        self.rows = text[: len(text) // LENGTH * LENGTH].view(-1, LENGTH)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index].long()
        return {"input_ids": row, "labels": row}


def main() -> None:
    """Train, print forecasts on the way, and compare them with the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
    parser.add_argument("--out", type=Path, default=Path("runs/huggingface"))
    args = parser.parse_args()

    set_seed(0)
    text = standard_library()
    held_out = len(text) // 20
    config = GPT2Config(
        vocab_size=256,
        n_positions=LENGTH,
        n_embd=96,
        n_layer=2,
        n_head=3,
        activation_function="gelu_pytorch_tanh",  # faster than the default, with the same values
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    narrator = Narrator(args.steps)
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=str(args.out),
            max_steps=args.steps,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            learning_rate=3e-3,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            warmup_steps=max(args.steps // 20, 1),
            eval_strategy="steps",
            eval_steps=max(args.steps // 50, 1),
            logging_steps=max(args.steps // 100, 1),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=Windows(text[held_out:]),
        eval_dataset=Windows(text[: 128 * LENGTH]),
        callbacks=[TransformersLossForecast("eval_loss", sinks=[narrator])],
    )
    trainer.remove_callback(PrinterCallback)  # leave the screen to the forecasts
    trainer.train()

    report(narrator, trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main()
