"""Sinks for experiment trackers and files; each loads its library when it is created."""

from lossforecast.callbacks.trackers.accelerate import AccelerateSink
from lossforecast.callbacks.trackers.csv import CSVSink
from lossforecast.callbacks.trackers.mlflow import MLflowSink
from lossforecast.callbacks.trackers.trackio import TrackioSink
from lossforecast.callbacks.trackers.wandb import WandbSink

__all__ = ["AccelerateSink", "CSVSink", "MLflowSink", "TrackioSink", "WandbSink"]
