"""Logs in the manner of one tool each: odd names and places of values, repeated lines."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from support.log_files import loss_at, seen

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log

N = 40
STEPS = range(10, 10 * N + 1, 10)
EPOCHS = range(1, N + 1)
BATCHES = [(epoch, batch) for epoch in range(1, 5) for batch in range(10, 101, 10)]


def val_at(step: int) -> float:
    return loss_at(step) + 0.5


def joined(line: Callable[[int], str], at: Iterable[int], end: str = "\n") -> str:
    return "".join(line(t) + end for t in at)


def by_batch(line: Callable[[int, int, int], str], end: Callable[[int], str] | None = None) -> str:
    lines = []
    for epoch, batch in BATCHES:
        lines.append(line(epoch, batch, 100 * (epoch - 1) + batch))
        if batch == 100 and end is not None:
            lines.append(end(epoch))
    return "\n".join(lines) + "\n"


def read(tmp_path: Path, name: str, text: str, **options: str) -> Log:
    path = tmp_path / name
    path.write_text(text)
    return read_log(path, **options)  # type: ignore[arg-type]


def check(log: Log, steps: Iterable[int], loss: Callable[[int], float] = loss_at) -> None:
    """Check the points of a log, which may be numbered from 1."""
    got, expected = seen(log), {step: loss(step) for step in steps}
    assert list(got.values()) == pytest.approx(list(expected.values()), rel=2e-3)
    assert {a - b for a, b in zip(got, expected, strict=True)} in ({0}, {-1})


# ------------------------------------------------------------------------------ text, by steps

PREFIXES = {
    "srun": "3: ",
    "torchrun": "[rank0]: ",
    "torch elastic": "[default0]:",
    "containerd": "2026-01-02T10:11:12.345678901Z stdout F ",
    "containerd, with an offset": "2026-01-02T10:11:12.345678901+01:00 stderr F ",
    "docker compose": "trainer-1  | ",
    "kubectl": "[pod/trainer-7c9d8b6f5-abcde/main] ",
    "journald": "Jan 02 10:11:12 node17 python[12345]: ",
    "CloudWatch": "1704190272345 ",
    "Ray": "\x1b[36m(RayTrainWorker pid=1234, ip=10.0.0.7)\x1b[0m ",
    "MPI": "[1,0]<stdout>: ",
    "k2": "2026-01-02 10:11:12,345 INFO [train.py:801] (0/4) ",
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_lines(tmp_path: Path, prefix: str) -> None:
    text = joined(lambda t: f"{PREFIXES[prefix]}step {t}/1000 | loss {loss_at(t)} | lr 0.1", STEPS)
    log = read(tmp_path, "train.log", f"{PREFIXES[prefix]}starting on 8 GPUs\n{text}")
    check(log, STEPS)
    assert (log.column, log.rate_column, log.total_steps) == ("loss", "lr", 1000)


BY_STEPS: dict[str, tuple[str, str | None, str]] = {  # the loss, the rate, and the text
    "darknet": (
        "avg_loss",
        "learning_rate",
        "mini_batch = 16, batch = 64, time_steps = 1, train = 1\n"
        + joined(
            lambda t: (
                "v3 (iou loss) Region 30, class_loss = 9.1, total_loss = 9.6\n"
                * 2
                + f" {t}: {loss_at(t) + 1:.6f}, {loss_at(t):.6f} avg loss, 0.001000 rate, "
                f"1.234567 seconds, {64 * t} images, 12.345678 hours left\nLoaded: 0.0 seconds"
            ),
            STEPS,
        ),
    ),
    "llm.c": (
        "train_loss",
        "lr",
        joined(
            lambda t: f"s:{t} tel:{val_at(t)}\ns:{t} trl:{loss_at(t)} lr:0.0006 norm:1.2", STEPS
        ),
    ),
    "a program before the log": (
        "train_loss",
        None,
        "step = 0\nfor step in range(1, steps + 1): loss = 0.5\nlr = 0.5\nloss = 0.1\n"
        + joined(lambda t: f"step:{t}/1000 train_loss:{loss_at(t)} train_time:12ms", STEPS),
    ),
    "numbers in their types": (
        "loss",
        None,
        joined(lambda t: f"{{'step': {t}, 'loss': np.float64({loss_at(t)})}}", STEPS),
    ),
    "dicts on several lines": (
        "loss",
        "learning_rate",
        joined(
            lambda t: (
                f"{{'learning_rate': Array(0.1, dtype=float32),\n 'loss': Array({loss_at(t)}, "
                f"dtype=float32),\n 'step': {t}}}"
            ),
            STEPS,
        ),
    ),
    "Tacotron": (
        "train_loss",
        None,
        joined(
            lambda t: (
                f"Train loss {t} {loss_at(t)} Grad Norm 1.2 1.23s/it\nValidation loss {t}: 9.100000"
            ),
            STEPS,
        ),
    ),
    "TensorFlow's Estimator": (
        "loss",
        None,
        joined(
            lambda t: (
                f"INFO:tensorflow:loss = {loss_at(t)}, step = {t} (12.345 sec)\nINFO:tensorflow:"
                f"Saving dict for global step {t}: global_step = {t}, loss = {val_at(t)}"
            ),
            STEPS,
        ),
    ),
    "Caffe": (
        "loss",
        "lr",
        joined(
            lambda t: (
                f"I0102 10:11:12.3 12 solver.cpp:218] Iteration {t} (9.1 iter/s), loss = "
                f"{loss_at(t)}\nI0102 10:11:12.3 12 solver.cpp:237]     Train net output #0: loss "
                f"= 9.5 (* 1 = 9.5 loss)\nI0102 10:11:12.3 12 sgd.cpp:105] Iteration {t}, lr = 0.1"
            ),
            STEPS,
        ),
    ),
    "LightGBM, stopped early": (
        "training_binary_logloss",
        None,
        joined(lambda t: f"[{t}]\ttraining's binary_logloss: {loss_at(t)}", STEPS)
        + f"Early stopping, best iteration is:\n[100]\ttraining's binary_logloss: {loss_at(100)}\n",
    ),
    "the best step at the end": (
        "loss",
        None,
        joined(lambda t: f"step {t} loss {loss_at(t)}", STEPS) + "Best: step 100 loss 2.1\n",
    ),
    "two processes": (
        "loss",
        None,
        joined(
            lambda t: f"[rank0]: step {t} loss {loss_at(t)}\n[rank1]: step {t} loss {val_at(t)}",
            STEPS,
        ),
    ),
    "two processes out of step": (
        "loss",
        None,
        joined(
            lambda t: f"0: step {t} loss {loss_at(t)}\n1: step {max(t - 10, 10)} loss 9.1", STEPS
        ),
    ),
    "a tag behind the count": (
        "loss",
        None,
        joined(lambda t: f"[{t} | {1.23 * t:.2f}] loss={loss_at(t)} avg=9.50", STEPS),
    ),
    "dlib": (
        "average_loss",
        "learning_rate",
        joined(lambda t: f"step#: {t:5d}  learning rate: 0.1   average loss: {loss_at(t)}", STEPS),
    ),
    "units in names": (
        "train/loss",
        "train/lr",
        joined(lambda t: f"step:{t} - train/loss:{loss_at(t)} - train/lr(1e-3):0.1", STEPS),
    ),
    "OLMo-core": (
        "train/ce_loss",
        "optim/lr",
        joined(
            lambda t: (
                f"INFO [step={t}/1000,epoch=1]\n    train/CE loss={loss_at(t)}\n"
                "    optim/LR (group 0)=0.1"
            ),
            STEPS,
        ),
    ),
    "micro-steps": (
        "loss",
        None,
        joined(lambda t: f"micro_step {4 * t} | optimizer_step {t} | loss {loss_at(t)}", STEPS),
    ),
    "decimal commas": (
        "loss",
        None,
        joined(lambda t: f"step {t} loss {loss_at(t):.4f}".replace(".", ","), STEPS),
    ),
    "MATLAB, under names on two lines": (
        "mini-batch_loss",
        "base_learning_rate",
        "|  Epoch  |  Iteration  |  Time Elapsed  | Mini-batch | Validation |  Base Learning  |\n"
        "|         |             |   (hh:mm:ss)   |    Loss    |    Loss    |      Rate       |\n"
        f"|{'=' * 90}|\n"
        + joined(
            lambda t: (
                f"| {1 + t // 100:7} | {t:11} |       00:00:{t % 60:02} | {loss_at(t):12.6f} | "
                f"{'' if t % 50 else '9.1':>12} | {0.01:15.4f} |"
            ),
            STEPS,
        ),
    ),
    "MATLAB, with empty cells": (
        "training_loss",
        "learn_rate",
        "    Iteration    Epoch    TimeElapsed    LearnRate    TrainingLoss    ValidationLoss\n"
        "    _________    _____    ___________    _________    ____________    ______________\n"
        "            0        0       00:00:01        0.001                               9.1\n"
        + joined(
            lambda t: (
                f"{t:13}{1 + t // 100:9}       00:00:{t % 60:02}{0.001:13.3f}{loss_at(t):16.6f}"
                f"{'' if t % 50 else '9.1':>18}"
            ),
            STEPS,
        ),
    ),
    "DeepXDE": (
        "train_loss",
        None,
        "Step      Train loss              Test loss               Test metric\n"
        + joined(
            lambda t: f"{t:<10}[{loss_at(t) - 0.1:.6f}, 1.00e-01]    [1.10e+00, 3.30e-01]    [0.5]",
            STEPS,
        ),
    ),
}


@pytest.mark.parametrize("kind", BY_STEPS)
def test_steps(tmp_path: Path, kind: str) -> None:
    column, rate, text = BY_STEPS[kind]
    log = read(tmp_path, "train.log", text)
    assert (log.column, log.rate_column, log.metric) == (column, rate, "train")
    check(log, STEPS)


def test_backspaces_go_back_in_a_line(tmp_path: Path) -> None:
    """As Keras draws its bars into a file."""
    text = "".join(
        ("Epoch 1/1\n" if t == 1 else "") + f"{t}/100 [==>...] - loss: {loss_at(t)}" + "\b" * 40
        for t in range(1, 101)
    )
    check(read(tmp_path, "train.log", f"{text}\n"), range(1, 101))


# ----------------------------------------------------------------------------- text, by epochs


@pytest.mark.parametrize(
    ("line", "end", "total"),
    [
        (  # DeepSpeech, whose validation has steps of its own
            lambda e, b, t: f"Epoch {e} |   Training | Steps: {b} | Loss: {loss_at(t)}",
            lambda e: f"Epoch {e} | Validation | Steps: 10 | Loss: {val_at(e)}",
            None,
        ),
        (  # OpenPCDet
            lambda e, b, t: f"Train:  {e}/80 ( 9%) [ {b}/100 ( 9%)]  Loss: {loss_at(t)} (9.1)",
            None,
            8000,
        ),
        (  # Simple Transformers
            lambda e, b, t: f"Epochs {e}/4. Running Loss:    {loss_at(t)}:  9%|#  | {b}/100 [0:10]",
            None,
            400,
        ),
    ],
)
def test_batches_of_epochs(
    tmp_path: Path,
    line: Callable[[int, int, int], str],
    end: Callable[[int], str] | None,
    total: int | None,
) -> None:
    log = read(tmp_path, "train.log", by_batch(line, end))
    check(log, STEPS)
    assert log.total_steps == total


BY_EPOCHS: dict[str, tuple[str, str]] = {
    "Catalyst": (
        "loss",
        joined(lambda e: f"{e}/40 * Epoch {e} (train): loss={loss_at(e)}", EPOCHS),
    ),
    "MXNet": (
        "train-cross-entropy",
        joined(lambda e: f"INFO:root:Epoch[{e}] Train-cross-entropy={loss_at(e)}", EPOCHS),
    ),
    "YOLOv5 without a total": (
        "box_loss",
        joined(
            lambda e: (
                f"\n     Epoch   gpu_mem       box       obj       cls    labels\n    {e}/40"
                f"     3.53G   {loss_at(e)}   0.021   0.012        77: 100%|##| 9/9 [00:10]"
            ),
            EPOCHS,
        ),
    ),
    "errors": (
        "error_per_epoch",
        joined(lambda e: f"Epoch {e}\nError per Epoch = {loss_at(e)}", EPOCHS),
    ),
    "deviance": (
        "train_deviance",
        "Iter   TrainDeviance   ValidDeviance   StepSize   Improve\n"
        + joined(lambda e: f"{e:6d}   {loss_at(e):.6f}   nan   0.1000   0.0123", EPOCHS),
    ),
    "splits alone": ("train", joined(lambda e: f"ep {e} | train {loss_at(e)} | val 9.1", EPOCHS)),
}


@pytest.mark.parametrize("kind", BY_EPOCHS)
def test_epochs(tmp_path: Path, kind: str) -> None:
    column, text = BY_EPOCHS[kind]
    log = read(tmp_path, "train.log", text)
    assert (log.column, log.metric, log.history.n_observed) == (column, "train", N)
    assert list(seen(log).values()) == pytest.approx([loss_at(e) for e in EPOCHS], rel=2e-3)


@pytest.mark.parametrize(
    ("shown", "epochs"), [("59", 60), ("60", 60), ("99", 100), ("100", 100), ("64", 65)]
)
def test_a_total_may_be_the_number_of_the_last_epoch(
    tmp_path: Path, shown: str, epochs: int
) -> None:
    text = joined(lambda e: f"Epoch {e}/{shown} loss {loss_at(e)}", range(20))
    assert read(tmp_path, "train.log", text).total_steps == epochs


@pytest.mark.parametrize("line", ["Total optimization steps = 1,000", "max_steps: 1000"])
def test_a_length_above_the_log(tmp_path: Path, line: str) -> None:
    text = joined(lambda t: f"step {t} loss {loss_at(t)}", STEPS)
    assert read(tmp_path, "train.log", f"  {line}\n{text}").total_steps == 1000


# --------------------------------------------------------------------- names that are not losses


def test_catboost(tmp_path: Path) -> None:
    text = joined(
        lambda t: f"{t}:\tlearn: {loss_at(t)}\ttest: 2.9\tbest: 2.9 ({t})\ttotal: 9ms", STEPS
    )
    log = read(tmp_path, "train.log", f"Learning rate set to 0.03\n{text}\nbestTest = 2.9\n")
    check(log, STEPS)
    assert (log.column, log.metric) == ("learn", "train")
    rows = [{"learn": [loss_at(t)], "iteration": t, "test": [2.9]} for t in STEPS]
    document = {"meta": {"test_sets": ["test"], "learn_sets": ["learn"]}, "iterations": rows}
    log = read(tmp_path, "catboost_training.json", json.dumps(document))
    check(log, STEPS)
    for name, metric in (("learn_error.tsv", "train"), ("test_error.tsv", "val")):
        log = read(tmp_path, name, "iter\tRMSE\n" + joined(lambda t: f"{t}\t{loss_at(t)}", STEPS))
        assert (log.column, log.metric) == ("RMSE", metric)


def test_losses_of_a_gan_are_listed_and_can_be_chosen(tmp_path: Path) -> None:
    text = (
        "================ Training Loss (Sat Jan  1 10:11:12 2026) ================\n"
        + by_batch(
            lambda e, b, t: (
                f"(epoch: {e}, iters: {b}, time: 0.1, data: 0.01) G_GAN: 1.2 G_L1: {loss_at(t)} "
                "D_real: 0.5 D_fake: 0.6 "
            )
        )
    )
    with pytest.raises(ConfigurationError, match=r"it has .*g_gan, g_l1, .*--column"):
        read(tmp_path, "loss_log.txt", text)
    log = read(tmp_path, "loss_log.txt", text, column="G_L1")
    check(log, STEPS)


def test_what_rises_is_not_taken_for_a_loss(tmp_path: Path) -> None:
    text = joined(lambda e: f"Epoch {e}, train {1 - 1 / (e + 1)}, val {1 - 2 / (e + 2)}", EPOCHS)
    with pytest.raises(ConfigurationError, match="it has train, val"):
        read(tmp_path, "train.log", text)


# -------------------------------------------------------------------------------- JSON and CSV


def objects(row: Callable[[int], object]) -> str:
    return joined(lambda t: json.dumps(row(t)), STEPS)


def message(t: int) -> str:
    return f"step {t}/1000 loss {loss_at(t)} lr 0.1"


FILES: dict[str, tuple[str, str, str]] = {  # the name of the file, the loss, the text
    "Docker": ("a.log", "loss", objects(lambda t: {"log": message(t) + "\n", "stream": "stdout"})),
    "messages": (
        "a.jsonl",
        "loss",
        objects(lambda t: {"lineno": 42, "level": "INFO", "message": message(t)}),
    ),
    "messages in CSV": (
        "a.csv",
        "loss",
        "timestamp,message\n" + joined(lambda t: f'1704190272345,"{message(t)}"', STEPS),
    ),
    "events": (
        "a.jsonl",
        "data/loss",
        objects(lambda t: {"event": "train", "step": t, "data": {"loss": loss_at(t)}})
        + objects(lambda t: {"event": "eval", "step": t, "data": {"loss": 9.1}}),
    ),
    "a table with spaces": (
        "a.csv",
        "train_loss",
        "step train_loss val_loss\n" + joined(lambda t: f"{t} {loss_at(t)} 9.1", STEPS),
    ),
    "a value on each line": (
        "a.jsonl",
        "train/loss",
        objects(lambda t: {"name": "train/loss", "value": loss_at(t), "step": t}),
    ),
    "MLflow": (
        "a.json",
        "train_loss",
        json.dumps(
            {"metrics": [{"key": "train_loss", "value": loss_at(t), "step": t} for t in STEPS]}
        ),
    ),
    "Comet": (
        "a.json",
        "train_loss",
        json.dumps(
            [{"metricName": "train_loss", "metricValue": str(loss_at(t)), "step": t} for t in STEPS]
        ),
    ),
    "Aim": (
        "a.csv",
        "train_loss",
        ",run.hash,run.name,metric.name,metric.context,step,value\n"
        + joined(lambda t: f"0,ab12,run-1,train_loss,{{}},{t},{loss_at(t)}", STEPS),
    ),
    "Neptune": (
        "train_loss.csv",
        "train_loss",
        "step,value,timestamp\n" + joined(lambda t: f"{t}.0,{loss_at(t)},2026-01-02 10:11", STEPS),
    ),
    "Keras in R": (
        "a.csv",
        "loss",
        '"","epoch","value","metric","data"\n'
        + joined(lambda t: f'"1",{t},{loss_at(t)},"loss","training"', STEPS)
        + joined(lambda t: f'"1",{t},9.1,"loss","validation"', STEPS),
    ),
    "RLlib": (
        "result.json",
        "info/learner/default_policy/learner_stats/total_loss",
        objects(
            lambda t: {
                "training_iteration": t,
                "info": {
                    "learner": {"default_policy": {"learner_stats": {"total_loss": loss_at(t)}}}
                },
            }
        ),
    ),
    "ms-swift": (
        "a.jsonl",
        "loss",
        objects(lambda t: {"loss": loss_at(t), "global_step/max_steps": f"{t}/1000"}),
    ),
    "a count and a number": (
        "loss.txt",
        "loss",
        joined(lambda t: f"{t:7d}/   1000: {loss_at(t)}", STEPS),
    ),
    "a count and a tensor": (
        "loss.txt",
        "loss",
        joined(lambda t: f"{t} tensor({loss_at(t)}, grad_fn=<MeanBackward0>)", STEPS),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(tmp_path: Path, kind: str) -> None:
    name, column, text = FILES[kind]
    log = read(tmp_path, name, text)
    assert (log.column.rpartition(" - ")[2], log.metric) == (column, "train")
    check(log, STEPS)
    assert log.total_steps == (1000 if "1000" in text else None)


def test_objects_and_tables_with_losses_may_hold_messages_too(tmp_path: Path) -> None:
    rows = [
        {"step": t, "loss": loss_at(t), "name": "run", "value": 1.5, "msg": message(9)}
        for t in STEPS
    ]
    log = read(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert log.format == "JSON lines"
    check(log, STEPS)
    text = "step,loss,remark\n" + joined(lambda t: f"{t},{loss_at(t)},{message(9)}", STEPS)
    log = read(tmp_path, "a.csv", text)
    assert log.format == "CSV"
    check(log, STEPS)


def test_a_dict_of_lists_printed_by_python(tmp_path: Path) -> None:
    losses = [loss_at(t) for t in range(N)]
    log = read(tmp_path, "history.txt", str({"loss": losses, "val_loss": losses}) + "\n")
    assert list(seen(log).values()) == losses


def test_notebooks(tmp_path: Path) -> None:
    """The output that a cell printed, and the table that the Trainer shows in one."""
    printed = [f"step {t} loss {loss_at(t)}\n" for t in STEPS]
    shown = "<table><tr><th>Step</th><th>Training Loss</th><th>Validation Loss</th></tr>" + "".join(
        f"<tr><td>{t}</td>\n<td>{loss_at(t)}</td><td>9.1</td></tr>" for t in STEPS
    )
    for output, column in (
        ({"output_type": "stream", "name": "stdout", "text": printed}, "loss"),
        ({"output_type": "display_data", "data": {"text/html": [shown]}}, "training_loss"),
    ):
        cells = [{"cell_type": "markdown", "source": ["step 1 loss 2"]}, {"outputs": [output]}]
        document = {"cells": cells, "nbformat": 4}
        log = read(tmp_path, "train.ipynb", json.dumps(document, indent=1))
        assert (log.format, log.column) == ("notebook", column)
        check(log, STEPS)
    with pytest.raises(ConfigurationError, match="is no notebook"):
        read(tmp_path, "train.ipynb", "[1]")


def test_lines_of_text_with_commas_are_no_table(tmp_path: Path) -> None:
    text = "Loading: 100%|###| 2/2 [00:01<00:00, 1.1MB/s]\nNum examples = 8,000\n"
    log = read(tmp_path, "train.log", text + joined(message, STEPS))
    assert log.format == "text log"
    check(log, STEPS)


def test_rates_that_fall_at_irregular_steps_are_held(tmp_path: Path) -> None:
    """As with `MultiStepLR`: nothing tells the next milestone."""
    rates = {t: 0.1 if t < 150 else 0.01 if t < 325 else 0.001 for t in STEPS}
    text = "step,loss,lr\n" + joined(lambda t: f"{t},{loss_at(t)},{rates[t]}", STEPS)
    plan = read(tmp_path, "log.csv", text).plan(1000)
    assert {caveat.value for caveat in plan.caveats} == {"lr_assumed"}
    assert plan.lr([1000])[0] == pytest.approx(0.001)


def test_a_line_with_other_cells_above_a_header_is_not_joined_to_it(tmp_path: Path) -> None:
    rows = [f"| {epoch} | {loss_at(epoch):.4f} |" for epoch in range(1, 30)]
    path = tmp_path / "train.log"
    path.write_text("\n".join(["loss | two | three | four", "| epoch | loss |", *rows]) + "\n")
    assert read_log(path).history.n_observed == len(rows)
