"""Logs with forecasts for the panel to show, written as a training run writes them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    summary_pb2,
    tensor_pb2,
    types_pb2,
)
from torch.utils.tensorboard import SummaryWriter

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.callbacks.monitor.run_monitor import RunMonitor
from lossforecast.callbacks.monitor.update import Update
from lossforecast.callbacks.tensorboard.plugin import PLUGIN, TAG
from lossforecast.callbacks.tensorboard.sink import TensorBoardSink

TOTAL = 4_000


def updates(
    plan: LRSchedule | None = None,
    upto: int = TOTAL,
    every: int = TOTAL // 40,
    floor: float = 2.0,
    target: float | None = None,
    seed: int = 0,
    events: Mapping[int, str] | None = None,
    **about: Any,
) -> Iterator[Update]:
    """Updates of a run with made-up losses, one at every forecast."""
    plan = plan or LRSchedule.cosine(TOTAL, 1e-3, warmup=100)
    total = plan.total_steps
    steps = np.arange(total)
    lawful = floor + 9 * (plan.s1(np.maximum(steps, 1)) / plan.peak + 40) ** -0.5
    annealed = 0.1 * (1 - plan.lr(np.maximum(steps, 1)) / plan.peak) * (steps > 100)
    noise = np.random.default_rng(seed).normal(0, 0.02, total)
    losses = lawful - annealed + noise
    forecaster = Forecaster(plan, RunInfo("train", "adamw", **about), every_n_steps=every)
    monitor = RunMonitor(forecaster, target=target, sinks=[lambda update: None])
    for step in range(every, upto + 1, every):
        seen = slice(step - every, step)
        for at, name in (events or {}).items():
            if step - every <= at < step:
                forecaster.event(at, name)
        forecaster.observe_many(steps[seen], losses[seen])
        yield monitor.check(step)


def write(folder: Path, **options: Any) -> list[Update]:
    """A log of such a run."""
    sent = list(updates(**options))
    with SummaryWriter(str(folder)) as writer:
        sink = TensorBoardSink(writer)
        for update in sent:
            sink(update)
    return sent


def tensor_of(content: bytes | float) -> Any:
    """A tensor with one string, as our summaries have, or with one number."""
    if isinstance(content, bytes):
        return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[content])
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[content])


def shaped(tensor: Any, *shape: int) -> Any:
    """The tensor, said to be of a shape."""
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def summary_with(tensor: Any, tag: str = TAG, plugin: str = PLUGIN) -> Any:
    """A summary of ours, or of another plugin, with any tensor."""
    about = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin),
        data_class=summary_pb2.DATA_CLASS_TENSOR,
    )
    value = summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=tensor)
    return summary_pb2.Summary(value=[value])
