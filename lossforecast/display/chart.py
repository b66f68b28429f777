"""`Chart`: losses, forecast and learning rate of a run as a small SVG, without any library."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["Chart", "after_start"]

_WIDTH, _HEIGHT = 480, 170  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 20  # margins, pixels
_RATE_SHARE = 0.16  # of the height, at the bottom, which the learning rate takes
_ROOM = 0.25  # above and below the losses, as a share of their range
_START_DIVISOR = 20  # the first 1/20 of the losses are the steep start
_FAN, _RATE = "#2f81c7", "#b07d2b"  # seen on white and on black


@dataclass(frozen=True)
class Chart:
    """A line of losses up to the present step, and a fan from there to the end.

    It takes the text colour of the page around it, so it can be read on light and dark ones.

    Attributes:
        total_steps: length of the run in optimizer steps.
        now: the present step.
        seen: steps and losses observed, (n,) each.
        fan: steps, median, and ends of the 80% and 95% intervals, (m,) each; empty for none.
        rate: steps and learning rates, (k,) each.
    """

    total_steps: int
    now: int
    seen: tuple[IntArray, FloatArray]
    fan: tuple[FloatArray, ...]
    rate: tuple[IntArray, FloatArray]

    def svg(self) -> str:
        """The chart as an ``<svg>`` element."""
        low, high = self._limits()
        floor = _HEIGHT - _BOTTOM
        ground = floor - _RATE_SHARE * (floor - _TOP)  # of the losses

        def line(steps: FloatArray | IntArray, losses: FloatArray) -> list[str]:
            y = ground - (np.asarray(losses, float) - low) / (high - low) * (ground - _TOP)
            return _points(self._x(steps), np.clip(y, _TOP, ground))

        parts = [
            _label(_LEFT - 5, floor, "lr", "end", _RATE),
            _label(_LEFT, _HEIGHT - 6, "0", "start"),
            _label(_WIDTH - _RIGHT, _HEIGHT - 6, f"{self.total_steps:,}", "end"),
            _area(self._rate_outline(floor, ground), _RATE, 0.25),
        ]
        if self.fan or self.seen[0].size:
            parts.append(_label(_LEFT - 5, _TOP + 8, f"{high:.4g}", "end"))
            parts.append(_label(_LEFT - 5, ground, f"{low:.4g}", "end"))
        if self.fan:
            steps, median, lower80, upper80, lower95, upper95 = self.fan
            for lower, upper, opacity in ((lower95, upper95, 0.15), (lower80, upper80, 0.3)):
                outline = [*line(steps, upper), *reversed(line(steps, lower))]
                parts.append(_area(outline, _FAN, opacity))
            parts.append(_line(line(steps, median), _FAN, 2))
        if self.seen[0].size:
            parts.append(_line(line(*self.seen), "currentColor", 1))
        now = f"{self._x(np.array([self.now]))[0]:.1f}"
        parts.append(
            f'<line x1="{now}" x2="{now}" y1="{_TOP}" y2="{floor}" stroke="currentColor" '
            'stroke-opacity=".5" stroke-dasharray="2 3"/>'
        )
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
            'role="img" aria-label="losses, forecast and learning rate" '
            'style="max-width:100%;height:auto;font:11px sans-serif">' + "".join(parts) + "</svg>"
        )

    def _x(self, steps: FloatArray | IntArray) -> FloatArray:
        share = np.asarray(steps, float) / max(self.total_steps, self.now, 1)
        return _LEFT + np.clip(share, 0, 1) * (_WIDTH - _LEFT - _RIGHT)

    def _limits(self) -> tuple[float, float]:
        """Ends of the loss axis: the 80% interval at the end, and losses after the start."""
        losses = np.asarray(self.seen[1], float)
        values = [after_start(losses)]
        if self.fan:
            values += [self.fan[2][-1:], self.fan[3][-1:]]
        finite = np.concatenate(values)
        finite = finite[np.isfinite(finite)]
        if finite.size == 0:
            return 0.0, 1.0
        low, high = float(finite.min()), float(np.quantile(finite, 0.98))
        high = max(high, float(finite[-1]))
        room = _ROOM * (high - low) or 0.05 * abs(high) or 1.0
        return (max(low - room, 0.0) if low >= 0 else low - room), high + room

    def _rate_outline(self, floor: float, ground: float) -> list[str]:
        steps, rates = self.rate
        peak = float(rates.max()) or 1.0
        y = floor - rates / peak * 0.8 * (floor - ground)
        x = self._x(steps)
        return _points(np.concatenate([x[:1], x, x[-1:]]), np.concatenate([[floor], y, [floor]]))


def after_start(losses: FloatArray) -> FloatArray:
    """Losses without their steep start, which should not determine the axis: (n,) to (m,)."""
    return losses[losses.size // _START_DIVISOR :]


def _points(x: FloatArray, y: FloatArray) -> list[str]:
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def _line(points: Sequence[str], colour: str, width: float) -> str:
    joined = " ".join(points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _area(points: Sequence[str], colour: str, opacity: float) -> str:
    joined = " ".join(points)
    return f'<polygon points="{joined}" fill="{colour}" fill-opacity="{opacity}"/>'


def _label(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
