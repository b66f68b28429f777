"""The annealing probe: what it measures, and that it leaves no trace in the training."""

import copy
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossforecast.callbacks import AnnealingProbe, TorchLossForecast
from lossforecast.callbacks.distributed.protocol import Looks
from lossforecast.callbacks.pipeline.gap_meter import GapMeter
from lossforecast.callbacks.probe.averages import WeightAverages
from lossforecast.callbacks.probe.undisturbed import undisturbed
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.forecaster import Forecaster
from lossforecast.schedule.lr_schedule import LRSchedule

TOTAL = 400
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """With all that a look could disturb: dropout, BatchNorm, a counter and chance of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 1)
        )
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, 6) in, (n, 1) out."""
        self.calls.add_(1)  # type: ignore[operator]
        x = x + 1e-3 * torch.randn_like(x) + 1e-4 * random.random() + 1e-4 * np.random.rand()  # noqa: NPY002
        out: Tensor = self.body(x)
        return out


def loss_of(model: Any, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def data(n: int, size: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, size, 6, generator=generator)
    y = x.sum(-1, keepdim=True) + torch.randn(n, size, 1, generator=generator)
    return list(zip(x, y, strict=True))


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def train(
    probe_of: Callable[[Net], AnnealingProbe] | None,
    steps: int = TOTAL,
    *,
    precision: torch.dtype | None = None,
    compiled: bool = False,
    accumulate: int = 1,
) -> tuple[list[Tensor], TorchLossForecast, AnnealingProbe | None]:
    """A run's weights, buffers, optimizer state and last random numbers, in a list."""
    seed()
    model: Any = Net()
    used: Any = torch.compile(model, backend="aot_eager") if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = None if probe_of is None else probe_of(used)
    batches = data(steps * accumulate)
    with TorchLossForecast(optimizer, None, steps, every_n_steps=20, probe=probe) as monitor:
        for number, batch in enumerate(batches if probe is None else probe.watch(batches), 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
                loss = loss_of(used, batch)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    state = [*model.state_dict().values()]
    state += [x for each in optimizer.state.values() for x in each.values()]
    state += [torch.rand(3), torch.tensor(random.random()), torch.tensor(np.random.rand())]  # noqa: NPY002
    return [torch.as_tensor(x).clone() for x in state], monitor, probe


def watching(model: Any, **options: Any) -> AnnealingProbe:
    return AnnealingProbe(loss_of, model, cost=0.05, **options)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def gaps_of(monitor: TorchLossForecast) -> list[Any]:
    return monitor.forecaster._gaps


# ---------------------------------------------------------------------- no trace


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
        "the annealing probe failed and is switched off; all else goes on"
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


# ---------------------------------------------------------------------- what is measured


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
    meter.add(Looks(steps, gaps), {"train": forecaster})
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
        ({"averages": {7: []}}, "another model or over other horizons"),
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


# ---------------------------------------------------------------------- many processes

WORKER = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from torch import nn
from lossforecast.callbacks import TorchLossForecast, AnnealingProbe, distributed

mode, out = sys.argv[1], Path(sys.argv[2])
dist.init_process_group("gloo")
rank = dist.get_rank()
asked = []
reduced = distributed._Channel._reduced
distributed._Channel._reduced = lambda *a: asked.append(1) or reduced(*a)

def run(on, total=400):
    asked.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.LayerNorm(24), nn.ReLU(), nn.Dropout(0.1),
                          nn.Linear(24, 1))
    if mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1 + rank)
    torch.manual_seed(5 + rank)
    batches = [(x := torch.randn(16, 6, generator=generator), x.sum(1, keepdim=True)
                + torch.randn(16, 1, generator=generator)) for _ in range(total)]
    loss_of = lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1])
    probe = AnnealingProbe(loss_of, model, cost=0.05) if on else None
    with TorchLossForecast(optimizer, None, total, every_n_steps=20, probe=probe) as monitor:
        for batch in probe.watch(batches) if on else batches:
            loss = loss_of(model, batch)
            monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    weights = [(p.to_local() if mode == "fsdp" else p).detach().clone()
               for p in model.parameters()]
    assert probe is None or not probe.switched_off
    return weights, monitor.forecaster._gaps, len(asked)

bare, _, before = run(False)
watched, gaps, after = run(True)
torch.save({"same": all(map(torch.equal, bare, watched)), "gaps": [tuple(g) for g in gaps],
            "asked": [before, after]}, out / f"{mode}{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_among_processes_with_replicas_and_shards(tmp_path: Path) -> None:
    """Bit-identical weights, no exchange more than without, and shards measure as replicas do."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    found = {}
    for mode in ("ddp", "fsdp"):
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
        ]
        command = [*torchrun, str(script), mode, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        for rank in range(2):
            found[mode, rank] = torch.load(tmp_path / f"{mode}{rank}.pt")
    gaps = found["ddp", 0]["gaps"]
    assert len(gaps) >= 4
    for result in found.values():
        assert result["same"]
        np.testing.assert_allclose(result["gaps"], gaps, rtol=1e-4, atol=1e-6)
        assert result["asked"][0] == result["asked"][1]


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
