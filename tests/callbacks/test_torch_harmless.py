"""`TorchLossForecast` does not change training, wait for the device or keep objects alive."""

import gc
import json
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from support.host_reads import HostReads, on_device
from support.torch_runs import Bench, assert_same_training, run, trained

from lossforecast import (
    LRSchedule,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update


@pytest.mark.parametrize("tensor_rate", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_the_device_is_read_at_the_ends_of_blocks_only(tensor_rate: bool, stop: bool) -> None:
    weight = torch.ones(2, requires_grad=True)
    rate: Any = on_device(torch.tensor(0.1)) if tensor_rate else 0.1
    optimizer = torch.optim.SGD([weight], lr=rate, foreach=True)  # itself reads nothing
    schedule = LRSchedule.constant(100, 0.1)
    monitor = TorchLossForecast(
        optimizer, schedule=schedule, every_n_steps=25, stop=stop, target=-9.0, laws="power"
    )
    with HostReads() as reads:
        for i in range(100):
            reads.now = i
            if i == 60:
                monitor.event("other data")  # reads nothing
            loss = on_device(weight.square().sum() + i)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            reads.now = i + 1
            monitor.should_stop  # noqa: B018
    ends = {25, 50, 75} | ({100} if stop else set())
    assert set(reads.at) == ends
    assert len(reads.at) <= 10 * len(ends)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gpu_is_not_waited_for_within_a_block(accumulate: int) -> None:
    steps = 3_000
    weight = torch.ones(1000, device="cuda", requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(1e-3, device="cuda"), fused=True)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # its state is made with the first step, which may wait
    schedule = LRSchedule.constant(10 * steps, 1e-3)
    monitor = TorchLossForecast(
        optimizer, schedule=schedule, every_n_steps=2 * steps, stop=True, laws="power"
    )
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(steps):
            if step == 100:
                monitor.event("other data")
            for _ in range(accumulate):
                loss = weight.square().mean()
                monitor.step(loss)
                loss.div_(accumulate).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            assert not monitor.should_stop
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not monitor.switched_off
    monitor.close()
    assert monitor.steps == steps
    bins = monitor.forecaster.history.bins()
    assert bins.last.tolist() == list(range(steps))
    assert (bins.lr[1:] == np.float32(1e-3)).all()
    assert monitor.forecast is not None


def test_training_is_the_same_to_the_bit_with_and_without() -> None:
    updates: list[Update] = []
    assert_same_training(
        trained(monitored=False), trained(monitored=True, sinks=[updates.append], target=0.1)
    )
    assert len(updates) == 12


# ---------------------------------------------------------------------- letting go


def test_an_exception_leaves_nothing_behind() -> None:
    bench = Bench()
    hooks = bench.optimizer._optimizer_step_pre_hooks, bench.optimizer._optimizer_step_post_hooks
    with (
        suppress(OverflowError),
        TorchLossForecast(bench.optimizer, total_steps=100, every_n_steps=15) as monitor,
    ):
        run(bench, monitor, range(20))
        assert all(hooks)
        raise OverflowError
    assert not any(hooks)
    run(bench, monitor, range(20))
    assert len(bench.optimizer.rates) == 40, "the optimizer works on"
    assert monitor.steps == 20
    assert monitor.forecast is not None


@pytest.mark.parametrize("closed", [False, True])
def test_nothing_keeps_the_optimizer_alive(closed: bool) -> None:
    bench = Bench()
    scheduler = bench.cosine(40)
    monitor = TorchLossForecast(bench.optimizer, scheduler, 40, every_n_steps=15)
    run(bench, monitor, range(40), scheduler)
    alive = [weakref.ref(x) for x in (bench.optimizer, bench.weight, scheduler)]
    if closed:
        monitor.close()
        kept = monitor  # the user may look at it as long as he likes
        del monitor, bench, scheduler
    else:
        del monitor, bench, scheduler
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    if closed:
        assert kept.forecast is not None
        json.dumps(kept.state_dict())
        assert kept.steps == 40
