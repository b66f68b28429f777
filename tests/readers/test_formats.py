"""The interface of a log format: a new one is one class in one list."""

from pathlib import Path

import pytest

from lossforecast import ConfigurationError
from lossforecast.readers import FORMATS, find, read_log
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted


class ConsoleLog(LogFormat):
    """Lines such as `iter 10: loss 2.5`."""

    description = "console log"
    file_names = ("console.txt",)

    def matches(self, start: FileStart) -> bool:
        return start.first_line.startswith("iter ")

    def open(self, path: Path, step_column: str | None) -> Source:
        return Source(path, "console log", self._points)

    def _points(self, source: Source, wanted: Wanted) -> Points:
        for line in source.path.read_text().splitlines():
            step, loss = line.removeprefix("iter ").split(": loss ")
            source.columns["loss"] = int(step)
            if wanted("loss"):
                yield "loss", int(step), float(loss)


def test_a_new_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "console.txt"
    path.parent.mkdir()
    path.write_text("iter 0: loss 4.0\niter 10: loss 2.5\n")
    with pytest.raises(ConfigurationError, match=r"in no known format.*'iter 0: loss 4\.0"):
        read_log(path)
    monkeypatch.setattr(find, "FORMATS", (ConsoleLog(), *FORMATS))
    for place in (path, path.parent):
        log = read_log(place)
        assert (log.path, log.format, log.column) == (path, "console log", "loss")
        assert log.history.bins().mean.tolist() == [4.0, 2.5]
    with pytest.raises(ConfigurationError, match="there are logs below, name one: run/console"):
        read_log(tmp_path)
    (tmp_path / "other.txt").write_text("nothing known\n")
    with pytest.raises(ConfigurationError, match="Known formats: console log, TensorBoard"):
        read_log(tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "step,loss\n", "Table"),
        ("a.tsv", "step\tloss", "Table"),
        ("a.csv", "1,2\n", None),
        ("a.csv", "x" * 200_000 + ",y\n", None),
        ("a.jsonl", '{"step": 1}\n', "JsonLines"),
        ("trainer_state.json", '{"step": 1}\n', "TrainerState"),
        ("a.json", '{\n"log_history": []}', "TrainerState"),
        ("events.out.tfevents.1", "step,loss\n", "TensorBoardEvents"),
        ("no-name", "\x18\0brain.Event:2", "TensorBoardEvents"),
    ],
)
def test_each_format_is_recognised_by_its_start(name: str, text: str, expected: str | None) -> None:
    start = FileStart(Path(name), text.encode())
    matching = [type(each).__name__ for each in FORMATS if each.matches(start)]
    assert (matching[0] if matching else None) == expected


def test_descriptions_are_unique() -> None:
    descriptions = [each.description for each in FORMATS]
    assert len(set(descriptions)) == len(descriptions)
