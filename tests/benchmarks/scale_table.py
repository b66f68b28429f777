"""`Figure`: what was measured at a scale, what is aimed at, and a table of both."""

from dataclasses import dataclass

__all__ = ["Figure", "table"]


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        what: what was measured, at which scale.
        value: the figure.
        unit: its unit.
        aim: the largest value that is aimed at; None without an aim.
        computed: whether it was computed from others that were measured.
    """

    what: str
    value: float
    unit: str
    aim: float | None = None
    computed: bool = False

    @property
    def verdict(self) -> str:
        """Whether the aim is met, in a word; empty without an aim."""
        if self.aim is None:
            return ""
        return "met" if self.value < self.aim else "missed"


def table(figures: list[Figure]) -> str:
    """Return a Markdown table."""
    lines = ["| figure | value | aim: below | |", "|---|---:|---:|---|"]
    for figure in figures:
        value = _number(figure.value) + (f" {figure.unit}" if figure.unit else "")
        aim = "" if figure.aim is None else f"{_number(figure.aim)} {figure.unit}".strip()
        what = figure.what + (" (computed)" if figure.computed else "")
        lines.append(f"| {what} | {value} | {aim} | {figure.verdict} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
