"""Says, while a training run is young, where its loss will end and how sure that is."""

from lossforecast.schedule import LRSchedule

__all__ = ["LRSchedule"]
