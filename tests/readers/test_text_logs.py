"""Text logs: any lines with a counter, a loss and perhaps a learning rate."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.log_files import loss_at, seen

from lossforecast import ConfigurationError
from lossforecast.readers import read_log
from lossforecast.readers.phrases import phrases

N = 40  # lines of a loss
EVERY = 10  # steps between them


def rate_at(step: int) -> float:
    return round(0.1 * (1 - step / 500), 6)


def step_of(row: int) -> int:
    return EVERY * (row + 1)


def lines_of(line: Callable[[int, float, float], str]) -> list[str]:
    return [line(t, loss_at(t), rate_at(t)) for t in map(step_of, range(N))]


# ------------------------------------------------- a line of each kind, with the step it is at

KINDS: dict[str, tuple[str, str, Callable[[int, float, float], str]]] = {
    "colons": ("loss", "lr", lambda t, y, r: f"step:{t} loss:{y} lr:{r}"),
    "equals signs": ("loss", "lr", lambda t, y, r: f"step={t}, loss={y}, lr={r}"),
    "nanoGPT": ("loss", "", lambda t, y, r: f"iter {t}: loss {y}, time 20.10ms, mfu 18.30%"),
    "torchtune": (
        "loss",
        "lr",
        lambda t, y, r: f"Step {t} | loss:{y} lr:{r} tokens_per_second_per_gpu:3000.1",
    ),
    "Megatron-LM": (
        "lm_loss",
        "learning_rate",
        lambda t, y, r: (
            f" [2026-01-02 10:11:12] iteration {t:8d}/     400 | consumed samples:        25600 | "
            f"elapsed time per iteration (ms): 520.1 | learning rate: {r:.6E} | global batch size: "
            f"  256 | lm loss: {y:.6E} | loss scale: 1.0 | grad norm: 1.215 | number of skipped "
            "iterations:   0 | number of nan iterations:   0 |"
        ),
    ),
    "logging": (
        "loss",
        "lr",
        lambda t, y, r: f"2026-01-02 10:11:12,345 - trainer - INFO - step {t} - loss {y} - lr {r}",
    ),
    "logging, by default": ("loss", "lr", lambda t, y, r: f"INFO:root:step {t}: loss {y} lr {r}"),
    "loguru": (
        "loss",
        "",
        lambda t, y, r: (
            f"2026-01-02 10:11:12.345 | INFO     | __main__:train:42 - Step {t}: training loss "
            f"is {y}"
        ).replace("training loss is", "loss ="),
    ),
    "sentences": ("loss", "", lambda t, y, r: f"Training loss at step {t}: {y}"),
    "colours": ("loss", "", lambda t, y, r: f"\x1b[32mstep {t}\x1b[0m loss: \x1b[1m{y}\x1b[0m"),
    "tqdm": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"\r{t // 4}%|##        | {t}/400 [00:10<01:20,  4.90it/s, loss={y}, lr={r}]\n"
        ),
    ),
    "printed dicts": ("loss", "lr", lambda t, y, r: str({"step": t, "loss": y, "lr": r})),
    "thousands": ("loss", "", lambda t, y, r: f"step {1000 * t:,}: loss {y}"),
    "mmengine, by iterations": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"2026/01/02 10:11:12 - mmengine - INFO - Iter(train) [{t:6d}/400]  lr: {r}  eta: "
            f"1:02:03  time: 0.5  data_time: 0.1  memory: 1234  loss: {y}  decode.loss_ce: 0.5"
        ),
    ),
    "DeepSpeed": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"[2026-01-02 10:11:12,345] [INFO] [logging.py:96:log_dist] [Rank 0] step={t}, "
            f"skipped=0, lr=[{r}, {r}], mom=[(0.9, 0.95)]\nsteps: {t} loss: {y} iter time (s): 0.5"
        ),
    ),
    "OLMo": (
        "train/cross_entropy_loss",
        "optim/learning_rate_group0",
        lambda t, y, r: (
            f"2026-01-02 10:11:12.345 host:0 olmo.train:920 INFO [step={t}/400,epoch=0]\n"
            f"    train/CrossEntropyLoss={y}\n    train/Perplexity=12.1\n"
            f"    optim/learning_rate_group0={r}\n    throughput/total_tokens=123"
        ),
    ),
    "litgpt": (
        "loss",
        "",
        lambda t, y, r: (
            f"Epoch 1 | iter {4 * t} step {t} | loss train: {y}, val: n/a | iter time: 20.10 ms"
        ),
    ),
    "torchtitan": (
        "loss",
        "",
        lambda t, y, r: (
            f"[rank0]:[titan] 2026-01-02 10:11:12,345 - root - INFO - \x1b[31mstep: {t}  "
            f"\x1b[32mloss:  {y}  \x1b[33mmemory: 40.5GiB(50.1%)  tps: 1,200  mfu: 35.1%\x1b[39m"
        ),
    ),
    "modded-nanoGPT": (
        "train_loss",
        "",
        lambda t, y, r: f"step:{t}/400 train_loss:{y} train_time:1234ms step_avg:120.90ms",
    ),
    "llm.c": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"step {t:4d}/400 | loss {y} (+1.20z)| norm 0.5 (+0.1z)| lr {r} | 200.1 ms | "
            "50.1% bf16 MFU | 100000 tok/s"
        ),
    ),
    "detectron2": (
        "total_loss",
        "lr",
        lambda t, y, r: (
            f"[01/02 10:11:12 d2.utils.events]:  eta: 0:10:00  iter: {t}  total_loss: {y}  "
            f"loss_cls: 0.5  time: 0.1  last_time: 0.1  lr: {r}  max_mem: 100M"
        ),
    ),
    "Caffe": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"I0102 10:11:12.3456 12 solver.cpp:228] Iteration {t}, loss = {y}\n"
            f"I0102 10:11:12.3456 12 sgd_solver.cpp:106] Iteration {t}, lr = {r}"
        ),
    ),
    "XGBoost": ("train-logloss", "", lambda t, y, r: f"[{t}]\ttrain-logloss:{y}\teval-logloss:3.1"),
    "LightGBM": (
        "training_binary_logloss",
        "",
        lambda t, y, r: f"[{t}]\ttraining's binary_logloss: {y}\tvalid_1's binary_logloss: 3.1",
    ),
    "CLU": (
        "loss",
        "learning_rate",
        lambda t, y, r: (
            f"I0102 10:11:12.345678 140 logging_writer.py:48] [{t}] learning_rate={r}, loss={y}"
        ),
    ),
    "Composer": (
        "loss/train/total",
        "train_lr-decoupled_adam_w/group0",
        lambda t, y, r: (
            f"[batch={t}/400]:\n\t Train time/batch: {t - 1}\n\t Train loss/train/total: {y}\n"
            f"\t Train lr-DecoupledAdamW/group0: {r}"
        ),
    ),
    "Marian": (
        "cost",
        "l.r",
        lambda t, y, r: (
            f"[2026-01-02 10:11:12] Ep. 1 : Up. {t} : Sen. {t * 100:,} : Cost {y} * 2,000 @ 40 : "
            f"Time 30.11s : 9000.10 words/s : gNorm 1.2 : L.r. {r}"
        ),
    ),
    "MaxText": (
        "loss",
        "",
        lambda t, y, r: (
            f"completed step: {t}, seconds: 2.101, TFLOP/s/device: 100.1, total_weights: 65536, "
            f"loss: {y}"
        ),
    ),
    "tqdm without a length": (
        "loss",
        "",
        lambda t, y, r: f"\rTraining: {t}it [00:10,  9.8it/s, loss={y}]\n",
    ),
    "TensorFlow's object detection": (
        "loss/total_loss",
        "learning_rate",
        lambda t, y, r: (
            f"INFO:tensorflow:Step {t} per-step time 0.512s\nINFO:tensorflow:"
            f"{{'Loss/classification_loss': 0.3,\n 'Loss/total_loss': {y},\n 'learning_rate': {r}}}"
        ),
    ),
    "tensors": (
        "loss",
        "",
        lambda t, y, r: f"step {t} loss: tensor({y}, device='cuda:0', grad_fn=<NllLossBackward0>)",
    ),
    "fairseq": (
        "loss",
        "lr",
        lambda t, y, r: (
            f"2026-01-02 10:11:12 | INFO | train_inner | epoch 001:    {t} / 400 loss={y}, "
            f"nll_loss=9.1, ppl=500.1, wps=12345, ups=3.2, wpb=3800, bsz=128, num_updates={t}, "
            f"lr={r}, gnorm=2.1, clip=0, train_wall=30, wall=60"
        ),
    ),
    "fairseq, as JSON": (
        "loss",
        "lr",
        lambda t, y, r: (
            f'2026-01-02 10:11:12 | INFO | train_inner | {{"epoch": 1, "update": {t / 400}, '
            f'"loss": "{y}", "ppl": "500.1", "num_updates": "{t}", "lr": "{r}"}}'
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_for_each_loss(tmp_path: Path, kind: str) -> None:
    column, rate, line = KINDS[kind]
    path = tmp_path / "train.log"
    lines = ["loading 12 files, please wait", "model: 124.4M parameters", *lines_of(line), "done"]
    path.write_text("\n".join(lines) + "\n")
    log = read_log(path)
    assert (log.format, log.metric) == ("text log", "train")
    assert column in log.column
    assert log.rate_column == (rate or None)
    bins = log.history.bins()
    scale = 1000 if kind == "thousands" else 1
    steps = np.array([scale * step_of(row) for row in range(N)])
    assert set((steps - bins.last).tolist()) in ({0}, {1}), "numbered from 1 if the length tells"
    np.testing.assert_allclose(bins.mean, [loss_at(step_of(row)) for row in range(N)], rtol=1e-5)
    assert log.total_steps in (400, 500, None), "500: where the rates reach 0"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def epochs_of(
    line: Callable[[int, int, float], str], end: Callable[[int, float], str]
) -> list[str]:
    """Three epochs of 100 steps, a line for every tenth of them and one at the end."""
    lines = []
    for epoch in range(1, 4):
        steps = range(10, 101, 10)
        lines += [line(epoch, t, loss_at(100 * (epoch - 1) + t)) for t in steps]
        lines += [end(epoch, loss_at(100 * epoch) + 0.1)]
    return lines


EPOCHS: dict[str, tuple[Callable[[int, int, float], str], Callable[[int, float], str]]] = {
    "tutorials": (
        lambda e, t, y: f"Epoch [{e}/3], Step [{t}/100], Loss: {y}, Perplexity: 3.1",
        lambda e, y: f"Epoch {e}: validation loss {y}",
    ),
    "PyTorch's MNIST example": (
        lambda e, t, y: f"Train Epoch: {e} [{t}/100 ({t}%)]\tLoss: {y}",
        lambda e, y: f"\nTest set: Average loss: {y}, Accuracy: 98/100 (98%)\n",
    ),
    "PyTorch's ImageNet example": (
        lambda e, t, y: (
            f"Epoch: [{e}][{t:4d}/100]\tTime  0.600 ( 1.200)\tLoss {y} (6.9e+00)\t"
            "Acc@1   0.00 (  0.10)"
        ),
        lambda e, y: f"Validation: loss {y} Acc@1 70.1 Acc@5 89.2",
    ),
    "mmdetection": (
        lambda e, t, y: f"2026-01-02 10:11:12,345 - mmdet - INFO - Epoch [{e}][{t}/100]\tloss: {y}",
        lambda e, y: f"2026-01-02 10:11:12,345 - mmdet - INFO - Epoch(val) [{e}][50]\tloss: {y}",
    ),
    "timm": (
        lambda e, t, y: (
            f"Train: {e} [{t:4d}/100 ({t:3d}%)]  Loss: {y} (6.9)  Time: 1.2s,  100.1/s  LR: 1.0e-06"
        ),
        lambda e, y: f"Test: [  50/50]  Time: 0.1 (0.1)  Loss:  {y} (3.1)  Acc@1: 70.1 (70.1)",
    ),
    "Swin": (
        lambda e, t, y: (
            f"[2026-01-02 10:11:12 swin](main.py 221): INFO Train: [{e}/3][{t}/100]\teta 0:10:00 "
            f"lr 0.001\t time 0.3 (0.3)\tloss {y} (6.9)\tgrad_norm 1.2 (1.3)"
        ),
        lambda e, y: f"[2026-01-02 10:11:12 swin](main.py 301): INFO Test: [50/50]\tLoss {y} (3.1)",
    ),
    "DETR": (
        lambda e, t, y: f"Epoch: [{e}]  [{t:3d}/100]  eta: 0:10:00  lr: 0.0001  loss: {y} (6.95)",
        lambda e, y: f"Test:  [ 50/ 50]  eta: 0:00:00  loss: {y} (3.1)  time: 0.1",
    ),
    "PaddleClas": (
        lambda e, t, y: (
            f"[2026/01/02 10:11:12] ppcls INFO: [Train][Epoch {e}/3][Iter: {t}/100]lr: 0.1, "
            f"loss: {y}"
        ),
        lambda e, y: f"[2026/01/02 10:11:12] ppcls INFO: [Eval][Epoch {e}][Avg]loss: {y}",
    ),
    "mmengine": (
        lambda e, t, y: (
            f"01/02 10:11:12 - mmengine - INFO - Epoch(train) [{e}][{t:3d}/100]  eta: 0:00:10  "
            f"loss: {y}  loss_cls: 0.5"
        ),
        lambda e, y: f"01/02 10:11:12 - mmengine - INFO - Epoch(val) [{e}][50/50]    val_loss: {y}",
    ),
    "tqdm for each epoch": (
        lambda e, t, y: f"\rEpoch {e}:  {t}%|###   | {t}/100 [00:01<00:09,  9.8it/s, loss={y}]",
        lambda e, y: f"\nEpoch {e} done, val_loss = {y}",
    ),
    "PyTorch's CIFAR tutorial": (
        lambda e, t, y: f"[{e}, {t:5d}] loss: {y}",
        lambda e, y: f"validation loss: {y}",
    ),
    "PyTorch's DCGAN example": (
        lambda e, t, y: f"[{e}/3][{t}/100]\tLoss: {y}\tD(x): 0.5 D(G(z)): 0.4 / 0.3",
        lambda e, y: f"validation loss: {y}",
    ),
    "Flair": (
        lambda e, t, y: f"2026-01-02 10:11:12,345 epoch {e} - iter {t}/100 - loss {y} - lr: 0.1",
        lambda e, y: f"EPOCH {e} done: loss 9.9 - lr: 0.1\n10:11:12,345 DEV : loss {y}",
    ),
    "Keras": (
        lambda e, t, y: (
            (f"Epoch {e}/3\n" if t == 10 else "")
            + f"{t:3d}/100 [=====>....] - ETA: 1s - loss: {y} - accuracy: 0.5000\r"
        ),
        lambda e, y: f"val_loss: {y}",
    ),
}


@pytest.mark.parametrize("kind", EPOCHS)
def test_steps_that_begin_anew_in_each_epoch(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "train.log", "starting", *epochs_of(*EPOCHS[kind]))
    log = read_log(path)
    assert (log.column, log.metric, log.history.n_observed) == ("loss", "train", 30)
    bins = log.history.bins()
    shift = 1 if log.total_steps else 0  # numbered from 1 if the length tells
    np.testing.assert_array_equal(bins.last, np.arange(10, 301, 10) - shift)
    np.testing.assert_allclose(bins.mean, [loss_at(t) for t in range(10, 301, 10)], rtol=1e-6)
    assert log.total_steps == (300 if "/3" in path.read_text() else None)
    assert log.steps_per_epoch == pytest.approx(100, rel=0.1)
    validation = read_log(path, metric="val")
    assert validation.metric == "val"
    assert validation.history.n_observed == 3
    assert validation.history.bins().last[-1] >= 299 - 50 * (kind == "mmdetection")


def test_steps_that_go_on_in_the_next_epoch(tmp_path: Path) -> None:
    lines = [f"epoch {t // 100} step {t}/300 loss {loss_at(t)}" for t in range(0, 300, 10)]
    log = read_log(write(tmp_path / "train.log", *lines))
    assert log.history.bins().last.tolist() == list(range(0, 300, 10))
    assert log.total_steps == 300


def test_epochs_alone(tmp_path: Path) -> None:
    lines = [
        f"Epoch {e}/50 - loss: {loss_at(e)} - val_loss: {loss_at(e) + 1}" for e in range(1, 21)
    ]
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.others, log.steps_taken, log.total_steps) == (
        "loss",
        ("val_loss",),
        20,
        50,
    )
    assert log.notes == ("no optimizer steps logged: counting epochs",)


def test_epochs_numbered_from_0_to_their_total(tmp_path: Path) -> None:
    """As in PyTorch's tutorial on transfer learning."""
    lines = [
        f"Epoch {e}/24\n----------\ntrain Loss: {loss_at(e)} Acc: 0.7\nval Loss: 3.1 Acc: 0.7\n"
        for e in range(25)
    ]
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.steps_taken, log.total_steps) == ("train_loss", 25, 25)
    assert seen(log) == {e: loss_at(e) for e in range(25)}


def test_lines_without_a_counter_are_counted(tmp_path: Path) -> None:
    lines = [f"Train loss: {loss_at(i)}\nValid loss: {loss_at(i) + 1}" for i in range(N)]
    log = read_log(write(tmp_path / "train.log", "starting", *lines))
    assert log.notes[0] == "no column counts steps or epochs: counting rows"
    assert (log.column, log.steps_taken) == ("train_loss", N)
    assert seen(log) == {i: loss_at(i) for i in range(N)}
    validation = read_log(tmp_path / "train.log", metric="val")
    assert list(seen(validation).values()) == [loss_at(i) + 1 for i in range(N)]


def test_the_last_bar_has_no_end_of_line(tmp_path: Path) -> None:
    bars = [
        f"\rsteps: {t}%|## | {t}/100 [00:10<10:00, 1.1it/s, loss={loss_at(t)}]"
        for t in range(1, 101)
    ]
    (tmp_path / "train.log").write_text("".join(bars))
    log = read_log(tmp_path / "train.log")
    assert (log.history.n_observed, log.steps_taken, log.total_steps) == (100, 100, 100)


def test_keras_with_one_line_an_epoch(tmp_path: Path) -> None:
    lines = [
        f"Epoch {e}/30\n469/469 - 3s - 6ms/step - accuracy: 0.9 - loss: {loss_at(e)} - val_loss: 3"
        for e in range(1, 11)
    ]
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.steps_taken, log.total_steps) == ("loss", 10, 30)
    assert read_log(tmp_path / "train.log", metric="val").history.bins().last.tolist() == [
        *range(1, 11)
    ]


def test_nanogpt_names_train_and_validation_losses(tmp_path: Path) -> None:
    lines = []
    for t in range(0, 401, 10):
        if t % 100 == 0:
            lines.append(f"step {t}: train loss {loss_at(t)}, val loss {loss_at(t) + 1}")
        lines.append(f"iter {t}: loss {loss_at(t)}, time 20.10ms, mfu 18.30%")
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.history.n_observed) == ("loss", 41)
    assert log.others == ("train_loss", "val_loss")
    log = read_log(tmp_path / "train.log", column="val_loss")
    assert log.history.bins().last.tolist() == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("bars", ["after", "none"])
def test_what_the_trainer_prints(tmp_path: Path, bars: str) -> None:
    """Its dicts have no step; the bar that is drawn again after each of them does."""
    lines = ["nohup: ignoring input", "Loading checkpoint shards: 100%|###| 2/2 [00:01<00:00]"]
    for t in range(10, 401, 10):
        row = {"loss": f"{loss_at(t)}", "grad_norm": "0.5", "learning_rate": f"{rate_at(t)}"}
        lines.append(str({**row, "epoch": f"{t / 200:.4g}"}))
        if bars != "none":
            lines.append(f"{t // 4:3d}%|###   | {t}/400 [00:10<00:20,  9.31it/s]")
        if t % 100 == 0:
            lines += [f"{i * 10}%|#  | {i}/10 [00:00<00:01]" for i in range(11)] * (bars != "none")
            row = {"eval_loss": f"{loss_at(t) + 1}", "eval_runtime": "1.2"}
            lines.append(str({**row, "epoch": f"{t / 200:.4g}"}))
    lines.append("{'train_runtime': '9.1', 'train_loss': '2.4', 'epoch': '2.0'}")
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.rate_column) == ("loss", "learning_rate")
    assert log.others == ("eval_loss", "train_loss")
    assert log.history.n_observed == 40
    unit = 1 if bars != "none" else 0.5  # 0.01 epochs are two steps
    assert log.steps_taken == 400 * unit
    assert log.total_steps == (400 if bars != "none" else 250), "where the rates reach 0"
    assert log.steps_per_epoch == pytest.approx(200 * unit)
    middles = (np.arange(0, 400, 10) + 4.5) * unit  # a mean over ten steps
    np.testing.assert_allclose(log.history.bins().last[1:], middles[1:], atol=1)
    counting = "no optimizer steps logged: counting 0.01 epochs as one step"
    assert log.notes[:1] == (() if bars != "none" else (counting,))
    validation = read_log(tmp_path / "train.log", metric="val")
    assert validation.column == "eval_loss"
    assert validation.history.bins().last.tolist() == [100 * unit * i for i in range(1, 5)]


def test_batches_of_validation_are_no_steps(tmp_path: Path) -> None:
    """Lines of mmengine's text log, counted in iterations."""
    lines = []
    for i in range(10, 161, 10):
        lines.append(f"Iter(train) [{i:3}/160]  lr: 5.2e-03  eta: 0:00:00  loss: {loss_at(i - 1)}")
        if i % 40 == 0:
            lines.append("Iter(val) [20/40]    eta: 0:00:00  time: 0.0003  data_time: 0.0001")
            lines.append("Iter(val) [40/40]    acc: 1.0000  val_loss: 2.0000  time: 0.0003")
    (tmp_path / "a.log").write_text("".join(f"11/29 17:16:28 - INFO - {x}\n" for x in lines))
    log = read_log(tmp_path / "a.log")
    assert (log.total_steps, log.steps_taken, log.rate_column) == (160, 160, "lr")
    assert seen(log) == {i: loss_at(i) for i in range(9, 160, 10)}
    assert list(seen(read_log(tmp_path / "a.log", metric="val"))) == [40, 80, 120, 160]


def test_fairseq_summaries_are_apart(tmp_path: Path) -> None:
    lines = []
    for e in range(1, 4):
        for t in range(100 * e - 90, 100 * e + 1, 10):
            lines.append(
                f"| INFO | train_inner | epoch {e:03d}: {t % 100 or 100} / 100 "
                f"loss={loss_at(t)}, num_updates={t}, lr=0.1"
            )
        lines.append(f"| INFO | train | epoch {e:03d} | loss 9.5 | num_updates {100 * e} | lr 0.1")
        lines.append(
            f"| INFO | valid | epoch {e:03d} | valid on 'valid' subset | loss "
            f"{loss_at(100 * e) + 1} | ppl 40 | num_updates {100 * e} | best_loss 5.9"
        )
    log = read_log(write(tmp_path / "train.log", *lines))
    assert (log.column, log.history.n_observed) == ("loss", 30)
    assert log.history.bins().last.tolist() == list(range(10, 301, 10))
    assert {"val_loss", "train_epoch_loss"} <= set(log.others)


# ------------------------------------------------------------------------------ single lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("step 3: loss nan", {"step": "3", "loss": "nan"}),
        ("step 3: loss -inf lr 0", {"step": "3", "loss": "-inf", "lr": "0"}),
        ("Step 1 of 20, train/loss = .5", {"step": "1", "train/loss": ".5"}),
        ("iteration [3]/[50] total loss => 2.", {"iter": "3", "total_loss": "2."}),
        ("[2026-01-02T10:11:12.1Z] it 7 xent 1e-3", {"iter": "7", "xent": "1e-3"}),
        ("10:11:12 global step 5 - train loss: 1.5", {"global_step": "5"}),
        ("loss after epoch 3: 0.5", {"epoch": "3", "loss": "0.5"}),
        ("time per iteration 3.2, GPT-2, v1.2.3", {"time_per_iteration": "3.2"}),
        ("eval | step 9 | loss 3.1", {"step": "9", "val_loss": "3.1"}),
        ("train step 9 loss 3.1, val step 9 loss 3", {"step": "9", "loss": "3.1", "val_loss": "3"}),
        ("/home/test/run.py: step 9 loss 3.1", {"step": "9", "loss": "3.1"}),
        ("no numbers at all", {}),
        ("", {}),
    ],
)
def test_numbers_in_a_line(line: str, expected: dict[str, str]) -> None:
    named = {phrase.name: phrase.value for phrase in phrases(line)}
    assert expected.items() <= named.items()
    if not expected:
        assert not named


def test_text_without_losses_says_what_was_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt", "", "Dear all, the run", "was fine: step 3 of 5 done")
    with pytest.raises(ConfigurationError, match=r"is text, not a table, and has no lines.*Dear"):
        read_log(path)


def test_carriage_returns_long_lines_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    rows = [f"step {t} loss {loss_at(t)}" for t in range(30)]
    text = "\r\n".join(rows[:10]) + "\n" + "x" * 300_000 + "\n" + "\r".join(rows[10:]) + "\n"
    for data in (text.encode(), text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode()):
        path.write_bytes(data)
        assert read_log(path).history.bins().last.tolist() == list(range(30))
    path.write_bytes("".join(f"{row} ünd\n" for row in rows).encode() + b"\xff\xfe\xf6\n")
    assert read_log(path).history.n_observed == 30


TRAINING = """
import torch, sys
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
config = GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=1, n_head=2)
row = {"input_ids": torch.arange(16), "labels": torch.arange(16)}
arguments = TrainingArguments(
    output_dir=sys.argv[1], num_train_epochs=2, per_device_train_batch_size=2, logging_steps=3,
    save_strategy="no", eval_strategy="steps", eval_steps=10, report_to=[], use_cpu=True,
    dataloader_pin_memory=False,
)
Trainer(
    model=GPT2LMHeadModel(config), args=arguments, train_dataset=[row] * 64, eval_dataset=[row] * 20
).train()
"""


def test_the_output_of_a_real_trainer(tmp_path: Path) -> None:
    """With its progress bars, as `nohup python train.py` keeps it."""
    path = tmp_path / "nohup.out"
    with path.open("wb") as file:
        command = [sys.executable, "-c", TRAINING, str(tmp_path)]
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=True, timeout=300)
    log = read_log(path)
    assert (log.column, log.total_steps, log.steps_taken) == ("loss", 64, 64)
    assert log.history.bins().last.tolist() == [1, *range(4, 63, 3)]
    assert log.steps_per_epoch == pytest.approx(32)
    assert read_log(path, metric="val").history.bins().last.tolist() == [*range(10, 61, 10), 64]
