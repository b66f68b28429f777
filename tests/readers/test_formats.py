"""The interface of a log format: a new one is one class in one list."""

from pathlib import Path

import pytest

from lossforecast import ConfigurationError
from lossforecast.readers import FORMATS, find, read_log
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted


class ConsoleLog(LogFormat):
    """Lines such as `after 10 -> 2.5`."""

    description = "console log"
    file_names = ("console.txt",)

    def matches(self, start: FileStart) -> bool:
        return start.first_line.startswith("after ")

    def open(self, path: Path, step_column: str | None) -> Source:
        return Source(path, "console log", self._points)

    def _points(self, source: Source, wanted: Wanted) -> Points:
        for line in source.path.read_text().splitlines():
            step, loss = line.removeprefix("after ").split(" -> ")
            source.columns["loss"] = int(step)
            if wanted("loss"):
                yield "loss", int(step), float(loss)


def test_a_new_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "console.txt"
    path.parent.mkdir()
    path.write_text("after 0 -> 4.0\nafter 10 -> 2.5\n")
    with pytest.raises(ConfigurationError, match=r"is text, not a table.*'after 0 -> 4\.0"):
        read_log(path)
    monkeypatch.setattr(find, "FORMATS", (ConsoleLog(), *FORMATS))
    for place in (path, path.parent):
        log = read_log(place)
        assert (log.path, log.format, log.column) == (path, "console log", "loss")
        assert log.history.bins().mean.tolist() == [4.0, 2.5]
    with pytest.raises(ConfigurationError, match="there are logs below, name one: run/console"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "step,loss\n", "Table"),
        ("a.tsv", "step\tloss", "Table"),
        ("a.csv", "1,2\n", "NumberTable"),
        ("a.csv", "1,2,3,4\n", "TextLog"),
        ("a.txt", "2.5\n2.4\n", "NumberTable"),
        ("a.csv", "loss\n2.5\n", "Table"),
        ("a.csv", "# lr: 0.1\nsep=;\nstep;loss\n", "Table"),
        ("a.json", "[2.5, 2.4, 2.3, 2.2]", "JsonDocument"),
        ("a.log", "[1, 2000] loss: 2.2", "TextLog"),
        ("a.log", "epoch  loss\n1      2.3\n", "TextLog"),
        ("a.csv", "metricName,metricValue,step\n", "LongTable"),
        ("a.csv", "x" * 200_000 + ",y\n", "TextLog"),
        ("a.log", "step,loss\n1,2\n", "Table"),
        ("a.log", "loading data, please wait\nstep 1, loss 2\n", "TextLog"),
        ("a.csv", "Step [1/20], Loss: 2.5\n", "TextLog"),
        ("a.csv", "mAP 50,mAP 75,loss,fold 1\n1,2,3,4\n", "Table"),
        ("a.jsonl", '{"step": 1}\n', "JsonLines"),
        ("a.jsonl", '{"losses": [1, 2]}\n{"losses": [1, 2]}\n', "JsonLines"),
        ("a.json", '{"loss": [2, 1]}', "JsonDocument"),
        ("a.json", '{\n "loss": [\n2, 1]}', "JsonDocument"),
        ("a.json", '[{"epoch": 1, "loss": 2}]', "JsonDocument"),
        ("a.json", '{"max_steps": 9, "log_history": []}', "TrainerState"),
        ("trainer_state.json", '{"step": 1}\n', "TrainerState"),
        ("a.json", '{\n"log_history": []}', "TrainerState"),
        ("events.out.tfevents.1", "step,loss\n", "TensorBoardEvents"),
        ("no-name", "\x18\0brain.Event:2", "TensorBoardEvents"),
    ],
)
def test_each_format_is_recognised_by_its_start(name: str, text: str, expected: str) -> None:
    start = FileStart(Path(name), text.encode())
    matching = [type(each).__name__ for each in FORMATS if each.matches(start)]
    assert matching[0] == expected


def test_descriptions_are_unique() -> None:
    descriptions = [each.description for each in FORMATS]
    assert len(set(descriptions)) == len(descriptions)
