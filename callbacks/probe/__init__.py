"""The annealing probe: measures the drop of the loss on averaged weights before it happens."""

from lossforecast.callbacks.probe.annealing_probe import AnnealingProbe

__all__ = ["AnnealingProbe"]
