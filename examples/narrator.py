"""Prints forecasts while a model is trained, and compares them with the outcome."""

from lossforecast.callbacks.monitor import Update

__all__ = ["FRACTIONS", "Narrator", "report"]

FRACTIONS = (0.25, 0.5, 0.75)
"""Fractions of the run after which forecasts are compared with its outcome."""


class Narrator:
    """A sink that prints a line every tenth of the run and keeps every forecast."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.trail: list[Update] = []

    def __call__(self, update: Update) -> None:
        """Receive a new forecast."""
        before = self.trail[-1].step if self.trail else 0
        self.trail.append(update)
        if 10 * update.step // self.steps > 10 * before // self.steps:
            low, high = update.forecast.interval(0.8)
            print(
                f"{self.label(update.step)} heading for {update.forecast.median:.3f} "
                f"(80%: {low:.3f} to {high:.3f}), {update.forecast.status.value.replace('_', ' ')}",
                flush=True,
            )

    def label(self, step: int) -> str:
        """Return the beginning of a line."""
        return f"step {step}:"


def report(narrator: Narrator, actual: float) -> None:
    """Print the outcome and the forecasts made at some fractions of the run."""
    print(f"\nthe loss in the end: {actual:.4f}")
    print("made at   forecast   80% interval      error")
    for fraction in FRACTIONS:
        due = round(fraction * narrator.steps)
        if narrator.trail[0].step > due:
            continue  # before this run was resumed
        forecast = next(update.forecast for update in narrator.trail if update.step >= due)
        low, high = forecast.interval(0.8)
        print(
            f"{fraction:>7.0%}   {forecast.median:>8.4f}   {low:.4f}..{high:.4f}   "
            f"{forecast.median / actual - 1:+.2%}"
        )
