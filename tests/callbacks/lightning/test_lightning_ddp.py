"""`LightningLossForecast` in two processes under DDP."""

import os
from typing import Any

import pytest
from support.lightning_runs import IGNORED_WARNINGS
from support.processes import answers, run_script

pytestmark = IGNORED_WARNINGS
REPEATS = 20 if os.environ.get("LOSSFORECAST_FULL") else 1


RANKS = '''
import json, sys, warnings
import lightning.pytorch as pl, torch
from support.pacing import LONELY, PATIENT, keep_pace
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.distributed import Team
from lossforecast.policies import Action, Reason, Recommendation

warnings.simplefilter("ignore")
folder, repeats = sys.argv[1], int(sys.argv[2])

class Module(pl.LightningModule):
    def __init__(self, nan_from=1000):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_from = nan_from

    def training_step(self, batch, batch_idx):
        keep_pace(self.global_step, lead=4)
        loss = 2 + (self.global_step + 1) ** -0.5 + 0.0 * self.layer(torch.ones(1)).sum()
        loss = loss + 0.1 * self.trainer.global_rank
        self.log("epoch_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        late = self.trainer.global_rank == 1 and self.global_step >= self.nan_from
        return loss * float("nan") if late else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class SaveAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{folder}/saved.ckpt")

def run(*callbacks, epochs=1, resume=False, timeouts=PATIENT, **options):
    Team.timeouts = timeouts
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks),
    )
    loader = torch.utils.data.DataLoader(range(100 if epochs == 1 else 4))
    path = f"{folder}/saved.ckpt" if resume else None
    trainer.fit(Module(**options), loader, ckpt_path=path)
    return trainer.global_step

def on_rank(rank, then):
    def policy(situation):
        late = situation.history.last_step >= 29  # nobody says anymore that too little is known
        if late and torch.distributed.get_rank() == rank:
            return then()
    return policy

def stop():
    return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: hopeless")

def fail():
    raise RuntimeError("only here")

class Unready(LightningLossForecast):
    """Cannot start on rank 1, where it finds no second optimizer."""

    def on_train_start(self, trainer, pl_module):
        self.optimizer_index = trainer.global_rank
        super().on_train_start(trainer, pl_module)

def watched(*policies, kind=LightningLossForecast, monitor=None, stop=True, every=5, sinks=()):
    return kind(monitor, every_n_steps=every, stop=stop, policy=policies or None, sinks=sinks)

def seen(updates):
    return {u.step: [u.forecast.mean, u.forecast.std, u.forecast.made_at] for u in updates}

def resumed():
    whole, later = [], []
    watcher = watched(sinks=[whole.append])
    run(watcher, SaveAt(23))
    losses = watcher.forecaster.history.bins().mean.tolist()
    run(watched(sinks=[later.append]), resume=True)
    return losses, watcher.forecaster.run.steps_per_epoch, seen(whole), seen(later)

found = {
    "without": run(),
    "advises": run(watched(on_rank(0, stop), stop=False)),
    "other wishes": run(watched(on_rank(1, stop))),
    "unready": run(watched(on_rank(0, stop), kind=Unready), timeouts=LONELY),
    "metric": run(
        watched(on_rank(0, stop), on_rank(1, fail), monitor="epoch_loss", every=2), epochs=25
    ),
}
for i in range(repeats):
    found[f"stops {i}"] = run(watched(on_rank(0, stop), on_rank(1, fail)))
    found[f"nan {i}"] = run(watched(), nan_from=20)
    found[f"resumed {i}"] = resumed()
with open(f"{folder}/{torch.distributed.get_rank()}.json", "w") as file:
    json.dump(found, file)
'''


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of both processes under DDP."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANKS)
    run_script(script, folder, REPEATS, limit=300 + 60 * REPEATS)
    return answers(folder)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["without", "advises", "other wishes", "unready"])
def test_nobody_stops_of_two_processes(ranks: list[dict[str, Any]], run: str) -> None:
    assert ranks[0][run] == ranks[1][run] == 50


@pytest.mark.parametrize(
    "run", ["metric", *(f"{name} {i}" for name in ("stops", "nan") for i in range(REPEATS))]
)
def test_two_processes_stop_together(ranks: list[dict[str, Any]], run: str) -> None:
    assert ranks[0][run] == ranks[1][run]
    assert 30 <= ranks[0][run] < 50


@pytest.mark.parametrize("turn", range(REPEATS))
def test_two_resumed_processes_repeat_their_forecasts(
    ranks: list[dict[str, Any]], turn: int
) -> None:
    losses, an_epoch, whole, later = ranks[0][f"resumed {turn}"]
    expected = [2.05 + (step + 1) ** -0.5 for step in range(50)]
    assert losses == pytest.approx(expected, rel=1e-6), "averaged over both"
    assert later == {step: each for step, each in whole.items() if int(step) > 23}
    assert list(map(int, later)) == [25, 30, 35, 40, 45, 50]
    assert an_epoch == 50
    _, *others = ranks[1][f"resumed {turn}"]
    assert others == [50, {}, {}]
