"""Shows the forecast in the progress bar of a Lightning ``Trainer``."""

from typing import Any

from lossforecast.signals import contained

__all__ = ["ForecastInBar"]

_LABEL = "final_loss"
_METHOD = "get_metrics"  # through which every progress bar of Lightning collects what it shows


class ForecastInBar:
    """Replaces ``get_metrics`` of a progress bar by one that adds the latest forecast.

    The entry is text, because it is not a loss of the present step. It is only shown: unlike a
    logged value, it is in no result of the Trainer. A metric of that name takes precedence, and
    among several callbacks the first does. The replacement can be pickled and copied with the bar.

    Args:
        bar: a progress bar of Lightning.
    """

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._before = vars(bar).get(_METHOD)  # None is the method of the class
        self._callbacks: list[Any] = []

    @classmethod
    def add(cls, bar: Any, callback: Any) -> None:
        """Show the forecasts of a callback in a bar, if there is one."""
        if bar is None:
            return
        present = vars(bar).get(_METHOD)
        if not isinstance(present, cls):
            present = cls(bar)
            setattr(bar, _METHOD, present)
        if callback not in present._callbacks:
            present._callbacks.append(callback)

    @classmethod
    def remove(cls, bar: Any, callback: Any) -> None:
        """Stop showing the forecasts of a callback; the last one to be removed restores the bar."""
        present = None if bar is None else vars(bar).get(_METHOD)
        if not isinstance(present, cls) or callback not in present._callbacks:
            return
        present._callbacks.remove(callback)
        if present._callbacks:
            return
        if present._before is None:
            delattr(bar, _METHOD)
        else:
            setattr(bar, _METHOD, present._before)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the bar's own metrics, and the forecast."""
        plain = self._before or getattr(type(self._bar), _METHOD).__get__(self._bar)
        metrics = plain(*args, **kwargs)
        with contained():
            for callback in self._callbacks:
                if callback.postfix:
                    return {_LABEL: callback.postfix} | metrics
        return metrics
