"""What the annealing probe measures, resumed runs and misuse."""

import copy
import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.probe_runs import TOTAL, Batch, Net, data, gaps_of, loss_of, seed, train, watching
from torch import Tensor, nn

from lossforecast.callbacks import AnnealingProbe, TorchLossForecast
from lossforecast.callbacks.distributed.protocol import GapBatch
from lossforecast.callbacks.pipeline.gap_meter import GapMeter
from lossforecast.callbacks.probe.averages import WeightAverages
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.forecaster import Forecaster
from lossforecast.schedule.lr_schedule import LRSchedule


class Bowl(nn.Module):
    """Loss w^2 / 2 of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self) -> Tensor:
        """The loss."""
        return self.weight**2 / 2


def test_the_gap_is_the_noise_that_averaging_removes() -> None:
    """SGD on a bowl with noisy gradients: the stationary loss is known, and a decay removes it."""
    rate, noise, total = 0.1, 1.0, 6_000
    torch.manual_seed(0)
    bowl = Bowl()
    optimizer = torch.optim.SGD(bowl.parameters(), lr=rate)
    probe = AnnealingProbe(lambda model, _: model(), bowl, horizons=(200,), cost=0.05)
    with TorchLossForecast(optimizer, None, total, probe=probe) as monitor:
        for _ in probe.watch(range(total)):
            loss = bowl()
            monitor.step(loss)
            loss.backward()
            assert bowl.weight.grad is not None
            bowl.weight.grad += noise * torch.randn(())
            optimizer.step()
            optimizer.zero_grad()
    gaps = gaps_of(monitor)
    steps, values, errors, horizons = np.array(gaps).T
    stationary = rate * noise**2 / (2 * (2 - rate))
    assert set(horizons) == {200}
    assert steps.min() >= 3 * 200
    error = values.std(ddof=1) / np.sqrt(values.size)
    assert abs(values.mean() - stationary) < 3 * error
    assert np.median(errors) == pytest.approx(values.std(ddof=1), rel=0.6)


@pytest.mark.slow
def test_looks_are_spread_over_the_run_and_cost_what_was_asked_for() -> None:
    seen: list[int] = []
    _, monitor, probe = train(lambda m: AnnealingProbe(counting(seen), m, cost=0.1))
    assert probe is not None
    passes = len(probe.horizons) + 1
    assert probe.every == passes * 5  # half a step each
    assert len(seen) == passes * ((TOTAL - 1) // probe.every)
    steps = [gap.step for gap in gaps_of(monitor) if gap.horizon == probe.horizons[0]]
    assert np.diff(steps)[1:].min() == np.diff(steps).max() == 4 * probe.every


def counting(seen: list[int]) -> Callable[[Any, Batch], Tensor]:
    def loss(model: Any, batch: Batch) -> Tensor:
        seen.append(1)
        return loss_of(model, batch)

    return loss


def test_a_meter_makes_measurements_of_looks() -> None:
    forecaster = Forecaster(LRSchedule.constant(1_000, 0.1))
    meter = GapMeter((10, 50))
    steps = np.arange(10, 70, 10)
    gaps = np.stack([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [np.nan] * 3 + [1.0] * 3], axis=1)
    meter.add(GapBatch(steps, gaps), {"train": forecaster})
    assert len(forecaster._gaps) == 1
    found = forecaster._gaps[0]
    assert (found.step, found.value, found.horizon) == (25, 2.5, 10)
    assert found.stderr == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    again = GapMeter.from_state_dict((10, 50), meter.state_dict())
    np.testing.assert_array_equal(np.array(again.pending, object)[:, 0], [50, 60])
    assert again.state_dict() == meter.state_dict()
    assert GapMeter.from_state_dict((10,), meter.state_dict()).pending == []


# ---------------------------------------------------------------------- resuming


@pytest.mark.slow
def test_a_resumed_run_measures_and_forecasts_the_same() -> None:
    def run(begin: int, stop: int, saved: dict[str, Any] | None) -> tuple[Any, list[Any]]:
        seed()
        model, batches = Net(), data(TOTAL)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        probe = watching(model)
        monitor = TorchLossForecast(optimizer, None, TOTAL, probe=probe)
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            monitor.load_state_dict(saved["monitor"])
            probe.load_state_dict(saved["probe"])
            torch.set_rng_state(saved["rng"])
            random.setstate(saved["random"])
            np.random.set_state(saved["numpy"])  # noqa: NPY002
        for batch in probe.watch(batches[begin:stop]):
            loss = loss_of(model, batch)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "monitor": monitor.state_dict(),
            "probe": probe.state_dict(),
            "rng": torch.get_rng_state(),
            "random": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002
        }
        state = copy.deepcopy(state)
        monitor.close()
        return state, gaps_of(monitor)

    _, whole = run(0, TOTAL, None)
    for cut in (173, 180):
        state, _ = run(0, cut, None)
        _, resumed = run(cut, TOTAL, state)
        assert resumed == whole
    state["probe"] = {}  # lost: silent until averages have settled
    _, poorer = run(cut, TOTAL, state)
    assert poorer != whole
    assert poorer[-1].step > cut


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"averages": {7: []}}, "another model or other horizons"),
        pytest.param({"began": -1}, "began", marks=pytest.mark.slow),
        pytest.param({"losses": 3}, "not a saved probe", marks=pytest.mark.slow),
    ],
)
def test_a_foreign_state_switches_the_probe_off(
    change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net()
    averages = WeightAverages(model, (5, 20)).averages
    state = {"began": 0, "looks": 0, "next": 30, "losses": [], "averages": averages, **change}

    def probe_of(model: Net) -> AnnealingProbe:
        probe = watching(model)
        probe.load_state_dict(state)
        return probe

    _, _, probe = train(probe_of)
    assert probe is not None
    assert probe.switched_off
    assert issubclass(caplog.records[-1].exc_info[0], StateError)  # type: ignore
    assert message in str(caplog.records[-1].exc_info[1])  # type: ignore[index]


# ---------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnnealingProbe("loss"), "loss must be a function"),  # type: ignore[arg-type]
        (lambda: AnnealingProbe(loss_of, "model"), "model must be a torch module"),  # type: ignore[arg-type]
        (lambda: AnnealingProbe(loss_of, batches=[]), "batches is empty"),
        (lambda: AnnealingProbe(loss_of, horizons=()), "horizons is empty"),
        (lambda: AnnealingProbe(loss_of, horizons=(1,)), "horizons is 1"),
        (lambda: AnnealingProbe(loss_of, cost=0), "cost is 0"),
        (lambda: AnnealingProbe(loss_of, cost=2), "cost is 2"),
    ],
)
def test_misuse_is_refused(make: Callable[[], AnnealingProbe], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_plain_loop_has_to_give_the_model() -> None:
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="the probe needs the model"):
        TorchLossForecast(optimizer, None, 100, probe=AnnealingProbe(loss_of))


def test_a_probe_that_sees_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probe = watching(model)
    with TorchLossForecast(optimizer, None, TOTAL, every_n_steps=20, probe=probe) as monitor:
        for batch in data(TOTAL):
            loss = loss_of(model, batch)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert "has seen no batch" in told[0]


def test_a_short_run_has_no_probe_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    _, monitor, probe = train(watching, steps=40)
    assert probe is not None
    assert probe.switched_off
    assert monitor.forecast is not None
    assert "too short" in caplog.records[0].message


def test_what_it_keeps_is_named_up_front(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(lambda m: watching(m, horizons=(8, 32)))
    size = 4 * sum(p.numel() for p in Net().parameters()) / 1e6
    told = next(r.message for r in caplog.records if "averages of the weights" in r.message)
    assert f"over 8, 32 steps: {2 * size:.3g} MB on cpu, and {size:.3g} MB more" in told
