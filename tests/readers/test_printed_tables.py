"""Tables that tools print into their logs: names over columns, and boxes of names and numbers."""

from pathlib import Path

import numpy as np
import pytest
from support.log_files import loss_at

from lossforecast.readers import read_log
from lossforecast.readers.printed_tables import PrintedTables

N = 40  # epochs, or rows


def yolo_5(epoch: int, loss: float) -> str:
    bars = "".join(
        f"\r{epoch:>10}/{N - 1}     3.42G {loss if batch == 4 else 9.9:>10.6f}    0.06123"
        f"    0.01711        217        640: {25 * batch:3}%|## | {batch}/4 [00:01<00:03,  2it/s]"
        for batch in range(1, 5)
    )
    return (
        "\n      Epoch    GPU_mem   box_loss   obj_loss   cls_loss  Instances       Size\n"
        f"{bars}\n"
        "                 Class     Images  Instances          P          R      mAP50   mAP50-95: "
        "100%|##########| 4/4 [00:01<00:00,  2.91it/s]\n"
        "                   all        128        929      0.708      0.635      0.723      0.475\n"
    )


def yolo_8(epoch: int, loss: float) -> str:
    return yolo_5(epoch, loss).replace(f"{epoch:>10}/{N - 1}", f"{epoch + 1:>10}/{N}")


def yolo_7(epoch: int, loss: float) -> str:
    return (
        "\n     Epoch   gpu_mem       box       obj       cls     total    labels  img_size\n"
        f"     {epoch}/{N - 1}     11.4G   0.04321   0.02123   0.01234   {loss:.6f}        77"
        "       640: 100%|##########| 9/9 [00:10<00:00,  1.10it/s]\n"
    )


def espnet(epoch: int, loss: float) -> str:
    e = epoch + 1
    lines = [
        f"[host] 2026-01-02 10:11:12,345 (trainer:762) INFO: {e}epoch:train:{a - 49}-{a}batch: "
        f"iter_time=0.116, loss_ctc=71.2, loss_att=51.3, acc=0.412, loss={loss + 0.01:.6f}, "
        f"loss_scale=1.0, optim0_lr0=1.0e-04, train_time=1.61"
        for a in (50, 100)
    ]
    summary = (
        f"[host] 2026-01-02 10:11:13,345 (trainer:356) INFO: {e}epoch results: [train] "
        f"iter_time=0.116, loss_ctc=70.1, loss={loss:.6f}, optim0_lr0=1.0e-04, time=6 minutes and "
        f"37.4 seconds, total_count={100 * e}, [valid] loss_ctc=60.3, cer=0.31, loss=55.1, "
        f"total_count={20 * e}"
    )
    return "\n".join([*lines, summary]) + "\n"


def fastai(epoch: int, loss: float) -> str:
    header = "epoch     train_loss  valid_loss  accuracy  time    \n" if epoch == 0 else ""
    return f"{header}{epoch:<10}{loss:<12.6f}{loss + 0.1:<12.6f}0.812000  00:12     \n"


def spacy(row: int, loss: float) -> str:
    header = (
        "\x1b[38;5;4m\u2139 Initial learn rate: 0.001\x1b[0m\n"
        "E    #       LOSS NER  LOSS TAGGER  ENTS_F  SCORE \n"
        "---  ------  --------  -----------  ------  ------\n"
    )
    cells = f"{row // 8:>3}  {200 * row:>6}  {loss:>8.6f}  {10.25:>11.2f}  {50.1:>6.2f}    0.50\n"
    return (header if row == 0 else "") + cells


def markdown(row: int, loss: float) -> str:
    header = (
        "### Training results\n\n| Training Loss | Epoch | Step | Validation Loss |\n"
        "|:-------------:|:-----:|:----:|:---------------:|\n"
    )
    line = f"| {loss:.6f} | {row / 8 + 0.125:.3f} | {50 * (row + 1)} | {loss + 0.1:.4f} |\n"
    return (header if row == 0 else "") + line


def rich(row: int, loss: float) -> str:
    header = "┏━━━━━━┳━━━━━━━━━━┓\n┃ step ┃ loss     ┃\n┡━━━━━━╇━━━━━━━━━━┩\n"
    return (header if row == 0 else "") + f"│ {10 * row:>4} │ {loss:.6f} │\n"


def data_frame(row: int, loss: float) -> str:
    header = "    step  train_loss     lr\n" if row == 0 else ""
    return f"{header}{row:<4}{10 * row:4d}    {loss:.6f}  0.001\n"


def savetxt(row: int, loss: float) -> str:
    return ("# step loss lr\n" if row == 0 else "") + f"{10 * row} {loss:.6f} 1.0e-03\n"


def stable_baselines(row: int, loss: float) -> str:
    rule = "-" * 40 + "\n"
    cells = {
        "rollout/": "",
        "   ep_rew_mean": 20 + row,
        "time/": "",
        "   iterations": row + 1,
        "   total_timesteps": 2048 * (row + 1),
        "train/": "",
        "   learning_rate": 0.0003,
        "   loss": f"{loss:.6f}",
    }
    lines = "".join(f"| {name:<24} | {value!s:<10} |\n" for name, value in cells.items())
    return rule + lines + rule


KINDS = {
    # name: (rows, column, first step, steps between rows, length)
    "YOLOv5": (yolo_5, "box_loss", 0, 1, N),
    "YOLOv7": (yolo_7, "total_loss", 0, 1, N),
    "YOLOv8": (yolo_8, "box_loss", 0, 1, N),
    "fastai": (fastai, "train_loss", 0, 1, None),
    "spaCy": (spacy, "loss_ner", 0, 200, None),
    "Markdown": (markdown, "training_loss", 50, 50, None),
    "rich": (rich, "loss", 0, 10, None),
    "a printed data frame": (data_frame, "train_loss", 0, 10, None),
    "numpy's savetxt": (savetxt, "loss", 0, 10, None),
    "Stable-Baselines3": (stable_baselines, "train/loss", 2048, 2048, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tables(tmp_path: Path, kind: str) -> None:
    rows, column, first, every, total = KINDS[kind]
    text = "".join(rows(i, loss_at(i)) for i in range(N))
    (tmp_path / "train.log").write_text(
        f"Starting training\nusing 1 GPU\n\n{text}\ndone in 1 hour\n"
    )
    log = read_log(tmp_path / "train.log")
    assert (log.format, log.column, log.metric) == ("text log", column, "train")
    assert log.total_steps == total
    bins = log.history.bins()
    assert bins.last.tolist() == list(range(first, first + every * N, every))
    np.testing.assert_allclose(bins.mean, [loss_at(i) for i in range(N)], rtol=1e-4)


def test_espnet_counts_batches_and_keeps_means_of_epochs_apart(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("".join(espnet(i, loss_at(i)) for i in range(N)))
    log = read_log(tmp_path / "train.log")
    assert (log.column, log.rate_column, log.steps_per_epoch) == ("loss", "optim0_lr0", 100)
    assert log.steps_taken == 100 * N
    bins = log.history.bins()
    assert bins.last.tolist() == list(range(50, 100 * N + 1, 50))
    np.testing.assert_allclose(bins.mean[::2], [loss_at(i) + 0.01 for i in range(N)], rtol=1e-4)
    assert {"epoch_loss", "val_loss"} <= set(log.others)


def test_an_epoch_in_progress_is_left_out(tmp_path: Path) -> None:
    """The bar of YOLO shows means over the epoch so far."""
    whole = "".join(yolo_5(i, loss_at(i)) for i in range(N // 2))
    part = yolo_5(N // 2, 1.0).partition("| 2/4")[0]
    (tmp_path / "train.log").write_text(f"{whole}{part}| 2/4 [00:01<00:03,  2it/s]\n")
    log = read_log(tmp_path / "train.log")
    assert log.steps_taken == N // 2
    assert log.total_steps in (N - 1, N), "only the end shows that the first epoch is number 0"


@pytest.mark.parametrize(
    "line",
    [
        "saving the epoch with the best loss",
        "step 100: loss 2.3, lr 0.1",
        "Epoch 3 of 5 | loss 2.3",
        "",
        "|||",
    ],
)
def test_other_lines_are_no_rows(line: str) -> None:
    tables = PrintedTables()
    for text in (line, "100 2.3", "a 2.3 4 5 6", line):
        assert not tables.row(text)
