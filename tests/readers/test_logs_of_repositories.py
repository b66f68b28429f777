"""Kinds of logs that people keep in their repositories: odd counters, and numbers without names."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.log_files import loss_at, seen

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log

N = 30
NUMBERS = range(1, N + 1)


def read(path: Path, text: str, **options: str) -> Log:
    path.write_text(text)
    return read_log(path, **options)  # type: ignore[arg-type]


def lines(template: str) -> str:
    """A line of each number `i`, with its loss `y` and another one."""
    return "".join(template.format(i=i, y=loss_at(i), z=9.5 + i % 2) for i in NUMBERS)


def check(log: Log, steps: Iterable[int], first: int = 1) -> None:
    """Check losses at some steps, which may be numbered from 1."""
    got, steps = seen(log), list(steps)
    assert list(got.values()) == pytest.approx([loss_at(first + i) for i in range(N)], rel=2e-3)
    assert {a - b for a, b in zip(got, steps, strict=True)} in ({0}, {-1})


# ------------------------------------------------------------------------------ counters in text

TEXTS: dict[str, tuple[str, str | None, str, list[int]]] = {  # loss, rate, the text, steps
    "a total that rises": (
        "loss",
        "current_learning_rate",
        "".join(
            f"training progress (epoch {2 * i}, total_steps {50 * i})\nloss: {loss_at(i)}\n"
            f"current learning rate: {0.1 / i}\ndecreased learning rate by  0.94\n"
            for i in NUMBERS
        ),
        [50 * i for i in NUMBERS],
    ),
    "a score at an iteration": (
        "score_at_iteration",
        None,
        "".join(
            f"10:0{i % 10}:10.5 [main] INFO Score at iteration {10 * i} is {loss_at(i)}\n"
            for i in NUMBERS
        )
        + " Accuracy:   0.6\n F1 Score:   0.5\n",
        [10 * i for i in NUMBERS],
    ),
    "a perplexity after an epoch": (
        "train_perplexity",
        None,
        "".join(f"Train perplexity after epoch {i}: {loss_at(i)}\naccuracy 0.5\n" for i in NUMBERS),
        [*NUMBERS],
    ),
    "a split and a step": (
        "loss",
        None,
        "".join(
            (f"INFO: Epoch {i // 3} begin\n" if i % 3 == 1 else "")
            + f"INFO: Train {20 * ((i - 1) % 3 + 1)}: loss:{loss_at(i)}\n"
            for i in NUMBERS
        ),
        [20 * i for i in NUMBERS],
    ),
    "a step of an epoch": (
        "loss",
        "learning_rate",
        "".join(
            ("[Epoch 0] Training ====\n" if i == 1 else "")
            + f"Epoch Step: {40 * i:6d} | Accumulation Step: {i} | Loss: {loss_at(i):.5f} | "
            "Learning Rate: 1.1e-03\n"
            for i in NUMBERS
        ),
        [40 * i for i in NUMBERS],
    ),
    "a letter before a number and its total": (
        "total_loss",
        None,
        "".join(f"epoch=0 i={5 * i}/200 total_loss={loss_at(i)} part_loss=9.5\n" for i in NUMBERS),
        [5 * i for i in NUMBERS],
    ),
    "letters in a bar": (
        "l",
        None,
        "".join(
            f"\rL: {loss_at(i):.4f}, L_a: {loss_at(i) - 1:.4f}, L_b: 1, epoch: 0/5:   9%|#   "
            f"| {i}/50 [00:09<00:10,  1.0it/s]"
            for i in NUMBERS
        ),
        [*NUMBERS],
    ),
    "a total alone": (
        "total",
        None,
        "".join(
            f"[epoch: 1/9, iter: {i}/50] total: {loss_at(i)}\nValidation accuracy: 0.6\n"
            for i in NUMBERS
        ),
        [*NUMBERS],
    ),
    "a loss at an epoch and an iteration": (
        "loss",
        None,
        "".join(
            f"Loss at epoch {(i - 1) // 3} and iteration {50 * ((i - 1) % 3)} is {loss_at(i)}\n"
            f"NCE Loss at epoch {(i - 1) // 3} and iteration {50 * ((i - 1) % 3)} is 9.5\n"
            for i in NUMBERS
        ),
        [50 * (i - 1) for i in NUMBERS],
    ),
    "backspaces up to the end": (
        "loss",
        None,
        "Epoch 1/2\n"
        + "".join(
            f"{i}/50 [==>...] - ETA: 3:48 - loss: {loss_at(i):.4f} - acc: 0.4" + "\b" * 9
            for i in NUMBERS
        )
        + "31/50 [==>...] - ETA: 3:48 - lo",
        [*NUMBERS],
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(tmp_path: Path, kind: str) -> None:
    column, rate, text, steps = TEXTS[kind]
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.metric, log.rate_column) == (column, "train", rate)
    check(log, steps)


BATCHES = [(e, b) for e in range(1, 7) for b in range(5)]
"""Epochs of 45 steps, and the numbers of their losses."""
LENGTHS: dict[str, tuple[str, int, int | None]] = {  # a line, the steps of an epoch, and of all
    "a bar before the number of epochs": (
        "Epoch: [{e} | 20]\n({b}/45) LR: 0.1 | Batch: 2.5s | Loss: {y} | Loss(a/b): 9.5/9.1",
        45,
        900,
    ),
    "a count before that of batches": (
        "10:11:12 [INFO]   [{e}/20] batch {b}/45 loss={y} lr=7e-05",
        45,
        900,
    ),
    "an epoch before its word": (
        "{b}/45 in {e} epoch finished at time 12:35:49.477525 from start, Loss is {y} Acc is 0.4",
        45,
        None,
    ),
    "an epoch and a batch in brackets": (
        "INFO - 09/03/20 10:11:12 - 8:29:16 - Epoch: [{e}][{b}]\tTime 2.9 (2.9)\tLoss {y} (9.5)",
        50,
        None,
    ),
}


@pytest.mark.parametrize("kind", LENGTHS)
def test_epochs_and_batches(tmp_path: Path, kind: str) -> None:
    line, length, total = LENGTHS[kind]
    texts = (line.format(e=e, b=10 * b, y=loss_at(1 + i)) for i, (e, b) in enumerate(BATCHES))
    log = read(tmp_path / "train.log", "\n".join([*texts, ""]))
    assert (log.column, log.total_steps) == ("loss", total)
    check(log, [length * (e - 1) + 10 * b for e, b in BATCHES])


def test_a_number_after_the_split(tmp_path: Path) -> None:
    """As of DGCNN, whose numbers are those of epochs."""
    text = lines("Train {i}, loss: {y}, train acc: 0.9\nTest {i}, loss: 9.5, test acc: 0.8\n")
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.others) == ("loss", ("val_loss",))
    check(log, NUMBERS)


@pytest.mark.parametrize("validated", [8, 45])
def test_the_bar_of_validation_follows_that_of_training(tmp_path: Path, validated: int) -> None:
    text = ""
    for i, (e, b) in enumerate(BATCHES):
        step = 9 * (b + 1)
        text += f"\nEpoch [{e}/6]\n" if b == 0 else ""
        text += f"\r9%|#  | {step}/45 [00:10<00:00, 2.0s/it, loss={loss_at(1 + i):.4f}, iou=0.8] "
        if step == 45 and validated == 8:
            text += "\n\r9%|#  | 8/8 [00:10<00:00, 2.0s/it, loss=9.5, iou=0.5] "
            text += "\nloss 9.1 - iou 0.8 - val_loss 9.5 - val_iou 0.5\n"
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.metric, log.total_steps) == ("loss", "train", 270)
    assert log.others == (("val_loss",) if validated == 8 else ())
    check(log, [45 * (e - 1) + 9 * (b + 1) for e, b in BATCHES])


@pytest.mark.parametrize("first", [1, None])
def test_bars_that_name_no_epoch(tmp_path: Path, first: int | None) -> None:
    """Each is one epoch; the mean over it, behind its number or without one, is not read."""
    text = "\r9%|# | 2/2 [00:10<00:00, 2.0s/it, loss=9.5]\n"  # a check of the validation
    for i, (e, b) in enumerate(BATCHES):
        text += f"\r9%|# | {9 * (b + 1)}/45 [00:10<00:00, 2.0s/it, loss={loss_at(1 + i):.4f}]"
        if b == 4:
            text += "\n\r9%|# | 8/8 [00:10<00:00, 2.0s/it, loss=9.5]\n"
            text += f"[{e}] loss: 9.1\n" if first else "mean loss: 9.1\n"
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.metric, log.runs) == ("loss", "train", ())
    assert any("begin anew" in note for note in log.notes)
    steps = [45 * (e - 1) + 9 * (b + 1) for e, b in BATCHES]
    assert {step: loss for step, loss in seen(log).items() if step > 2} == pytest.approx(
        {step: loss_at(1 + i) for i, step in enumerate(steps)}, rel=2e-3
    )


def test_a_total_over_an_epoch_comes_after_the_losses_of_its_steps(tmp_path: Path) -> None:
    text = lines("Epoch {i} Step: {i} Batch Loss: {y}, Lr: 0.1\nEpoch {i}: total loss 9.5\n")
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.others) == ("batch_loss", ("epoch_total_loss",))


def test_a_dict_of_losses(tmp_path: Path) -> None:
    log = read(tmp_path / "train.log", lines("Losses {{'ner': {y}}}\n"))
    assert log.column == "loss_ner"
    check(log, range(N))


def test_a_list_beside_a_loss(tmp_path: Path) -> None:
    rows = [{"round": i, "avg_loss": loss_at(i), "client_losses": [9.5, 9.1]} for i in NUMBERS]
    log = read(tmp_path / "log.json", json.dumps(rows))
    assert (log.column, log.others) == ("avg_loss", ())
    check(log, NUMBERS)


def test_a_loss_beside_a_win_is_one_of_money(tmp_path: Path) -> None:
    text = "episode,avg_win,avg_loss\n" + lines("{i},700.5,{y}\n")
    with pytest.raises(ConfigurationError, match="named like a loss"):
        read(tmp_path / "log.csv", text)


def test_a_total_that_stays_is_the_length(tmp_path: Path) -> None:
    text = "epoch,total_steps,loss\n" + "".join(f"{i},900,{loss_at(i)}\n" for i in NUMBERS)
    log = read(tmp_path / "log.csv", text)
    assert log.steps_taken == N
    check(log, NUMBERS)


def test_a_column_of_total_steps_that_rises_counts(tmp_path: Path) -> None:
    text = "episode,total_steps,loss\n" + "".join(f"{i},{200 * i},{loss_at(i)}\n" for i in NUMBERS)
    log = read(tmp_path / "log.csv", text)
    assert log.total_steps is None
    check(log, [200 * i for i in NUMBERS])


@pytest.mark.parametrize(
    ("header", "column", "metric"),
    [
        ("loss,val_loss,mean_squared_error", "mean_squared_error", "train"),
        ("aux_loss,val_loss,main_loss", "main_loss", "train"),
        ("loss,val_loss", "loss", "train"),
    ],
)
def test_a_loss_that_never_changes_comes_last(
    tmp_path: Path, header: str, column: str, metric: str
) -> None:
    n = header.count(",") + 1
    rows = ([0.0, 9.5 - 0.1 * i, loss_at(i)][:n] for i in NUMBERS)
    text = "".join(f"{i},{','.join(map(str, row))}\n" for i, row in enumerate(rows, 1))
    log = read(tmp_path / "log.csv", f"epoch,{header}\n{text}")
    assert (log.column, log.metric) == (column, metric)


# ------------------------------------------------------------------------------ numbers alone


TABLES: dict[str, tuple[str, list[int]]] = {
    "two losses": (lines("{y} ,{z}\n"), [*range(N)]),
    "three losses": (lines("{y}\t{z}\t1.5\n"), [*range(N)]),
    "five losses": (lines("{y}\t{z}\t1.5\t0.25\t0.125\t\n"), [*range(N)]),
    "a step and two losses": (lines("{i}\t{y}\t{z}\n"), [*NUMBERS]),
    "steps with a point": (lines("{i}.0,{y},{z}\n"), [*NUMBERS]),
    "quotes": (lines('"{i}","{y}"\n'), [*NUMBERS]),
    "a name before the step": (lines("epoch{i}\t{y}\n"), [*NUMBERS]),
    "a name and a colon": (lines("Epoch {i}: {y}\n"), [*NUMBERS]),
    "lists": (lines("[{y}, {z}, 1.5]\n"), [*range(N)]),
    "longer lists": (lines("[{y}, {z}, 1.5, 0.25]\n"), [*range(N)]),
    "one line": (lines("{y},"), [*range(N)]),
    "one line with an end": (lines("{y} ") + "\n", [*range(N)]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_numbers_without_names(tmp_path: Path, kind: str) -> None:
    text, steps = TABLES[kind]
    log = read(tmp_path / "losses.csv", text)
    assert (log.column, log.metric, log.format) == ("losses", "train", "numbers")
    check(log, steps)
    assert ("losses 2" in log.others) == ("9.5" in text)
    assert any("no names" in note for note in log.notes) == ("9.5" in text)


def test_epochs_in_fractions_without_a_name(tmp_path: Path) -> None:
    text = "".join(f"{i / 100:.2f}\t{loss_at(i)}\t\n" for i in NUMBERS)
    log = read(tmp_path / "slurm.out", text)
    assert log.column == "slurm"
    check(log, NUMBERS)


def test_the_second_loss_is_taken_by_its_number(tmp_path: Path) -> None:
    log = read(tmp_path / "losses.csv", TABLES["two losses"][0], column="losses 2")
    assert set(seen(log).values()) == {9.5, 10.5}


@pytest.mark.parametrize("text", ["1,2,3,4\n" * 9, "[1, 2]", "1 2 3 4\n"])
def test_other_numbers_are_no_losses(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is text, not a table"):
        read(tmp_path / "data.txt", text)
