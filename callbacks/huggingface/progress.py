"""Shows the forecast in the progress bar of the Hugging Face ``Trainer``."""

from typing import Any

from lossforecast.signals import contained

__all__ = ["show_in_bar"]


def show_in_bar(total_steps: int, text: str) -> None:
    """Append a text to the progress bar of training, which the Trainer does not pass to callbacks.

    It is the bar of tqdm that has the length of the run and no description.
    """
    with contained():
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        bars: Any = getattr(tqdm, "_instances", ())
        for bar in list(bars):
            if bar.total == total_steps and not bar.disable and not bar.desc:
                bar.set_postfix_str(text, refresh=False)
