"""Kinds of logs that several tools write: where a line names its counter, its loss, its process."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.log_files import loss_at, seen

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log
from lossforecast.readers.columns import is_loss
from lossforecast.readers.phrases import phrases

N = 30


def read(path: Path, text: str, **options: str) -> Log:
    path.write_text(text)
    return read_log(path, **options)  # type: ignore[arg-type]


def check(log: Log, numbers: Iterable[int]) -> None:
    """Check the losses of a log, whose numbers may be those of epochs from 1."""
    expected = {n: loss_at(n) for n in numbers}
    got = seen(log)
    assert list(got.values()) == pytest.approx(list(expected.values()), rel=2e-3)
    assert {a - b for a, b in zip(got, expected, strict=True)} in ({0}, {-1})


# ------------------------------------------------------------------------------ lines of text

LINES: dict[str, tuple[str, str | None, str, int | None]] = {  # loss, rate, line, length
    "an index in the name of the counter": (
        "training_loss",
        None,
        "[PAX STATUS] step_i: {n}, training loss: {y}",
        None,
    ),
    "a number in colours": (
        "training_loss",
        None,
        "I0501 10:00:00.123456 140 utils.py:70] \x1b[35m[{n}]\x1b[0m training_loss = {y}",
        None,
    ),
    "commands to a terminal": (
        "loss",
        None,
        "\x1b]0;train {n}\x07\x1b[?25lstep {n} loss {y}\x1b[K\x1b[?25h",
        None,
    ),
    "a number before a bar": ("loss", "lr", "{n} | loss {y} | lr 1.0e-04 | 120.12ms", None),
    "a number before a loss": ("loss", None, "{n} loss tensor([{y}], device='cuda:0')", None),
    "a count in the name": (
        "loss",
        "learning_rate",
        "{{'loss': {y}, 'learning_rate': 1e-04, 'global_step/max_steps': '{n}/1000',"
        " 'percentage': '1.00%', 'elapsed_time': '1m 2s'}}",
        1000,
    ),
    "an epoch and a step in a list": (
        "train.loss",
        "train.lr",
        'DLLL {{"timestamp": "1.6", "elapsedtime": "1.2", "type": "LOG", "step": [0, {n}], '
        '"data": {{"train.loss": {y}, "train.lr": 0.1}}}}',
        None,
    ),
    "a bar before the number": (
        "train_cross_entropy_loss",
        None,
        "Step {n:6d}: train CrossEntropyLoss |  {y}\nStep {n:6d}: eval  CrossEntropyLoss |  9.5",
        None,
    ),
    "a list with commas": ("loss", None, "step,{n},loss,{y},val_loss,9.5", None),
    "a tuple": ("loss", None, "('step', {n}, 'loss', {y}, 'val', 9.5)", None),
    "a cost after an iteration": ("cost", None, "Cost after iteration {n}: {y}", None),
    "two losses at once": ("train_loss", None, "Step {n}: train/val loss = {y}/9.5", None),
    "batches of validation": (
        "loss",
        None,
        "Step: {n}/1000 Train steps: 100 Val steps: 25 1.23s loss: {y} acc: 80 val_loss: 9.5",
        1000,
    ),
    "a rate as lrate": ("loss", "lrate", "epoch 0 | iter {n} | loss {y} | lrate 1.00e-03", None),
    "tabs that syslog wrote": ("train-rmse", None, "[{n}]#011train-rmse:{y}#011val-rmse:9.5", None),
    "rounds": ("loss", None, "INFO flwr: round {n}: loss {y}", None),
    "a number behind a mark": ("loss", None, "@{n} loss={y}", None),
    "a number behind a cross": ("loss", "lr", "#{n}: loss={y} lr=1e-3", None),
    "a number in round brackets": ("loss", None, "({n}) loss {y}", None),
    "a unit behind the number": ("loss", None, "{n} steps: loss {y}", None),
    "an ordinal number": ("loss", None, "{n}th iteration: loss = {y}", None),
    "a sentence": (
        "loss_training",
        None,
        "After {n} training step(s), loss on training batch is {y}.",
        None,
    ),
    "an ordered dict": (
        "loss",
        "lr",
        "OrderedDict([('step', {n}), ('loss', {y}), ('lr', 0.1)])",
        None,
    ),
    "a mean of all parts": (
        "average_loss",
        None,
        "[Train]({n}/1000) average pos_loss: 0.5\n[Train]({n}/1000) average loss: {y}",
        1000,
    ),
    "a number behind a time": ("loss", "lr", "00:01:02 {n:6d} iters, loss={y}, lr=1e-3", None),
    "an epoch before a colon": ("train_loss", None, "[0: {n}/1000] train loss: {y} acc: 0.5", 1000),
    "a cross entropy": (
        "ce",
        "lr",
        "Train | Epoch 1 | {n}/1000 | lr 1E-04 | ce {y} | ppl 170.1",
        1000,
    ),
    "parts of a name": (
        "l_pix",
        "lr",
        "[epoch: 1, iter: {n}, lr:(1e-04,)] [time: 0.1] l_pix: {y}",
        None,
    ),
    "processes behind the step": (
        "loss",
        None,
        "step {n} rank 0 loss {y}\nstep {n} rank 1 loss 9.5\nstep {n} rank 2 loss 9.5",
        None,
    ),
    "processes in brackets": (
        "loss",
        None,
        "INFO (worker 0) step {n} loss {y}\nINFO (worker 1) step {n} loss 9.5",
        None,
    ),
    "processes in front": (
        "loss",
        None,
        "GPU 0 | Step {n} | Loss {y}\nGPU 1 | Step {n} | Loss 9.5",
        None,
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_lines(tmp_path: Path, kind: str) -> None:
    column, rate, line, total = LINES[kind]
    steps = range(10, 10 * N + 1, 10)
    text = "".join(line.format(n=t, y=f"{loss_at(t):.6f}") + "\n" for t in steps)
    log = read(tmp_path / "train.log", f"starting\n{text}")
    assert (log.column, log.metric, log.rate_column, log.total_steps) == (
        column,
        "train",
        rate,
        total,
    )
    check(log, steps)


EPOCHS = {
    "a heading above each loss": "--- EPOCH {n} ---\nTrain\n  Loss: {y}\nValid\n  Loss: 9.5\n",
    "headings in YAML": "- epoch: {n}\n  train:\n    loss: {y}\n  val:\n    loss: 9.5\n",
    "a heading of errors": "Epoch {n}\nloss: {y}\nTest Error: \n Accuracy: 50.1%, Avg loss: 9.5\n",
    "a quoted name": "Epoch {n}, loss {y}: 'val_loss' reached 9.5 (best 9.5), saving model\n",
    "an epoch after on": "Loss on epoch {n}: {y}, val loss 9.5\n",
    "an epoch after a split": "loss on training epoch {n} = {y}, val loss 9.5\n",
    "an ordinal number": "{n}th epoch: loss {y}, val loss 9.5\n",
    "short names": "epoch {n}: tloss {y} vloss 9.5\n",
    "other short names": "ep {n} trn loss {y} tst loss 9.5\n",
    "processes": "GPU 0 | Epoch {n} | Loss {y} | cv_loss 9.5\nGPU 1 | Epoch {n} | Loss 9.1\n",
}


@pytest.mark.parametrize("kind", EPOCHS)
def test_epochs(tmp_path: Path, kind: str) -> None:
    text = "".join(EPOCHS[kind].format(n=i, y=f"{loss_at(i):.6f}") for i in range(1, N + 1))
    log = read(tmp_path / "train.log", text)
    assert log.metric == "train"
    check(log, range(1, N + 1))
    validation = read_log(tmp_path / "train.log", metric="val")
    assert set(seen(validation).values()) == {9.5}
    assert validation.history.n_observed == N


@pytest.mark.parametrize(
    "line",
    [
        "Using L1 loss, 2 workers",
        "8 GPUs, L1 loss, 2 workers",
        "cross entropy loss, 8 GPUs, 5 steps",
    ],
)
def test_a_loss_before_a_comma_in_a_sentence_is_none(line: str) -> None:
    assert not [phrase for phrase in phrases(line) if is_loss(phrase.name)]


def test_a_training_loss_below_a_heading_of_validation(tmp_path: Path) -> None:
    text = "".join(
        f"Epoch {e}\nValidation\nloss: 9.5\ntrain loss: {loss_at(e)}\n" for e in range(1, N + 1)
    )
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.others) == ("train_loss", ("val_loss",))
    check(log, range(1, N + 1))


def test_a_line_of_training_ends_what_is_below_a_heading(tmp_path: Path) -> None:
    text = "Testing\n" + "".join(f"step {t} loss {loss_at(t)}\n" for t in range(N))
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.metric) == ("loss", "train")
    check(log, range(N))


def test_bars_of_epochs_around_those_of_steps(tmp_path: Path) -> None:
    bars = ["\repoch:   0%|    | 0/3 [00:00<?, ?it/s]\n"]
    for epoch in range(3):
        bars += [
            f"\rstep:  {b}%|## | {b}/100 [00:10<00:10, 1.00it/s, loss={loss_at(100 * epoch + b)}]"
            for b in range(10, 101, 10)
        ]
        bars += [f"\n\repoch:  {33 * (epoch + 1)}%|##  | {epoch + 1}/3 [01:00<03:00]\n"]
    log = read(tmp_path / "train.log", "".join(bars))
    check(log, range(10, 301, 10))
    assert log.total_steps == 300


def test_epochs_that_are_named_at_their_end(tmp_path: Path) -> None:
    text = ""
    for epoch in range(3):
        text += "".join(
            f"Iter {b} training loss = {loss_at(100 * epoch + b)}\n" for b in range(10, 101, 10)
        )
        text += f"epoch {epoch} total training loss = 9.5\n"
    log = read(tmp_path / "train.log", text)
    assert (log.column, log.steps_per_epoch, log.runs) == ("training_loss", 100, ())
    check(log, range(10, 301, 10))


def test_rounds_of_several_batches_count_batches(tmp_path: Path) -> None:
    text = "".join(f"Round {t // 100}, batch {t} loss {loss_at(t)}\n" for t in range(0, 300, 10))
    check(read(tmp_path / "train.log", text), range(0, 300, 10))


def test_epochs_without_improvement_count_nothing(tmp_path: Path) -> None:
    text = "".join(
        f"3 epochs without improvement, best loss 9.5\nEpoch {e}: loss {loss_at(e)}\n"
        for e in range(1, N + 1)
    )
    log = read(tmp_path / "train.log", text)
    assert log.column == "loss"
    check(log, range(1, N + 1))


def test_a_batch_beside_its_epoch(tmp_path: Path) -> None:
    """As WeNet prints them, the epoch as if the batch was its total."""
    text = "".join(
        f"DEBUG TRAIN Batch {e}/{b} loss {loss_at(100 * e + b)} lr 0.1 rank {rank}\n"
        for e in range(3)
        for b in range(0, 100, 10)
        for rank in range(2)
    )
    log = read(tmp_path / "train.log", text + "INFO Epoch 2 CV info cv_loss 9.5\n")
    assert log.column == "loss"
    check(log, range(0, 300, 10))
    assert "cv_info_cv_loss" in log.others
    assert read_log(tmp_path / "train.log", metric="val").column == "cv_info_cv_loss"


def test_a_heading_of_another_epoch_is_not_taken(tmp_path: Path) -> None:
    text = "".join(
        f"epoch {e}, minibatch 83/83, train loss {loss_at(e)}\n"
        f"     epoch {e}, minibatch 83/83, patience of best model 12.5\n"
        for e in range(1, N + 1)
    )
    check(read(tmp_path / "train.log", text), range(1, N + 1))


# ------------------------------------------------------------------------------ JSON, CSV, HTML


def message(t: int) -> str:
    return f"step {t} loss {loss_at(t):.6f}"


STEPS = range(10, 10 * N + 1, 10)
DOCUMENTS = {
    "messages in objects": "".join(
        json.dumps({"id": "a", "payload": {"level": "INFO", "message": message(t)}}) + "\n"
        for t in STEPS
    ),
    "objects in texts": "".join(
        json.dumps({"log": json.dumps({"step": t, "loss": loss_at(t)}) + "\n", "stream": "stdout"})
        + "\n"
        for t in STEPS
    ),
    "messages in a list": json.dumps(
        [{"id": "a", "payload": {"level": "INFO", "message": message(t)}} for t in STEPS]
    ),
    "messages below a name": json.dumps(
        {"events": [{"timestamp": 17, "message": message(t)} for t in STEPS], "token": "f/3"},
        indent=4,
    ),
    "messages of Kaggle": "["
    + "\n,".join(
        json.dumps({"stream_name": "stdout", "time": 1.2, "data": message(t) + "\n"}) for t in STEPS
    )
    + "\n]",
    "charts of ClearML": json.dumps(
        {
            "loss": {
                "val": {"name": "val", "x": [10], "y": [9.5]},
                "train": {"name": "train", "x": [*STEPS], "y": [loss_at(t) for t in STEPS]},
            }
        }
    ),
    "HTML": "<!DOCTYPE html><html><body><table><tr><th>step</th><th>loss</th></tr>"
    + "".join(f"<tr><td>{t}</td>\n<td><b>{loss_at(t)}</b></td></tr>" for t in STEPS)
    + "</table></body></html>\n",
    "printed text in HTML": "<html><style>p { step 1 loss 9 }</style><pre>"
    + "".join(f"&gt; step {t}: <b>loss</b> {loss_at(t)}\n" for t in STEPS)
    + "</pre></html>\n",
    "objects one after the other": "".join(
        json.dumps({"step": t, "loss": loss_at(t)}, indent=2) + "\n" for t in STEPS
    ),
    "objects as Python prints them": repr([{"step": t, "loss": loss_at(t)} for t in STEPS]),
    "a defaultdict": "defaultdict(<class 'list'>, "
    + repr({"step": [*STEPS], "loss": [loss_at(t) for t in STEPS]})
    + ")\n",
    "lists with their names": f"step = {[*STEPS]}\nloss = {[loss_at(t) for t in STEPS]}\n",
    "rows below names": json.dumps([["step", "loss"], *([t, loss_at(t)] for t in STEPS)]),
    "a table with commas in text": "loading, please wait\nstep, loss, lr\n"
    + "".join(f"{t}, {loss_at(t):.6f}, 1e-3\n" for t in STEPS),
    "numpy's savetxt with commas": "# step,loss\n" + "".join(f"{t},{loss_at(t)}\n" for t in STEPS),
    "dashes in empty cells": "step, loss, val_loss\n"
    + "".join(f"{t}, {loss_at(t)}, -\n" for t in STEPS),
    "a table below a tag": "<div><progress value='30'></progress></div><table><tr><th>Step</th>"
    + "<th>Loss</th></tr>\n"
    + "".join(f"<tr><td>{t}</td>\n<td>{loss_at(t)}</td></tr>" for t in STEPS)
    + "</table>",
    "a table of R": '"step" "loss"\n'
    + "".join(f'"{i}" {t} {loss_at(t)}\n' for i, t in enumerate(STEPS, 1)),
    "counts with their totals": "step,loss\n" + "".join(f"{t}/300,{loss_at(t)}\n" for t in STEPS),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents(tmp_path: Path, kind: str) -> None:
    log = read(tmp_path / "log.txt", DOCUMENTS[kind])
    assert (log.column.removeprefix("log/").partition("/")[0], log.metric) == ("loss", "train")
    check(log, STEPS)
    assert log.total_steps == (300 if kind == "counts with their totals" else None)


@pytest.mark.parametrize(
    ("encoding", "words"), [("gbk", "训练损失第三轮"), ("cp1251", "функция потерь на этой эпохе")]
)
def test_text_in_another_encoding(tmp_path: Path, encoding: str, words: str) -> None:
    """Its English words tell enough."""
    text = "".join(f"{words} epoch {e}: loss {loss_at(e)}\n" for e in range(1, N + 1))
    (tmp_path / "train.log").write_bytes(text.encode(encoding))
    check(read_log(tmp_path / "train.log"), range(1, N + 1))


def test_columns_of_splits(tmp_path: Path) -> None:
    """As of XGBoost's `evals_result`, whatever comes first."""
    losses = [loss_at(i) for i in range(N)]
    text = json.dumps({"eval": {"rmse": [9.5] * N}, "train": {"rmse": losses}})
    log = read(tmp_path / "evals.json", text)
    assert (log.column, log.others) == ("train/rmse", ("eval/rmse",))
    check(log, range(N))


def test_lists_of_splits(tmp_path: Path) -> None:
    text = json.dumps({"val": [9.5] * N, "train": [loss_at(i) for i in range(N)]})
    log = read(tmp_path / "losses.json", text)
    assert (log.column, log.metric) == ("train", "train")
    check(log, range(N))


def test_steps_with_commas_between_thousands(tmp_path: Path) -> None:
    text = "step,loss\n" + "".join(f'"{1000 * t:,}",{loss_at(t)}\n' for t in range(N))
    log = read(tmp_path / "log.csv", text)
    assert list(seen(log)) == [1000 * t for t in range(N)]


# ------------------------------------------------------------------------------ what is no log


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.py", "for step in range(9):\n    loss = 0.5\n", "is a program, not a log"),
        ("vits.log", "train\tINFO\t[2.4, 3.0]\n" * 9, "no lines with"),
        ("pytest.log", "".join(f"test_loss[{i}] PASSED [{i}%]\n" for i in range(42)), "--column"),
        ("config.json", '{"loss": "mse", "loss_weights": [1.0, 0.5, 0.25]}', "no columns"),
        ("trials.csv", "trial,lr,val_loss\n0,0.1,2.5\n1,0.2,2.4\n2,0.3,2.3\n", "no column of opt"),
        ("trades.csv", "step,profit_loss,x\n1,50.5,0\n2,40.5,0\n", "--column"),
        ("ping.log", "60 packets sent, 0% packet loss, time 59ms\n" * 9, "no lines with a step"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path / name, text)
