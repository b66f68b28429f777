"""The annealing probe: measures the drop on averaged weights before it comes."""

from lossforecast.callbacks.probe.annealing_probe import AnnealingProbe

__all__ = ["AnnealingProbe"]
