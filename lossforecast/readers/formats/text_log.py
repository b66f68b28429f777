"""Text logs: any lines that hold a counter, a loss and perhaps a learning rate with numbers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from lossforecast.errors import NothingLoggedError
from lossforecast.readers.columns import is_loss, is_rate, metric_of
from lossforecast.readers.counters import TOTAL
from lossforecast.readers.epoch_bars import EpochBars
from lossforecast.readers.phrases import phrases, without_times
from lossforecast.readers.printed_tables import BAR_COUNT, PrintedTables
from lossforecast.readers.repeats import EPOCH, Repeats
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text_lines import log_lines, text_of

__all__ = ["TextLog", "source_of_lines"]

_KEYWORD = re.compile(
    r"loss|nll|xent|entropy|cost|mse|mae|mape|epoch|step|iter|lr|l\.r|learn|trl|\d\s*/\s*\d",
    re.IGNORECASE,
)
_REPORT = re.compile(r"(?:\s|\x1b\[\w*)*\{.*'epoch'.*\}\s*$")  # of the Trainer of Hugging Face
_MIN_UNCOUNTED_LINES = 3  # with a loss, in a log without steps and epochs
_STEPS = {"step", "global_step", "num_updates"}
_ROUND = {"round", "round" + TOTAL}
_REPLACED = {"", TOTAL, "iter", "iter" + TOTAL, *_ROUND}
_OF_STEP = {"step", "step" + TOTAL}
_RULES = ("-", "┏", "╭")  # at the beginning of a table
_LEADING = re.compile(
    r"(?:^|\]\s+)\[\s*(?P<first>\d+)\s*(?:,\s*(?P<second>\d+)\s*)?(?:\|[^\]]*)?\]"
    r"|^\s*(?P<only>\d+)(?:\s*[:|]\s|\s+(?=(?i:\w*loss)\b))|^s:(?P<s>\d+)\s"
    r"|^\s*(?:[@#(<]\s*(?P<marked>\d+)(?![\d.,%])"
    r"|(?:(?i:after|at)\s+)?(?P<of>\d+)(?:st|nd|rd|th)?\s+(?:training\s+|train\s+|global\s+)?"
    r"(?:step|iteration|iter|batch|(?P<epoch>epoch))(?:e?s|\(s\))?\s*[:,;])"
)  # of a line: an epoch and a step, or a step alone
_PAIR = re.compile(r"\s*\[(\d+)(?:/(\d+)\]\s*\[|:)\s*(\d+)/(\d+)\]")
_UNNAMED = {"", TOTAL}
_MAX_HEADING = 40  # characters
_HEADING = re.compile(
    r"\W*(?:(?P<train>train|training)|val|valid|validation|eval|evaluation|test|testing)"
    r"(?: (?:set|phase|results?|metrics|error|stats|loop))?\W*",
    re.IGNORECASE,
)
"""A line of its own above the losses of training or of validation."""
_LENGTH = re.compile(r"(?:total|max|num)_\w*?(?P<unit>steps|iters|iterations|epochs)")

_LOOKED_FOR = (
    "lines with a step, iteration or epoch, a loss and their numbers, such as 'step 100: loss 2.3' "
    "or 'Epoch [1/3], Step [100/2000], Loss: 2.3'"
)


class TextLog(LogFormat):
    """Lines of text, some of which hold named numbers; the others are skipped."""

    description = "text with a step and a loss in its lines"
    is_strict = False

    def matches(self, start: FileStart) -> bool:
        """True for any text: this format is the last to be tried."""
        return True

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open the file; its columns become known only while it is read."""
        return source_of_lines(path, "text log", None, step_column)


def source_of_lines(
    path: Path, format_name: str, lines: Sequence[str] | None, step_column: str | None
) -> Source:
    """A log of lines of text: those of a file, unless they are given."""
    source = Source(path, format_name, partial(_points, step_column=step_column))
    source.lines = lines
    return source


@dataclass(frozen=True)
class _Reading:
    """The numbers of a log that are read.

    Attributes:
        counted_only: True if a line needs a step or an epoch, its own or that of a line above.
        any_value: True if every named number is read, as there is no loss.
        asked: names that are read beside losses and rates.
    """

    counted_only: bool = True
    any_value: bool = False
    asked: frozenset[str] = frozenset()

    @property
    def any_name(self) -> bool:
        """True if values are read whose names are not those of losses and rates."""
        return self.any_value or any(not is_loss(n) and not is_rate(n) for n in self.asked)

    def reads_loss(self, name: str) -> bool:
        """True if a value is a loss, or is read as one."""
        return is_loss(name) or self.any_value or name in self.asked

    def has_enough(self, source: Source) -> bool:
        """True if a log has lines that can be read so."""
        rows = (row for _, row in _with_bars(_rows(source, self)) if any(map(self.reads_loss, row)))
        least = 1 if self.counted_only and not self.any_value else _MIN_UNCOUNTED_LINES
        return len(list(islice(rows, least))) == least


def _points(source: Source, wanted: Wanted, *, step_column: str | None) -> Points:
    """The points of the lines.

    Raises:
        NothingLoggedError: no line holds a counter and a loss (yet).
    """
    asked = source.asked
    readings = [_Reading(asked=asked), _Reading(counted_only=False, asked=asked)]
    readings += [_Reading(any_value=True, asked=asked)]
    reading = next((each for each in readings if each.has_enough(source)), None)
    if reading is None:
        raise NothingLoggedError(
            f"{source.path} is text, not a table, and has no {_LOOKED_FOR}; it begins with "
            f"{_first_line(source)!r}"
        )

    def all_rows(_: Source) -> Rows:
        return _with_bars(_rows(source, reading))

    yield from points_of_rows(source, wanted, rows=all_rows, step_column=step_column, carry=True)


def _first_line(source: Source) -> str:
    return next((line.strip() for line in text_of(source) if line.strip()), "")[:60]


def _lines(source: Source, reading: _Reading, tables: PrintedTables) -> Iterator[tuple[str, str]]:
    all_lines = reading.any_name
    for where, line in log_lines(source):
        if (
            all_lines
            or tables.is_open
            or line.startswith(_RULES)
            or _KEYWORD.search(line)
            or (len(line) < _MAX_HEADING and _HEADING.fullmatch(line))
        ):
            yield where, line


@dataclass(frozen=True)
class _Line:
    """The numbers in a line.

    Attributes:
        where: its place for error messages.
        row: its numbers; empty if there is neither a loss nor a rate.
        bar: the numbers of its progress bar, such as 10/1000.
        is_report: True for a printed dict of the Trainer, whose step only the bar shows.
    """

    where: str
    row: dict[str, str]
    bar: tuple[int, int] | None
    is_report: bool


def _rows(source: Source, reading: _Reading) -> Iterator[_Line]:
    """The lines that hold a loss or a rate, and those with nothing but a progress bar.

    A line without a step or an epoch has that of a line above, such as `[step=100]`. Lines before
    the first of these are left out, unless a log has none.
    """
    epoch: dict[str, str] = {}
    header: dict[str, str] = {}  # the step in a line above
    any_counter, any_step = not reading.counted_only, False
    length = ""  # the total of the iterations of training
    lengths: dict[str, str] = {}  # of the run
    of_validation_below = False  # a line above heads the losses of validation
    tables = PrintedTables(reading.any_name)
    repeats, bars = Repeats(), EpochBars()
    for where, line in _lines(source, reading, tables):
        if (cells := tables.row(line)) is not None:
            if cells:
                yield _Line(where, lengths | cells, None, False)
            continue
        values, counted = _numbers(line)
        if counted:
            of_validation_below = False
        elif not values and (heading := _HEADING.fullmatch(line)):
            of_validation_below = heading["train"] is None
        elif of_validation_below:
            values = {_of_validation(name): value for name, value in values.items()}
        losses = [name for name in values if reading.reads_loss(name) and not is_rate(name)]
        of_validation = bool(losses) and all(metric_of(name) == "val" for name in losses)
        if losses and not (set(counted) - _UNNAMED or header):
            leading = _leading(line)
            if bars.is_number_of_epoch(leading):
                continue
            if leading.get("step", "") != counted.get(""):  # (21/62) loss: 2.5
                counted = leading or counted
        if losses and TOTAL in counted:
            counted = bars.with_epoch(epoch | _epoch_in(counted), counted)
            if bars.is_of_validation:
                values = {_of_validation(name): value for name, value in values.items()}
                losses = [_of_validation(name) for name in losses]
                of_validation = True
        unnamed = "" in counted
        total = counted.get("iter" + TOTAL, length)
        if losses and not of_validation:
            length = total
        elif length and total != length:  # a number of batches of validation
            counted = {name: counted[name] for name in counted if not name.startswith("iter")}
        counted = _with_step(counted, of_validation)
        match = BAR_COUNT.search(line)
        bar = (int(match[1]), int(match[2])) if match else None
        if not losses:
            lengths |= _lengths_in(values)
        if not losses and not any(map(is_rate, values)):
            epoch = epoch | _epoch_in(counted)
            if bar is not None:
                yield _Line(where, {}, bar, False)
            else:
                header = counted if _heads(counted) and not unnamed else header
            repeats.heed(line)
        elif _REPORT.match(line):
            source.losses_are_means = True
            yield _Line(where, {**counted, **values}, None, not _STEPS & set(counted))
        else:
            own = bool(counted)
            place = epoch | _epoch_in(counted)
            if of_validation and repeats.is_behind({**place, **counted}):
                counted = _epoch_in(counted)  # the number is that of a batch of validation
            if set(counted) - set(place):
                any_step |= bool(losses)
            elif counted and any_step and not header:
                values = {_of_epoch(name): value for name, value in values.items()}
            counted = counted if _STEPS & set(counted) else header | counted
            values = repeats.without(line, values, {**place, **counted}, own or bool(header))
            if not values:
                continue
            epoch, header = place, {} if own and _STEPS & set(counted) else header
            any_counter = any_counter or bool(epoch or counted)
            if any_counter:
                yield _Line(where, {**lengths, **epoch, **counted, **values}, bar, False)
    if bars.counts_epochs:
        source.notes.append(
            "progress bars that begin anew are taken for epochs: nothing names these"
        )


def _lengths_in(values: Mapping[str, str]) -> dict[str, str]:
    """The lengths of the run in a line, such as `Total optimization steps = 1,000`."""
    matches = ((_LENGTH.fullmatch(name), value) for name, value in values.items())
    return {
        f"total_{'epochs' if match['unit'] == 'epochs' else 'steps'}": value
        for match, value in matches
        if match is not None
    }


def _numbers(line: str) -> tuple[dict[str, str], dict[str, str]]:
    """The values and the counters in a line, by their names."""
    values: dict[str, str] = {}
    counted: dict[str, str] = {}
    for phrase in phrases(line):
        if not phrase.counts:
            values.setdefault(phrase.name, phrase.value)
        elif phrase.name not in counted:
            counted[phrase.name] = phrase.value
            if phrase.total is not None:
                counted[phrase.name + TOTAL] = phrase.total
    if "" in counted and "epoch" not in counted:  # [3/60] batch 100/5000
        names = list(counted)
        if "batch" + TOTAL in names[names.index("") :]:
            counted["epoch"], counted["epoch" + TOTAL] = counted.pop(""), counted.pop(TOTAL)
    if not counted and any(map(is_loss, values)):  # total steps: 100, loss: 2.3
        for name, value in _lengths_in(values).items():
            counted["epoch" if name == "total_epochs" else "step"] = value
    return values, counted


def _leading(line: str) -> dict[str, str]:
    """The counters without names at the beginning of a line.

    As in `[2, 4000] loss: 1.9`, or `[2/25][40/100] Loss_D: 0.9` of an epoch and a batch.
    """
    if line[:1].isdecimal():
        line = without_times(line)
    if (pair := _PAIR.match(line)) is not None:
        names = ("epoch", "epoch" + TOTAL, "step", "step" + TOTAL)
        return {n: number for n, number in zip(names, pair.groups(), strict=True) if number}
    match = _LEADING.search(line)
    if match is None:
        return {}
    named = ("only", "s", "marked", "of", "second", "first")
    step = next(number for number in map(match.__getitem__, named) if number)
    if match["epoch"]:
        return {"epoch": step}
    return {"step": step} | ({"epoch": match["first"]} if match["second"] else {})


def _heads(counted: Mapping[str, str]) -> bool:
    """True if the counters of a line without values are those of the lines below."""
    return "step" in counted or "batch" + TOTAL in counted


def _of_epoch(name: str) -> str:
    """The name of a loss that is the mean over an epoch, beside those of its steps."""
    return f"epoch_{name}" if is_loss(name) and metric_of(name) == "train" else name


def _of_validation(name: str) -> str:
    """The name of a value below a line such as `Validation`."""
    unnamed = is_loss(name) and metric_of(name) == "train" and "train" not in name
    return f"val_{name}" if unnamed else name


def _with_step(counted: dict[str, str], of_validation: bool) -> dict[str, str]:
    """The counters of a line, an iteration or else a round as its step unless there is another.

    A number without a name is no step in a line of validation: it counts batches of validation.
    """
    if "round" in counted and len(counted.keys() - _ROUND) > 0:
        counted = {name: number for name, number in counted.items() if name not in _ROUND}
    if "global_step" in counted:
        counted = {name: number for name, number in counted.items() if name not in _OF_STEP}
        counted["step"] = counted.pop("global_step")
        if (total := counted.pop("global_step" + TOTAL, None)) is not None:
            counted["step" + TOTAL] = total
    for name in ("iter", "round", "") if not of_validation else ("iter", "round"):
        if name in counted and "step" not in counted:
            counted["step"] = counted[name]
            if name + TOTAL in counted:
                counted["step" + TOTAL] = counted[name + TOTAL]
    return {name: number for name, number in counted.items() if name not in _REPLACED}


def _epoch_in(counted: Mapping[str, str]) -> dict[str, str]:
    return {name: number for name, number in counted.items() if name in EPOCH}


def _with_bars(lines: Iterator[_Line]) -> Rows:
    """The rows; a report of the Trainer gets the step of the bar that follows it.

    Other bars (of an evaluation, of loading data) have another length than the bar of training,
    which is the one after the first report of a training loss.
    """
    report: _Line | None = None
    length, step = 0, {}
    for line in lines:
        if line.bar is not None and not line.row:
            number, total = line.bar
            if report is not None and "loss" in report.row:
                length = length or total
            if total == length:
                step = {"step": str(number), "step" + TOTAL: str(total)}
        if report is not None:
            yield report.where, report.row | step
            report = None
        if line.is_report:
            report = line
        elif line.row:
            yield line.where, line.row
    if report is not None:
        yield report.where, report.row | step
