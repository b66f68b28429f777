"""`phrases`: the named numbers in a line of text, as in `step 100/2000 | train loss: 2.31`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_likely_loss, is_loss, is_rate, metric_of
from lossforecast.readers.columns import words as separated

__all__ = ["Phrase", "is_message", "phrases", "without_colours", "without_times"]

_MAX_WORDS = 3  # of a name
_MAX_MESSAGE = 4000  # characters by which a line is taken for a message
_MAX_CACHED = 1024  # texts between numbers whose meaning is remembered: they repeat in every line

_TIME = re.compile(
    r"\d{4}[-/]\d\d?[-/]\d\d?"  # a date, a time and, in containers, the stream
    r"(?:[T_ ]\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[-+]\d\d:\d\d)?(?: std(?:out|err) [FP] )?)?"
    r"|\d\d?/\d\d?(?=\s+\d\d:\d\d:\d\d)"  # a day without a year
    r"|\d{1,4}:\d\d:\d\d(?:[.,]\d+)?|(?<![\d:])\d\d?:\d\d(?![\d:])"
)
_COLOUR = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_COMMAS = (
    r"[1-9]\d{,2}(?:,\d{3})+(?![\d,.])|[1-9]\d{,2}(?:,\d{3})+\.\d+"
    r"|(?<![\[(,])\d+,\d+(?![\d.\])]|,\S)|"
)
_NUMBERS = r"""
    (?<![\w.])(?P<number>[-+]?(?:{commas}\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?
    |(?<![\w-])[-+]?(?:nan|NaN|NAN|inf|Inf|INF|Infinity|-inf)(?![\w-]))
    (?P<unit>[A-Za-z%][\w%]*(?:/[A-Za-z]+)?)?
    (?:\s*(?:/|\bof\b)\s*(?P<total>\d[\d,]*)(?![\d\w]|\.\d))?
"""
_NUMBER = re.compile(_NUMBERS.replace("{commas}", ""), re.VERBOSE)
_NUMBER_WITH_COMMA = re.compile(_NUMBERS.replace("{commas}", _COMMAS), re.VERBOSE)
_COMMA = re.compile(r"\d,\d")
_SEPARATORS = " \t:=-'\"[(<>~#"  # between a name and its number
_ENDS_OF_NAMES = re.compile(r"[,;|{}()\[\]:=\"'\t#>]+|\s-+\s|\s{2,}")
_COPULAS = {"is", "was", "at", "of", "no", "no."}
_QUOTED = re.compile(r"(.*['\"])\s+(?:is|was|reached)", re.DOTALL)  # 'val_loss' reached 2.5
_LISTED = re.compile(  # 'loss', 2.5 or 1,loss,2.5 or loss | 2.5 or epoch,1
    r"""(?:.*['"](?P<quoted>{name})['"],|\s*,\s*(?P<between>{name})\s*,"""
    r"|(?:.*[:|]\s*)?(?P<barred>{name})\s*\||(?P<first>[A-Za-z_]\w*),)\s*".replace(
        "{name}", r"[A-Za-z_][\w /.-]*?"
    )
)
_MAX_LISTED = 60  # characters
_OF_LOSSES = re.compile(r".*\bloss(?:es)?['\"]?[\s,:=]*\{\s*u?['\"](\w+)['\"]\s*:", re.IGNORECASE)
"""Before the first number of a dict of losses, as in `Losses {'ner': 2.5}` of spaCy."""
_LEVELS = {"debug", "info", "warning"}  # before a message
_INDEX = re.compile(r"_(?:i|idx|index|num|no|number|id)$")  # step_i
_COUNT_OF = re.compile(r"(\w+)/(?:total|max|num|\w*(?:steps|iters|epochs|batches))")
_PAIR = re.compile(r"\s*,\s*(\d+)\s*[],]")  # "step": [3, 100] of an epoch and a step
_BOTH = re.compile(r"(train(?:ing)?)/(val(?:id(?:ation)?)?|test|eval|dev)(?=$|_)")
_FILLERS = {"training", "train", "global", "current", "starting", "start", "end", "at", "on", "in"}
_FILLERS |= {
    "after",
    "finished",
    "completed",
    "of",
    "the",
    "optimizer",
    "info",
    "debug",
    "-",
    "total",
    "current",
    "avg",
    "and",
}
_COUNTERS = {
    "step": "step",
    "steps": "step",
    "global_step": "global_step",
    "optimizer_step": "global_step",
    "train_step": "step",
    "epoch_step": "step",
    "it": "iter",
    "iter": "iter",
    "iters": "iter",
    "iteration": "iter",
    "iterations": "iter",
    "batch": "batch",
    "minibatch": "batch",
    "mini-batch": "batch",
    "epoch": "epoch",
    "epochs": "epoch",
    "ep": "epoch",
    "round": "round",
    "up": "update",
    "num_updates": "num_updates",
    "update": "update",
    "updates": "update",
}
_UNITS = {"epoch": "epoch", "batch": "batch", "iter": "iter", "step": "step", "it": ""}
"""Units of numbers that count, as in `3epoch:train:51-100batch` of ESPnet or `100it` of tqdm."""
_SPLIT_WORD = re.compile(
    r"(?<![\w./-])(?:(?P<train>train|training|train_inner)"
    r"|val|valid|validation|validating|eval|evaluation|evaluating|test|testing|dev|cv|crossval"
    r"|saving dict)"
    r"(?![\w./-]|\s+(?:steps|batches|samples|examples|size)\b)",
    re.IGNORECASE,
)
_TOTALS = re.compile(r"(total|max|num)_([a-z]+_)?(steps|iters|iterations|epochs)")
"""Names of a length, such as `Total optimization steps = 1,000`."""
_WRAPPER = re.compile(r"(?<=[:=])\s*(?:[A-Za-z_][\w.]*\()+(?=[-+]?(?:\.?\d|nan|inf))|tensor\(")
_CALL = re.compile(r"\w ?\(")
_UNIT_OF_NAME = re.compile(
    r"(?<=\w)\((?:1e-?\d+|[A-Za-z]{1,2})\)(?=\s*[:=])|(?<=lr|LR) \([^()]*\)(?=\s*[:=])"
)  # lr(1e-3): 0.5, or LR (group 0)=0.1
_NAME_BEHIND = re.compile(
    r"\s+([A-Za-z][A-Za-z _]{2,30}?)\s*(?=[,;|]|$)"
)  # 2.5 avg loss, 0.1 rate,
_VALUE_BEHIND = re.compile(r":?\s+[-+]?\d+\.\d+(?![\w.])")  # train loss 100 2.5
_ABBREVIATIONS = {"trl": "train_loss", "tel": "val_loss"}  # of llm.c
_INDICES = {"i", "idx", "index", "n"}  # of a batch, before a number and its total
_BEFORE_LOSS = re.compile(r"[:,]\s*\w*loss\b", re.IGNORECASE)  # Train 100: loss: 2.5
_EPOCH_BEHIND = re.compile(r"\s+epoch\b", re.IGNORECASE)  # 10/500 in 3 epoch
_PLACES = {"at", "after", "in", "on"}
_BATCH = re.compile(r"\]?\s*(?:\([^()]*\)\s*)?\[\s*\d+\s*/\s*\d")
_SUMMARY = re.compile(r"\|\s*train\s*\|\s*(?:epoch|\{)|\bepoch results\b")
"""Before the means over an epoch of fairseq and ESPnet."""


@dataclass(frozen=True)
class Phrase:
    """A number in a line of text.

    Attributes:
        name: its name in lower case, its words joined by underscores; "" if it has none.
        value: the number as it is written.
        total: the number after a slash, if there is one.
        counts: True if the name is that of a counter.
    """

    name: str
    value: str
    total: str | None = None
    counts: bool = False


def without_colours(line: str) -> str:
    """A line without the commands to a terminal that colour it."""
    return _COLOUR.sub("", line) if "\x1b" in line else line


def without_times(line: str) -> str:
    """A line without dates and times."""
    return _TIME.sub(" ", line)


def phrases(line: str) -> Iterator[Phrase]:
    """The named numbers in a line of text.

    A number without a name, but with a total, counts, as in `epoch 3: 100/2000`.
    """
    if "\x1b" in line:
        line = without_colours(line)
    line = _TIME.sub(" ", line)
    if "(" in line and _CALL.search(line):
        line = _UNIT_OF_NAME.sub("", _WRAPPER.sub(" ", line))
    end, pending, of_bar, before = 0, "", "", ""
    pattern = _NUMBER_WITH_COMMA if "," in line and _COMMA.search(line) else _NUMBER
    for match in pattern.finditer(line):
        number, unit, total = match.group("number", "unit", "total")
        gap = line[end : match.start()]
        name, counter, of_loss = _meaning(gap)
        end = match.end()
        if total is not None and name in _INDICES:
            name = ""
        if of_bar and total is not None and not name:
            counter, of_bar = of_bar, ""
        if counter is not None and of_loss:  # loss after epoch 3: 2.1
            pending = name
        elif not name and pending and total is None:
            name, pending = pending, ""
        if "," in number:
            number = _plain_number(number)
        if unit in _UNITS and number_in(number) is not None:
            yield Phrase(_UNITS[unit], number, counts=True)
            continue
        if gap == " in " and unit is None and _EPOCH_BEHIND.match(line, end):
            counter = "epoch"
        if name[-5:] in ("train", "ining"):
            if _BATCH.match(line, end):  # Train: 3 [100/2000]
                counter = "epoch"
            elif _BEFORE_LOSS.match(line, end):
                counter = "step"
        if counter is not None:
            total = total or _next_total(line, end)
            plural = name.endswith("epochs") and total is None
            if unit == "%" and counter == "epoch":  # epoch: 25%|##  | 1/4
                of_bar = counter
            elif counter == "step" and (pair := _PAIR.match(line, end)) and "[" in gap:
                yield Phrase("epoch", number, counts=True)
                number, end = pair[1], pair.end()
            value = number_in(number)
            whole = value is not None and (value % 1 == 0 or counter == "epoch")
            if whole and unit is None and not plural:
                before = counter
                yield Phrase(counter, number, _plain(total), counts=True)
        elif not name:
            if total is not None and unit is None:
                yield Phrase("", number, _plain(total), counts=True)
            elif before == "epoch" and gap == "][" and number.isdecimal():  # Epoch: [3][100]
                yield Phrase("batch", number, counts=True)
            elif unit is None and (behind := _NAME_BEHIND.match(line, end)):
                name = "_".join(behind[1].lower().split())
                if is_loss(name) or name in ("rate", "avg"):
                    yield Phrase("learning_rate" if name == "rate" else name, number)
        elif of_loss and number.isdecimal() and _VALUE_BEHIND.match(line, end):
            pending = name
            yield Phrase("step", number, counts=True)
        elif unit is None or unit == "%":
            if of_loss and "/" in name and (both := _BOTH.search(name)):  # train/val loss: 2.5/2.6
                pending = name.replace(both[0], both[2])
                name = name.replace(both[0], both[1])
            yield Phrase(_of_split(name, line[: match.start()]), number)


def is_message(text: str) -> bool:
    """True for a line of a log such as `step 1, loss 2.1`, with a counter and a loss."""
    named = list(phrases(text[:_MAX_MESSAGE]))
    return any(phrase.counts for phrase in named) and any(is_loss(phrase.name) for phrase in named)


def _plain_number(text: str) -> str:
    """A number without commas between thousands, and with a decimal point."""
    whole, comma, rest = text.partition(",")
    is_decimal = len(rest) != 3 or whole.strip("+-") == "0"
    if comma and is_decimal and "," not in rest and "." not in rest:
        return f"{whole}.{rest}"
    return text.replace(",", "")


def _plain(total: str | None) -> str | None:
    return None if total is None else total.replace(",", "")


def _next_total(line: str, end: int) -> str | None:
    """The total after a bracket or a bar, as in `iteration [100]/[5000]` or `epoch [3 | 60]`."""
    match = re.match(r"\]\s*/\s*\[?(\d+)|\s*\|\s*(\d+)\s*\]", line[end : end + 20])
    return match[1] or match[2] if match else None


def _name(gap: str) -> tuple[str, ...]:
    """The words of the name of a number, from the text before it."""
    listed = _LISTED.fullmatch(gap) if len(gap) < _MAX_LISTED else None
    if listed is not None and _is_told(name := listed[listed.lastgroup or 0]):
        gap = name
    if "{" in gap and (dict_of := _OF_LOSSES.match(gap)):
        return "loss", dict_of[1].lower()
    gap = re.sub(r"\(\w+\)|<\w+>|'s(?= )", "", gap).rstrip(_SEPARATORS)  # Epoch(train) [1]
    if quoted := _QUOTED.fullmatch(gap):
        gap = quoted[1].rstrip(_SEPARATORS)
    words = _ENDS_OF_NAMES.split(gap)[-1].split()
    n_words = len(words)
    while words and words[-1].lower() in _COPULAS:
        words.pop()
    words = _before_on(words, is_told=len(words) < n_words)
    placed = len(words) > 1 and words[-2] in _PLACES and words[-1].lower() in _COUNTERS
    words = words[-_MAX_WORDS - 2 * placed :]  # mean training loss after epoch
    if words and words[-1].lower() in _LEVELS:
        return ()
    start = next(
        (
            i
            for i in range(len(words), 0, -1)
            if not words[i - 1][0].isalpha() and words[i - 1][0] != "_"
        ),
        0,
    )
    return tuple(separated(word.strip(".*!")) for word in words[start:] if word.strip(".*!"))


def _is_told(name: str) -> bool:
    """True for a name that numbers are read by, alone or as the last word."""
    return is_loss(name) or is_rate(name) or name.lower().split()[-1] in _COUNTERS


def _before_on(words: list[str], is_told: bool) -> list[str]:
    """The words of a loss without its data, unless these are a split: `loss on training batch is`.

    In `loss on training batch 5: 2.3` the number is that of the batch; a verb before it tells that
    it is not.
    """
    place = words.index("on") if "on" in words else 0
    if not place or not is_loss(words[place - 1]):
        return words
    if words[-1].lower() in _COUNTERS and not is_told:
        return [*words[:place], "on", words[-1]]
    return words[:place] + [word for word in words[place:] if _SPLIT_WORD.fullmatch(word)]


@lru_cache(_MAX_CACHED)
def _meaning(gap: str) -> tuple[str, str | None, bool]:
    """The name of a number by the text before it, its counter if it counts, True for a loss.

    In `loss after epoch 3: 2.1` the counter is that of the first number, and the name the loss of
    the next one.
    """
    words = _name(gap)
    name = "_".join(words)
    if not words or _TOTALS.fullmatch(name):
        return name, None, False
    before = tuple(word for word in words[:-2] if word not in _LEVELS)
    if words[-1] in _COUNTERS and any(map(is_loss, words)):
        of_loss = max(i for i, word in enumerate(words) if is_loss(word))
        words_of_loss = (word for word in words[: of_loss + 1] if word not in _LEVELS)
        return "_".join(words_of_loss), _COUNTERS[words[-1]], True
    words = words[-_MAX_WORDS:]
    if words[-1] in _COUNTERS and before and words[-2] in _PLACES:  # error after epoch
        of_value = "_".join(words if before == ("score",) else before)
        if is_likely_loss(of_value):
            return of_value, _COUNTERS[words[-1]], True
    counter = None
    fillers = words[:-2] if "_".join(words[-2:]) in _COUNTERS else words[:-1]
    if all(word in _FILLERS for word in fillers):  # training step
        last = _INDEX.sub("", words[-1])
        last = count[1] if (count := _COUNT_OF.fullmatch(last)) else last
        counter = _COUNTERS.get("_".join(words[-2:])) or _COUNTERS.get(last)
    return _ABBREVIATIONS.get(name, name), counter, counter is None and is_loss(name)


def _of_split(name: str, before: str) -> str:
    """The name of a value; of a loss after a word such as "validation" with that in its name."""
    if not is_loss(name) or metric_of(name) == "val":
        return name
    if _SUMMARY.search(before):
        return f"train_epoch_{name}"
    split = None
    for match in _SPLIT_WORD.finditer(before):
        split = match
    return f"val_{name}" if split is not None and split["train"] is None else name
