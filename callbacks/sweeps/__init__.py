"""Adapters for Optuna and Ray Tune. Importing one does not load the other's framework."""

from lossforecast.callbacks.sweeps.plans import Plans

__all__ = ["Plans"]
