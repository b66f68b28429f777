"""The annealing probe leaves no trace in training."""

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from support.probe_runs import (
    TOTAL,
    Batch,
    Net,
    data,
    gaps_of,
    loss_of,
    same,
    seed,
    train,
    watching,
)
from torch import Tensor, nn

from lossforecast.callbacks import AnnealingProbe, TorchLossForecast
from lossforecast.callbacks.probe.averages import WeightAverages
from lossforecast.callbacks.probe.undisturbed import undisturbed
from lossforecast.schedule.lr_schedule import LRSchedule


@pytest.mark.parametrize("accumulate", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_training_is_bit_identical_with_it(accumulate: int) -> None:
    bare, _, _ = train(None, accumulate=accumulate)
    watched, monitor, probe = train(watching, accumulate=accumulate)
    assert same(bare, watched)
    assert probe is not None
    assert not probe.switched_off
    assert len(gaps_of(monitor)) >= 4
    held = data(3)
    from_held, monitor, _ = train(lambda m: watching(m, batches=held), accumulate=accumulate)
    assert same(bare, from_held)
    assert len(gaps_of(monitor)) >= 4


@pytest.mark.slow
def test_with_mixed_precision_and_averages_elsewhere() -> None:
    bare, _, _ = train(None, precision=torch.bfloat16)
    watched, monitor, _ = train(lambda m: watching(m, offload="cpu"), precision=torch.bfloat16)
    assert same(bare, watched)
    assert gaps_of(monitor)


@pytest.mark.slow
def test_compiled_training_is_the_same_and_nothing_is_compiled_anew() -> None:
    compiled: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    for options in ({}, {"probe": True}):
        torch.compiler.reset()
        compiled.clear()
        seed()
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        used: Any = torch.compile(model, backend=count)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        probe = watching(used) if options else None
        batches = data(200)
        with TorchLossForecast(optimizer, None, 200, probe=probe) as monitor:
            for batch in probe.watch(batches) if probe else batches:
                loss = loss_of(used, batch)
                monitor.step(loss)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
        if not options:
            bare, graphs = [p.detach().clone() for p in model.parameters()], len(compiled)
    assert same(bare, [p.detach() for p in model.parameters()])
    assert len(compiled) == graphs > 0
    assert gaps_of(monitor)


@pytest.mark.slow
def test_a_loss_that_fails_switches_the_probe_off_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bare, _, _ = train(None)
    calls = []

    def fails_in_the_middle(model: Any, batch: Batch) -> Tensor:
        calls.append(1)
        if len(calls) == 5:  # with averaged weights in the model
            raise RuntimeError("out of memory")
        return loss_of(model, batch)

    watched, monitor, probe = train(lambda m: AnnealingProbe(fails_in_the_middle, m, cost=0.05))
    assert same(bare, watched)
    assert probe is not None
    assert probe.switched_off
    assert len(calls) == 5
    assert not monitor.switched_off
    assert monitor.forecast is not None
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        "the annealing probe failed and is switched off; training and forecasts go on"
    ]


def test_what_is_frozen_or_in_evaluation_mode_stays_so() -> None:
    model = Net()
    model.body[1].eval()
    model.body[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        model(torch.randn(4, 6))
        assert model.body[1].running_mean is not None  # as in training, where it is frozen
    assert [m.training for m in model.body] == [True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_batch_norm_goes_by_the_batch() -> None:
    norm = nn.BatchNorm1d(2)
    x = torch.randn(64, 2) * 5 + 3
    with undisturbed(norm):
        assert norm(x).mean(0).abs().max() < 1e-5
    assert norm.training
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert norm.num_batches_tracked == 0


# ---------------------------------------------------------------------- averages


def test_averages_are_those_of_the_definition() -> None:
    model = nn.Linear(3, 1)
    averages = WeightAverages(model, (10, 4))
    expected = {h: model.weight.detach().double().clone() for h in (4, 10)}
    for step in range(50):
        with torch.no_grad():
            model.weight += 0.1 * torch.randn(1, 3, generator=torch.Generator().manual_seed(step))
        averages.update()
        for horizon, value in expected.items():
            value += (model.weight.detach() - value) / horizon
    for horizon, value in expected.items():
        np.testing.assert_allclose(averages.averages[horizon][0].numpy(), value, rtol=1e-5)


def test_averages_of_coarse_weights_are_kept_in_single_precision_and_weights_come_back() -> None:
    model = nn.Linear(3, 1, dtype=torch.bfloat16)
    averages = WeightAverages(model, (1000,))
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model.weight += 1
    averages.update()
    moved = averages.averages[1000][0] - before[0].float()
    np.testing.assert_allclose(moved.numpy(), 1e-3, rtol=0.02)
    raw = [p.detach().clone() for p in model.parameters()]

    def interrupted() -> None:
        with averages.exposed() as exposed:
            exposed.show(1000)
            assert not torch.equal(model.weight, raw[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(raw, [p.detach() for p in model.parameters()])


def test_tied_weights_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert WeightAverages(model, (5,)).megabytes == pytest.approx(4 * 16 / 1e6)


def test_a_backward_under_way_does_not_notice() -> None:
    """In the middle of a step: weights saved for the backward are as they were."""
    model = Net()
    loss = loss_of(model, data(1)[0])
    averages = WeightAverages(model, (5,))
    with undisturbed(model), averages.exposed() as exposed:
        exposed.show(5)
        loss_of(model, data(1)[0])
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters())


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_look_does_not_wait_for_the_gpu() -> None:
    model = Net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batches = [(x.cuda(), y.cuda()) for x, y in data(300)]
    loss_of(model, batches[0]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # its state is made with the first step, which may wait
    schedule = LRSchedule.constant(3_000, 1e-3)
    probe = AnnealingProbe(loss_of, model, cost=0.2)
    monitor = TorchLossForecast(optimizer, schedule=schedule, every_n_steps=1_000, probe=probe)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in probe.watch(batches):
            loss = loss_of(model, batch)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not probe.switched_off
    monitor.close()
    assert len(gaps_of(monitor)) >= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"offload": "cpu"}])
def test_training_on_a_gpu_with_a_scaler_is_bit_identical(options: dict[str, Any]) -> None:
    found = []
    for watched in (False, True):
        seed()
        model = Net().cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler()
        probe = watching(model, **options) if watched else None
        batches = [(x.cuda(), y.cuda()) for x, y in data(TOTAL)]
        with TorchLossForecast(optimizer, None, TOTAL, probe=probe) as monitor:
            for batch in probe.watch(batches) if probe else batches:
                with torch.autocast("cuda", torch.float16):
                    loss = loss_of(model, batch)
                monitor.step(loss)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        found.append([x.clone() for x in model.state_dict().values()])
    assert same(*found)
    assert gaps_of(monitor)
