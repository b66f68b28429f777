"""Adapters for Optuna and Ray Tune; importing one does not load the framework of the other."""

from lossforecast.callbacks.sweeps.plans import Plans

__all__ = ["Plans"]
