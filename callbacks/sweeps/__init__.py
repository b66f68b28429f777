"""Adapters for Optuna and Ray Tune, one module each: importing one loads no other framework."""

from lossforecast.callbacks.sweeps.plans import Plans

__all__ = ["Plans"]
