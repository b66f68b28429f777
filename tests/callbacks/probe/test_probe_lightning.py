"""The annealing probe under a real Lightning Trainer."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lossforecast.callbacks import AnnealingProbe, LightningLossForecast
from lossforecast.errors import ConfigurationError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint:UserWarning"),
    pytest.mark.filterwarnings("ignore:(.|\\n)*callbacks used to create the:UserWarning"),
]

STEPS = 320


class Module(pl.LightningModule):
    """Logs, counts and collects in its training step, as people do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )
        self.seen: list[Tensor] = []

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        self.seen.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader() -> torch.utils.data.DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS * 8, 6, generator=generator)
    y = x.sum(1, keepdim=True) + torch.randn(STEPS * 8, 1, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def fit(
    folder: Path,
    callback: LightningLossForecast | None,
    *,
    steps: int = STEPS,
    **options: Any,
) -> Module:
    torch.manual_seed(0)
    module = Module()
    callbacks: list[Any] = [callback] if callback else []
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=callbacks,
        logger=CSVLogger(folder, version="x"),
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        **options,
    )
    trainer.fit(module, loader())
    return module


def probing(**options: Any) -> LightningLossForecast:
    probe = AnnealingProbe(lambda module, batch: module.loss(batch), cost=0.1)
    return LightningLossForecast(probe=probe, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"accumulate_grad_batches": 2}, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16-mixed"}, marks=pytest.mark.slow),
    ],
)
def test_training_and_what_it_logs_are_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    steps = STEPS // options.get("accumulate_grad_batches", 1)
    bare = fit(tmp_path / "bare", None, steps=steps, **options)
    callback = probing()
    watched = fit(tmp_path / "watched", callback, steps=steps, **options)
    for one, other in zip(bare.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.stack(bare.seen), torch.stack(watched.seen))
    assert callback.forecaster is not None
    assert callback.settings.probe is not None
    assert not callback.settings.probe.switched_off
    assert len(callback.forecaster._gaps) >= 2
    rows = [
        [line.split(",") for line in path.read_text().splitlines()]
        for path in (
            tmp_path / name / "lightning_logs/x/metrics.csv" for name in ("bare", "watched")
        )
    ]
    logged = [
        [row[table[0].index("train_loss")] for row in table if row[table[0].index("train_loss")]]
        for table in rows
    ]
    assert logged[0] == logged[1]


@pytest.mark.slow
def test_a_checkpoint_has_the_averages_and_a_resumed_run_measures_the_same(tmp_path: Path) -> None:
    def run(callback: LightningLossForecast, cut: int | None) -> None:
        torch.manual_seed(0)
        whole, saver = Module(), Save(cut, tmp_path / "cut.ckpt")
        resume = None if cut is not None or not (tmp_path / "cut.ckpt").exists() else True
        pl.Trainer(
            max_steps=STEPS,
            callbacks=[callback, saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            accelerator="cpu",
        ).fit(
            whole,
            loader(),
            ckpt_path=tmp_path / "cut.ckpt" if resume else None,
            weights_only=False if resume else None,
        )

    first, second = probing(), probing()
    run(first, STEPS // 2)
    run(second, None)
    assert first.forecaster is not None
    assert second.forecaster is not None
    early, late = first.forecaster._gaps, second.forecaster._gaps
    assert [gap[:1] + gap[3:] for gap in early] == [gap[:1] + gap[3:] for gap in late]
    assert first.settings.probe is not None
    # those of looks before the checkpoint alone: after it, chance differs
    cut = [gap for gap in early if gap.step + 2 * first.settings.probe.every < STEPS // 2]
    assert late[: len(cut)] == cut != []


class Save(pl.Callback):
    """Saves a checkpoint in the middle of the run."""

    def __init__(self, step: int | None, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_loss_of_its_own_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="the probe needs the loss of a batch"):
        LightningLossForecast(probe=AnnealingProbe())
