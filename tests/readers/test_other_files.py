"""JSON of lists, numbers alone, compressed files, one file an epoch, tables with remarks."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.log_files import loss_at

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log

N = 60
LOSSES = [loss_at(i) for i in range(N)]
STEPS = list(range(0, 10 * N, 10))


def read(path: Path, content: str | bytes) -> Log:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_log(path)


def check(log: Log, steps: Sequence[int] = range(N), losses: Sequence[float] = LOSSES) -> None:
    bins = log.history.bins()
    assert bins.last.tolist() == list(steps)
    assert bins.mean.tolist() == pytest.approx(list(losses), rel=1e-6)


# ------------------------------------------------------------------------------------- JSON

DOCUMENTS: dict[str, tuple[Any, str, Sequence[int]]] = {
    "losses.json": (LOSSES, "losses", range(N)),
    "run-a-tag-loss.json": ([[17e8 + i, 10 * i, loss_at(i)] for i in range(N)], "loss", STEPS),
    "pairs_loss.json": ([[10 * i, loss_at(i)] for i in range(N)], "pairs_loss", STEPS),
    "split.json": (
        {
            "columns": ["step", "loss"],
            "index": [0],
            "data": [[10 * i, LOSSES[i]] for i in range(N)],
        },
        "loss",
        STEPS,
    ),
    "epochs.json": (
        {f"epoch_{i}": {"train_loss": loss_at(i), "val": {"loss": 3.0}} for i in range(N)},
        "train_loss",
        range(N),
    ),
    "index.json": ({str(i): {"loss": loss_at(i)} for i in range(N)}, "loss", range(N)),
    "steps.json": ({f"step {t}": {"loss": loss_at(t // 10)} for t in STEPS}, "loss", STEPS),
    "plural.json": ({"train_losses": LOSSES, "val_losses": LOSSES}, "train_losses", range(N)),
    "joined.json": ({"trainloss": LOSSES, "valloss": LOSSES}, "trainloss", range(N)),
    "inner.json": (
        {"args": {"sizes": [1, 2, 3]}, "result": {"history": {"loss": LOSSES}}},
        "loss",
        range(N),
    ),
    "chart.json": (  # as ClearML downloads it
        [{"name": name, "x": STEPS, "y": LOSSES, "type": "scatter"} for name in ("loss", "acc")],
        "loss",
        STEPS,
    ),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_json(tmp_path: Path, name: str, indent: int | None) -> None:
    document, column, steps = DOCUMENTS[name]
    log = read(tmp_path / name, json.dumps(document, indent=indent))
    assert (log.column, log.metric) == (column, "train")
    check(log, steps)


def test_lists_of_another_length_are_said(tmp_path: Path) -> None:
    log = read(tmp_path / "a.json", json.dumps({"train_loss": LOSSES, "val_loss": LOSSES[::6]}))
    check(log)
    assert "left out: val_loss" in log.notes[0]


@pytest.mark.parametrize("name", ["values.json", "values.txt"])
def test_a_single_list_that_falls_is_taken_for_a_loss(tmp_path: Path, name: str) -> None:
    def text(values: Sequence[float]) -> str:
        return json.dumps(values) if name.endswith("json") else "\n".join(map(str, values)) + "\n"

    log = read(tmp_path / name, text(LOSSES))
    check(log)
    assert any("named a loss: taking 'values', which falls" in note for note in log.notes)
    with pytest.raises(ConfigurationError, match="--column"):
        read(tmp_path / name, text(LOSSES[::-1]))
    check(read_log(tmp_path / name, column="values"), losses=LOSSES[::-1])


# ---------------------------------------------------------------------------- numbers alone


@pytest.mark.parametrize("between", [" ", ",", "\t", "; "])
def test_numbers_alone(tmp_path: Path, between: str) -> None:
    check(read(tmp_path / "train_loss.txt", "".join(f"{loss!r}\n" for loss in LOSSES)))
    rows = [[10 * i, loss_at(i)] for i in range(N)]
    check(
        read(tmp_path / "loss.csv", "".join(between.join(map(str, r)) + "\n" for r in rows)), STEPS
    )
    rows = [[10 * i, 1.7e9 + i, loss_at(i)] for i in range(N)]  # as Neptune downloads it
    check(
        read(tmp_path / "loss.csv", "".join(between.join(map(str, r)) + "\n" for r in rows)), STEPS
    )


def test_a_line_of_another_length_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 4 has 3 numbers, not 1"):
        read(tmp_path / "loss.txt", "2.5\n2.4\n2.3\n1 2 3\n")


# ------------------------------------------------------------------------------------- gzip

TABLE = "step,loss,lr\n" + "".join(f"{10 * i},{loss_at(i)},0.1\n" for i in range(N))
STATE = json.dumps({"log_history": [{"step": 10, "loss": 2.0}], "max_steps": 20, "global_step": 10})


def test_compressed_logs(tmp_path: Path) -> None:
    log = read(tmp_path / "log.csv.gz", gzip.compress(TABLE.encode()))
    assert (log.format, log.rate_column) == ("CSV", "lr")
    check(log, STEPS)
    text = "".join(f"step {10 * i}: loss {loss_at(i)}\n" for i in range(N))
    check(read(tmp_path / "train.log.gz", gzip.compress(text.encode("utf-16"))), STEPS)
    log = read(tmp_path / "trainer_state.json.gz", gzip.compress(STATE.encode()))
    assert (log.total_steps, log.steps_taken) == (20, 10)


def test_a_compressed_log_that_is_cut_off(tmp_path: Path) -> None:
    rows = "".join(f"{10 * i},{loss_at(i)},{i * i % 7919}\n" for i in range(5_000))
    data = gzip.compress(f"step,loss,x\n{rows}".encode())
    for end in (-8, -40):
        assert read(tmp_path / "log.csv.gz", data[:end]).history.n_observed > 4_000
    with pytest.raises(ConfigurationError, match=r"log\.csv\.gz"):
        read(tmp_path / "log.csv.gz", data[:15])


def test_a_compressed_log_that_is_damaged(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(TABLE.encode()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ConfigurationError, match=r"log\.csv\.gz"):
        read(tmp_path / "log.csv.gz", bytes(data))


def test_a_compressed_line_without_end(tmp_path: Path) -> None:
    data = gzip.compress(b"step,loss\n" + b"1" * 20_000_000)
    with pytest.raises(ConfigurationError, match="characters"):
        read(tmp_path / "log.csv.gz", data)


# ------------------------------------------------------------------------ one file an epoch


def test_a_file_for_each_epoch(tmp_path: Path) -> None:
    """As AllenNLP writes."""
    for i in range(N):
        row = {"epoch": i, "training_loss": loss_at(i), "validation_loss": 3.0, "time": "0:01:02"}
        (tmp_path / f"metrics_epoch_{i}.json").write_text(json.dumps(row, indent=2))
    log = read_log(tmp_path)
    assert (log.format, log.column) == ("JSON of each epoch", "training_loss")
    check(log)
    (tmp_path / "metrics_epoch_7.json").write_text("[")
    with pytest.raises(ConfigurationError, match=r"metrics_epoch_7\.json is not valid JSON"):
        read_log(tmp_path)


# ---------------------------------------------------------------------- tables with remarks


def test_comments_the_mark_of_excel_and_empty_cells_at_the_end(tmp_path: Path) -> None:
    rows = "".join(f"{10 * i};{loss_at(i)};\n".replace(".", ",") for i in range(N))
    for start in ("# model: small\n# lr: 0.1\n", "sep=;\n", "\n"):
        check(read(tmp_path / "log.csv", f"{start}step;loss\n{rows}"), STEPS)


def test_a_header_with_other_columns_goes_on_below(tmp_path: Path) -> None:
    half = N // 2
    first = "".join(f"{10 * i},{loss_at(i)}\n" for i in range(half))
    rest = "".join(f"0.5,{10 * i},{loss_at(i)}\n" for i in range(half, N))
    check(read(tmp_path / "log.csv", f"step,loss\n{first}acc,step,loss\n{rest}"), STEPS)


def test_numbers_that_were_logged_as_tensors(tmp_path: Path) -> None:
    """As `str` of a loss of PyTorch."""
    cells = [f"tensor({loss}, device='cuda:0', grad_fn=<NllLossBackward0>)" for loss in LOSSES]
    text = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    check(read(tmp_path / "log.csv", f"epoch,loss\n{text}"))
    check(read(tmp_path / "log.txt", "".join(f"epoch {i} loss {c}\n" for i, c in enumerate(cells))))


def test_a_table_of_metrics_and_values(tmp_path: Path) -> None:
    """As Comet downloads it, and as `DataFrame.melt` makes it."""
    header = "experimentKey,metricName,metricValue,timestamp,step,epoch\n"
    rows = "".join(f"ab12,train_loss,{loss_at(i)},17,{10 * i},\n" for i in range(N))
    check(read(tmp_path / "loss.csv", header + rows), STEPS)
    rows = "".join(f"{i},train_loss,{loss_at(i)}\n{i},val_loss,3\n" for i in range(N))
    check(read(tmp_path / "melted.csv", "epoch,variable,value\n" + rows))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["loss_cls", "loss_box", "loss_total"], "loss_total"),
        (["box_loss", "sum_loss", "val_loss"], "sum_loss"),
        (["loss/aux", "loss/main/mean"], "loss/main/mean"),
        (["mse", "val_loss"], "val_loss"),
        (["rmse", "lr"], "rmse"),
        (["a/cost", "cost", "cost_usd"], "cost"),
        (["train-logloss", "eval-logloss"], "train-logloss"),
    ],
)
def test_totals_come_before_components(tmp_path: Path, names: list[str], wanted: str) -> None:
    rows = "".join(f"{i}," + ",".join([str(loss_at(i))] * len(names)) + "\n" for i in range(N))
    log = read(tmp_path / "log.csv", f"step,{','.join(names)}\n{rows}")
    assert log.column == wanted
