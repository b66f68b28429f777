"""Logs that are cut, doubled, reordered or of wrong types: an answer, or one of our errors."""

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from support.log_files import loss_at, write_events

from lossforecast.errors import LossForecastError
from lossforecast.readers import read_log

MUTATIONS = 500 if os.environ.get("LOSSFORECAST_FULL") else 60
N = 30

ROWS = [
    {"step": 10 * i, "epoch": i // 10, "loss": loss_at(i), "val_loss": 3.0, "lr": 0.1}
    for i in range(N)
]


def table(delimiter: str) -> str:
    lines = [delimiter.join(ROWS[0]), *(delimiter.join(map(str, row.values())) for row in ROWS)]
    return "\n".join(lines) + "\n"


STATE = {"max_steps": 300, "global_step": 300, "num_train_epochs": 3, "log_history": ROWS}
COLUMNS = {name: [row[name] for row in ROWS] for name in ("loss", "val_loss", "lr")}
LOGS: dict[str, str] = {
    "a.csv": table(","),
    "a.tsv": table("\t"),
    "metrics.csv": table(","),
    "epochs.csv": table(",").replace("step", "x"),
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "iterations.log.json": "".join(
        json.dumps({"mode": "train", "epoch": i // 10, "iter": i % 10, "loss": loss_at(i)}) + "\n"
        for i in range(N)
    ),
    "trainer_state.json": json.dumps(STATE, indent=2),
    "history.json": json.dumps(COLUMNS),
    "rows.json": json.dumps(ROWS, indent=1),
    "colons.log": "".join(
        f"Epoch [{i // 10}/3], Step [{i % 10}/10], Loss: {loss_at(i)}\n" for i in range(N)
    ),
    "appended.jsonl": "".join(json.dumps(row) + "\n" for row in [*ROWS[:20], *ROWS]),
    "panel.csv": "Step,a - loss,a - loss__MIN,b - loss,a - lr\n"
    + "".join(f"{i},{loss_at(i)},{loss_at(i)},3,0.1\n" for i in range(N)),
    "long.csv": "Run,Run ID,metric,step,timestamp,value\n"
    + "".join(f"{run},{run}1,loss,{i},17,{loss_at(i)}\n" for run in "ab" for i in range(N)),
    "train_loss": "".join(f"1795956673809 {loss_at(i)} {i}\n" for i in range(N)),
    "steps.log": "".join(f"step {i}/90: train loss {loss_at(i)}, lr 1e-3\n" for i in range(N)),
    "dicts.log": "".join(f"{{'loss': {loss_at(i)}, 'step': {i}}}\n" for i in range(N)),
    "iterations.log": "".join(
        f"11/29 17:20:37 - INFO - Iter(train) [{i}/90]  lr: 1e-2  eta: 0:00:00  loss: {loss_at(i)}"
        "\n11/29 17:20:37 - INFO - Iter(val) [9/9]  val_loss: 3.0\n"
        for i in range(N)
    ),
    "yolo.log": "".join(
        "\n      Epoch    GPU_mem   box_loss   cls_loss  Instances       Size\n"
        f"       {i}/{N}      3.42G    {loss_at(i):.6f}      0.061        217        640: "
        f"100%|##| 4/4 [00:01<00:03,  2.5it/s]\n"
        for i in range(1, N + 1)
    ),
    "boxes.log": "".join(
        f"{'-' * 30}\n| time/  |   |\n|  total_timesteps | {i} |\n| train/ |   |\n"
        f"|  loss | {loss_at(i)} |\n|  learning_rate | 0.1 |\n{'-' * 30}\n"
        for i in range(N)
    ),
    "espnet.log": "".join(
        f"INFO: {i // 10 + 1}epoch:train:{50 * (i % 10) + 1}-{50 * (i % 10 + 1)}batch: "
        f"loss_ctc=71.2, loss={loss_at(i)}, optim0_lr0=1.0e-04\n"
        for i in range(N)
    ),
    "brackets.log": "".join(
        f"[{i // 10 + 1}, {i % 10 + 1:5}] loss: {loss_at(i)}\n" for i in range(N)
    ),
    "uncounted.log": "".join(f"loss {loss_at(i)}\n" for i in range(N)),
    "train_loss.txt": "".join(f"{i} {loss_at(i)}\n" for i in range(N)),
    "losses.json": json.dumps([loss_at(i) for i in range(N)]),
    "epochs.json": json.dumps({f"epoch_{i}": {"loss": loss_at(i)} for i in range(N)}),
    "split.json": json.dumps({"columns": ["step", "loss"], "data": [[i, 2.0] for i in range(N)]}),
    "bars.log": "".join(
        f"{{'loss': '{loss_at(i)}', 'epoch': '{i / 10}'}}\n{i}%|## | {i}/30 [00:10<00:20]\r"
        for i in range(N)
    ),
}

ODD = ["nan", "-inf", "1e999", "-5", "9" * 400, "1" + "0" * 17, "0.5", "", "null", "true", '"x"',
       "{}", "[]", "loss", "step", "epoch 7", "\0", "\ufeff", "é", "/", "{", '"', ",", "\r", "%",
       "\x1b[31m", "1/0", "step 5: loss 2 (", "[" * 2000]  # fmt: skip


def mutated(text: str, source: random.Random) -> str:
    """The text after one to four changes."""

    def cut(text: str) -> str:
        return text[: source.randrange(len(text) + 1)]

    def behead(text: str) -> str:
        return text[source.randrange(len(text) + 1) :]

    def insert(text: str) -> str:
        at = source.randrange(len(text) + 1)
        return text[:at] + source.choice(ODD) + text[at:]

    def replace(text: str) -> str:
        parts = text.split(separator := source.choice([" ", ",", "\n", ":"]))
        parts[source.randrange(len(parts))] = source.choice(ODD)
        return separator.join(parts)

    def shuffle(text: str) -> str:
        lines = text.splitlines(keepends=True)
        source.shuffle(lines)
        return "".join(lines)

    def double(text: str) -> str:
        return text + text

    def drop(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if source.random() < 0.8)

    def rename(text: str) -> str:
        names = ["loss", "step", "epoch", "lr", "iter"]
        return text.replace(source.choice(names), source.choice([*names, "", "x"]))

    def endings(text: str) -> str:
        return "".join(source.choice(["\n", "\r\n", "\r"]) if c == "\n" else c for c in text)

    changes: list[Callable[[str], str]] = [
        cut, behead, insert, insert, replace, replace, shuffle, double, drop, rename, endings,
    ]  # fmt: skip
    for _ in range(source.randint(1, 4)):
        text = source.choice(changes)(text)
    return text


def read(path: Path) -> None:
    try:
        read_log(path).plan()
    except LossForecastError:
        return


mutations = settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.mark.parametrize("name", LOGS)
@mutations
@given(
    source=st.randoms(use_true_random=False), encoding=st.sampled_from(["utf-8"] * 4 + ["utf-16"])
)
def test_an_answer_or_an_error(
    tmp_path: Path, name: str, source: random.Random, encoding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(mutated(LOGS[name], source).encode(encoding))
    read(path)


@mutations
@given(source=st.randoms(use_true_random=False))
def test_compressed_files(tmp_path: Path, source: random.Random) -> None:
    data = bytearray(gzip.compress(LOGS["a.csv"].encode()))
    for _ in range(source.randint(1, 3)):
        at = source.randrange(len(data))
        data[at] = source.randrange(256)
    del data[source.choice([len(data), source.randrange(len(data))]) :]
    (tmp_path / "a.csv.gz").write_bytes(data)
    read(tmp_path / "a.csv.gz")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("events")
    write_events(folder, range(N))
    return next(folder.iterdir()).read_bytes()


@mutations
@given(source=st.randoms(use_true_random=False))
def test_event_files(tmp_path: Path, events: bytes, source: random.Random) -> None:
    data = bytearray(events)
    for _ in range(source.randint(1, 4)):
        at, end = sorted(source.randrange(len(data) + 1) for _ in range(2))
        match source.randrange(4):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[:end]
            case 2 if at < len(data):
                data[at] = source.randrange(256)
            case _:
                data[end:] = b""
    (tmp_path / "a.tfevents").write_bytes(data)
    read(tmp_path / "a.tfevents")


@mutations
@given(source=st.randoms(use_true_random=False), dvclive=st.booleans())
def test_folders_of_metrics(tmp_path: Path, source: random.Random, dvclive: bool) -> None:
    shutil.rmtree(tmp_path / "metrics", ignore_errors=True)
    (tmp_path / "metrics").mkdir()
    text = LOGS["train_loss"]
    if dvclive:
        text = "step\tloss\n" + "".join(f"{i}\t{loss_at(i)}\n" for i in range(N))
    for name in ("loss", "lr"):
        path = tmp_path / "metrics" / (f"{name}.tsv" if dvclive else name)
        path.write_text(mutated(text, source))
    read(tmp_path)


@pytest.mark.parametrize("name", LOGS)
def test_unmutated_logs_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LOGS[name])
    assert read_log(tmp_path / name).history.n_observed >= N - 1


@settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=300), name=st.sampled_from(sorted([*LOGS, "a.tfevents", "x"])))
@example(data=b"0\xc2", name="a.csv")
def test_any_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    read(tmp_path / name)


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["loss", "step", "epoch", "lr", "log_history", "mode", "1", ""]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(value=_json, lines=st.integers(1, 3), name=st.sampled_from(["trainer_state.json", "a.json"]))
def test_any_json(tmp_path: Path, value: Any, lines: int, name: str) -> None:
    (tmp_path / name).write_text("\n".join([json.dumps(value)] * lines))
    read(tmp_path / name)
