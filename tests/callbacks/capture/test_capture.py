"""What `LossCapture` records, against scripts of training loops, and when it reads the device."""

import gc
import json
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torch.overrides import TorchFunctionMode

from lossforecast.callbacks.capture.loss_capture import LossCapture, innermost
from lossforecast.errors import ConfigurationError, StateError

Array = NDArray[np.float64]
Block = tuple[NDArray[np.int64], Array, Array]

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def sgd(lr: Any = 0.5, groups: int = 1, device: str = "cpu") -> torch.optim.SGD:
    """Plain descent in double precision, so that scripted losses come back to the bit."""
    weights = [torch.ones(2, dtype=torch.float64, device=device) for _ in range(groups)]
    return torch.optim.SGD([{"params": [weight.requires_grad_()]} for weight in weights], lr=lr)


def weights_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def loss_of(optimizer: torch.optim.Optimizer, value: float) -> torch.Tensor:
    """A loss of that very value, with a gradient of 1 for every weight."""
    weight = sum(weight.sum() for weight in weights_of(optimizer))
    assert isinstance(weight, torch.Tensor)
    return (weight - weight.detach()) + value


def train(
    optimizer: Any, capture: LossCapture, losses: list[float], rates: list[float] | None = None
) -> None:
    """The plainest loop: one loss, one step, the learning rate set by hand."""
    for i, value in enumerate(losses):
        capture.record(value)
        if rates is not None:
            innermost(optimizer).param_groups[0]["lr"] = rates[i]
        optimizer.step()


def assert_block(block: Block, steps: ArrayLike, losses: ArrayLike, rates: ArrayLike) -> None:
    for got, wanted in zip(block, (steps, losses, rates), strict=True):
        np.testing.assert_array_equal(got, np.asarray(wanted), strict=False)


# ---------------------------------------------------------------------- any loop whatever


@dataclass(frozen=True)
class Turn:
    """One turn of a loop: what it does around one attempt at an optimizer step."""

    losses: list[float]  # of its micro-batches
    overflows: bool  # so that the gradient scaler skips the step
    scheduler: str  # when the scheduler is stepped
    recorded_late: bool  # after the backward pass
    tampered: bool  # the loss tensor is scaled and overwritten after it was recorded
    read: bool  # whether the block is read after this turn
    asked: bool  # whether the state is asked for


TURNS = st.lists(
    st.builds(
        Turn,
        losses=st.lists(st.floats(-100, 100), min_size=0, max_size=3),
        overflows=st.booleans(),
        scheduler=st.sampled_from(["after", "before", "never", "twice"]),
        recorded_late=st.booleans(),
        tampered=st.booleans(),
        read=st.booleans(),
        asked=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


class Watched(torch.optim.SGD):
    """Notes the rate of every step by itself: the truth that the capture must find."""

    def __init__(self, params: Any, lr: Any) -> None:
        super().__init__(params, lr=lr)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(float(self.param_groups[0]["lr"]))
        return super().step(closure)


@pytest.mark.filterwarnings("ignore:Detected call of")  # scheduler.step() came first, on purpose
@settings(max_examples=150, deadline=None)
@given(turns=TURNS, tensor_rate=st.booleans())
def test_any_loop_yields_the_loss_after_t_steps_and_the_rate_of_step_t(
    turns: list[Turn], tensor_rate: bool
) -> None:
    rate: Any = torch.tensor(0.5, dtype=torch.float64) if tensor_rate else 0.5
    optimizer = Watched([torch.ones(2, dtype=torch.float64, requires_grad=True)], rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (1 + k))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=10_000)
    capture, blocks = LossCapture(optimizer), list[Block]()
    truth: dict[int, list[float]] = {}
    for turn in turns:
        for value in turn.losses:
            loss = loss_of(optimizer, value)
            truth.setdefault(len(optimizer.rates), []).append(value)
            if not turn.recorded_late:
                capture.record(loss)
            scaled = scaler.scale(loss * INF if turn.overflows else loss)
            assert isinstance(scaled, torch.Tensor)
            scaled.backward()  # type: ignore[no-untyped-call]
            if turn.recorded_late:
                capture.record(loss)
            if turn.tampered:
                with torch.no_grad():
                    loss.div_(4).fill_(NAN)
        if not turn.losses:  # a step whose loss nobody recorded
            unseen = scaler.scale(loss_of(optimizer, 0.0) * (INF if turn.overflows else 1.0))
            assert isinstance(unseen, torch.Tensor)
            unseen.backward()  # type: ignore[no-untyped-call]
        if turn.scheduler in ("before", "twice"):
            scheduler.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if turn.scheduler in ("after", "twice"):
            scheduler.step()
        assert capture.steps == len(optimizer.rates)
        assert capture.present_rate() == float(optimizer.param_groups[0]["lr"])
        if turn.read:
            blocks.append(capture.take())
        if turn.asked:
            assert capture.last_rate() == (optimizer.rates[-1] if optimizer.rates else None)
    blocks.append(capture.take_all())

    steps, losses, rates = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert steps.tolist() == sorted(truth)
    assert losses.tolist() == [sum(truth[t]) / len(truth[t]) for t in sorted(truth)]
    np.testing.assert_array_equal(
        rates, [optimizer.rates[t - 1] if t else NAN for t in sorted(truth)]
    )


def test_a_read_leaves_the_losses_of_the_step_under_way() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [3.0, 2.0])
    capture.record(1.0)
    assert_block(capture.take(), [0, 1], [3.0, 2.0], [NAN, 0.5])
    capture.record(0.5)
    assert_block(capture.take(), [], [], [])
    optimizer.step()
    assert_block(capture.take(), [2], [0.75], [0.5])
    capture.record(7.0)
    assert_block(capture.take_all(), [3], [7.0], [0.5])


def test_a_loss_may_come_with_its_step_and_scale() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    optimizer.step()
    capture.record(loss_of(optimizer, 2.0) / 4, step=0, scale=4.0)
    capture.record(0.25, step=0, scale=4.0)
    assert_block(capture.take(), [0], [1.5], [NAN])


# ---------------------------------------------------------------------- gradient scalers


@pytest.mark.parametrize("fused", [False, True])
def test_steps_skipped_by_a_gradient_scaler_are_not_counted(fused: bool) -> None:
    # a fused optimizer is stepped all the same, and skips inside its kernel
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.5, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    capture, called = LossCapture(optimizer), list[int]()
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    script = [9.0, INF, INF, 8.0, 7.0, INF, 6.0, INF, 5.0]
    truth, rates, blocks = dict[int, list[float]](), [NAN], list[Block]()
    for i, value in enumerate(script):
        optimizer.param_groups[0]["lr"] = 1.0 / (1 + i)
        before = weight.detach().clone()
        loss = weight.sum() * 0 + float(i)
        truth.setdefault(len(rates) - 1, []).append(float(i))
        capture.record(loss)
        scaled = scaler.scale(weight.sum() * value)
        assert isinstance(scaled, torch.Tensor)
        scaled.backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if not torch.equal(before, weight):
            rates.append(1.0 / (1 + i))
        if i in (2, 3, 6):
            blocks.append(capture.take())
            assert capture.steps == len(rates) - 1
            assert capture.last_rate() == (None if len(rates) == 1 else rates[-1])
    blocks.append(capture.take_all())
    assert len(called) == (len(script) if fused else 5), "the test is not about skipped steps"
    assert capture.steps == len(rates) - 1 == 5
    steps, losses, read = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert steps.tolist() == sorted(truth)
    assert losses.tolist() == [sum(truth[t]) / len(truth[t]) for t in sorted(truth)]
    np.testing.assert_array_equal(read, [rates[t] for t in sorted(truth)])


def test_steps_skipped_by_a_fused_optimizer_are_not_in_the_state() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.5, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    capture = LossCapture(optimizer)
    for value in (1.0, INF, 1.0, INF):
        scaled = scaler.scale(weight.sum() * value)
        assert isinstance(scaled, torch.Tensor)
        scaled.backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert capture.state_dict() == {"steps": 2, "last_rate": 0.5}


# ---------------------------------------------------------------------- steps of other kinds


def test_a_loss_computed_by_a_closure_comes_before_the_step() -> None:
    weight = torch.full((1,), 4.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], lr=0.25, max_iter=1)
    capture, seen = LossCapture(optimizer), list[float]()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        capture.record(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        seen.append(loss.item())
        return loss.item()

    for _ in range(4):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert_block(capture.take(), [0, 1, 2, 3], seen, [NAN, 0.25, 0.25, 0.25])
    assert len(set(seen)) == 4


def test_a_step_that_fails_is_not_counted() -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if len(truth) == 1:
                truth.append(-1)
                raise RuntimeError("out of memory")
            truth.append(1)

    truth: list[int] = []
    optimizer = Failing([torch.ones(1, requires_grad=True)], lr=0.5)
    capture = LossCapture(optimizer)
    capture.record(3.0)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.25
    capture.record(2.0)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.125
    optimizer.step()
    capture.record(1.0)
    assert_block(capture.take_all(), [0, 1, 2], [3.0, 2.0, 1.0], [NAN, 0.5, 0.125])


def test_a_step_that_calls_the_step_of_its_parent_is_one_step() -> None:
    class Scaled(torch.optim.SGD):  # the hooks run around either step
        def step(self, closure: Any = None) -> Any:
            group = self.param_groups[0]
            group["lr"] /= 2
            super().step(closure)
            group["lr"] *= 2

    called = list[int]()
    sgd()
    optimizer = Scaled([torch.ones(1, requires_grad=True)], lr=0.5)
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    capture = LossCapture(optimizer)
    train(optimizer, capture, [3.0, 2.0, 1.0])
    assert len(called) == 6, "the test is about hooks that are called twice"
    assert_block(capture.take(), [0, 1, 2], [3.0, 2.0, 1.0], [NAN, 0.25, 0.25])


def test_the_rate_is_that_of_the_chosen_group() -> None:
    optimizer = sgd(groups=3)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = 1.0 + i
    capture = LossCapture(optimizer, group=2)
    train(optimizer, capture, [5.0, 4.0])
    assert_block(capture.take(), [0, 1], [5.0, 4.0], [NAN, 3.0])
    assert (capture.present_rate(), capture.last_rate()) == (3.0, 3.0)


def test_a_tensor_rate_may_be_changed_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = sgd(lr=rate)
    capture = LossCapture(optimizer)
    for value in (0.25, 0.125, 0.0625):
        capture.record(1.0)
        optimizer.step()
        rate.fill_(value)
    assert_block(capture.take(), [0, 1, 2], [1.0, 1.0, 1.0], [NAN, 0.5, 0.25])
    assert (capture.last_rate(), capture.present_rate()) == (0.125, 0.0625)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_tensor_of_any_one_element_shape_will_do(shape: tuple[int, ...]) -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    optimizer.param_groups[0]["lr"] = torch.full(shape, 0.5, dtype=torch.float64)
    for value in (3.0, 2.0):
        capture.record(torch.full(shape, value))
        optimizer.step()
    assert_block(capture.take(), [0, 1], [3.0, 2.0], [NAN, 0.5])
    assert capture.last_rate() == 0.5


def test_a_rate_below_0_counts_as_0() -> None:
    # as linear schedules reach when the run goes on past their end
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [4.0, 3.0, 2.0, 1.0], rates=[0.5, -1e-9, -0.25, -0.5])
    assert capture.last_rate() == 0.0
    assert_block(capture.take(), [0, 1, 2, 3], [4.0, 3.0, 2.0, 1.0], [NAN, 0.5, 0.0, 0.0])
    assert (capture.last_rate(), capture.present_rate()) == (0.0, 0.0)


# ---------------------------------------------------------------------- losses of other kinds


@pytest.mark.parametrize(
    "loss",
    [
        2.5,
        np.float32(2.5),
        np.array(2.5),
        torch.tensor(2.5),
        torch.tensor([[2.5]]),
        torch.tensor(2.5, dtype=torch.float16),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float64, requires_grad=True),
        torch.nn.Parameter(torch.tensor(2.5)),
    ],
    ids=lambda loss: f"{type(loss).__name__}-{getattr(loss, 'dtype', '')}",
)
def test_any_one_number_is_a_loss(loss: Any) -> None:
    capture = LossCapture(sgd())
    capture.record(loss)
    assert_block(capture.take_all(), [0], [2.5], [NAN])


def test_losses_of_different_kinds_share_a_block() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    for i, dtype in enumerate([torch.float16, torch.float64, None, torch.float16, torch.int64] * 3):
        capture.record(float(i) if dtype is None else torch.tensor(i, dtype=dtype))
        optimizer.step()
    assert capture.take()[1].tolist() == list(range(15))


def test_a_loss_that_is_not_finite_is_passed_on() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    for values in ([NAN], [INF], [1.0, -INF], [INF, -INF], [1.7e308, 1.7e308], [1.0]):
        for value in values:
            capture.record(torch.tensor(value, dtype=torch.float64))
        optimizer.step()
    assert_block(
        capture.take(), range(6), [NAN, INF, -INF, NAN, INF, 1.0], [NAN, 0.5, 0.5, 0.5, 0.5, 0.5]
    )


def test_a_loss_of_many_numbers_is_refused_and_nothing_is_recorded() -> None:
    capture = LossCapture(sgd())
    with pytest.raises(ConfigurationError, match=r"the loss has shape \(3,\); .*loss\.mean\(\)"):
        capture.record(torch.ones(3))
    assert capture.take_all()[0].size == 0


# ---------------------------------------------------------------------- which optimizer


class Holder:
    """As Fabric's or DeepSpeed's: no optimizer itself."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Heir(torch.optim.Optimizer):
    """As accelerate's: inherits from the optimizer, whose initialiser it never calls."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda optimizer: optimizer,
    "holder": Holder,
    "heir": Heir,
    "nested": lambda optimizer: Holder(Heir(Holder(optimizer))),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_optimizer_is_found_inside_wrappers(name: str) -> None:
    optimizer = sgd()
    wrapped = WRAPPERS[name](optimizer)
    assert innermost(wrapped) is optimizer
    capture = LossCapture(wrapped)
    train(wrapped, capture, [3.0, 2.0, 1.0], rates=[0.5, 0.25, 0.125])
    assert_block(capture.take(), [0, 1, 2], [3.0, 2.0, 1.0], [NAN, 0.5, 0.25])


def test_the_optimizer_is_found_inside_that_of_fabric() -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    model = torch.nn.Linear(2, 1)
    raw = torch.optim.SGD(model.parameters(), lr=0.5)
    model, optimizer = fabric.setup(model, raw)
    capture = LossCapture(optimizer)
    for _ in range(3):
        loss = model(torch.ones(1, 2)).square().sum()
        capture.record(loss)
        fabric.backward(loss)
        optimizer.step()
    assert innermost(optimizer) is raw
    steps, _, rates = capture.take()
    assert steps.tolist() == [0, 1, 2]
    assert rates.tolist()[1:] == [0.5, 0.5]


@pytest.mark.parametrize("given", [None, object(), Holder(None), torch.nn.Linear(1, 1)])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    name = type(given).__name__
    with pytest.raises(ConfigurationError, match=f"steps of {name}: give a torch.optim.Optimizer"):
        LossCapture(given)


# ---------------------------------------------------------------------- letting go


def test_a_closed_capture_lets_go_of_the_optimizer() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0, 1.0])
    optimizer.param_groups[0]["lr"] = 0.25
    capture.close()
    capture.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    optimizer.step()
    assert capture.steps == 2
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None
    assert (capture.present_rate(), capture.last_rate()) == (0.25, 0.5)
    assert_block(capture.take_all(), [0, 1], [2.0, 1.0], [NAN, 0.5])


def test_a_capture_that_nobody_closed_keeps_no_optimizer_alive() -> None:
    optimizer = sgd()
    alive = weakref.ref(optimizer), weakref.ref(LossCapture(optimizer))
    gc.collect()
    assert alive[1]() is not None, "the hooks hold the capture"
    del optimizer
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_two_captures_of_one_optimizer_do_not_meet() -> None:
    optimizer = sgd()
    first, second = LossCapture(optimizer), LossCapture(optimizer)
    train(optimizer, first, [2.0])
    first.close()
    train(optimizer, second, [1.0])
    assert (first.steps, second.steps) == (1, 2)


def test_the_hooks_survive_a_restored_optimizer() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0])
    saved = sgd(lr=0.25).state_dict()
    optimizer.load_state_dict(saved)
    train(optimizer, capture, [1.0, 0.5])
    assert_block(capture.take(), [0, 1, 2], [2.0, 1.0, 0.5], [NAN, 0.5, 0.25])


def test_what_is_forgotten_is_not_read_but_steps_count() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [9.0, 8.0])
    capture.record(7.0)
    capture.forget()
    assert capture.last_rate() is None
    train(optimizer, capture, [2.0, 1.0])
    assert_block(capture.take(), [2, 3], [2.0, 1.0], [NAN, 0.5])


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("stop", range(5))
def test_a_restored_capture_goes_on(stop: int) -> None:
    losses, rates = [5.0, 4.0, 3.0, 2.0, 1.0], [0.5, 0.4, 0.3, 0.2, 0.1]
    optimizer = sgd()
    whole = LossCapture(optimizer)
    train(optimizer, whole, losses, rates)
    optimizer = sgd()
    first = LossCapture(optimizer)
    train(optimizer, first, losses[:stop], rates[:stop])
    before = first.take()
    state = json.loads(json.dumps(first.state_dict()))
    optimizer = sgd()
    second = LossCapture(optimizer)
    optimizer.step()  # must not matter
    second.record(99.0)
    second.load_state_dict(state)
    assert second.steps == stop
    assert second.last_rate() == first.last_rate()
    train(optimizer, second, losses[stop:], rates[stop:])
    both = [np.concatenate(column) for column in zip(before, second.take(), strict=True)]
    for got, wanted in zip(both, whole.take(), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"steps": -1, "last_rate": None}, StateError),
        ({"steps": 1.5, "last_rate": None}, StateError),
        ({"steps": "3", "last_rate": None}, StateError),
        ({"steps": 3, "last_rate": "0.1"}, StateError),
        ({"steps": 3}, KeyError),
    ],
)
def test_a_damaged_state_changes_nothing(state: dict[str, Any], error: type[Exception]) -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0, 1.0])
    with pytest.raises(error):
        capture.load_state_dict(state)
    assert_block(capture.take(), [0, 1], [2.0, 1.0], [NAN, 0.5])
    assert capture.steps == 2


# ---------------------------------------------------------------------- the device is left alone


HOST_READS = {"item", "tolist", "numpy", "cpu", "to", "equal", "nonzero", "is_nonzero", "allclose"}
HOST_READS |= {f"__{name}__" for name in ("array", "float", "int", "bool", "index", "contains")}
HOST_READS |= {"__repr__", "__format__"}


class HostReads(TorchFunctionMode):
    """Counts every call that would wait for a device, whatever tensor it is of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in HOST_READS:
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.cpu,
        lambda tensor: tensor.to(torch.float64),
        float,
        int,
        bool,
        np.asarray,
        str,
        lambda tensor: 1.0 if tensor > 0 else 0.0,
    ],
)
def test_the_watch_sees_every_way_to_read(read: Callable[[torch.Tensor], object]) -> None:
    with HostReads() as reads:
        read(torch.tensor(1.0))
    assert reads.seen


@pytest.mark.parametrize("tensor_rate", [False, True])
def test_only_taking_reads_and_then_once_for_each_kind(tensor_rate: bool) -> None:
    optimizer = sgd(lr=torch.tensor(0.5, dtype=torch.float64) if tensor_rate else 0.5)
    capture = LossCapture(optimizer)
    for group in optimizer.param_groups:
        group["foreach"] = True  # which uses a tensor rate without reading it
    with HostReads() as reads:
        for block in range(3):
            for i in range(50):
                loss = loss_of(optimizer, 10.0 * block + i)
                capture.record(loss)
                capture.record(loss, scale=0.5)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            assert reads.seen == [], "nothing may be read between two blocks"
            steps, losses, _ = capture.take()
            assert steps.tolist() == list(range(50 * block, 50 * block + 50))
            assert losses.tolist() == [0.75 * (10.0 * block + i) for i in range(50)]
            assert reads.seen.count("cpu") == 2 if tensor_rate else 1
            assert len(reads.seen) <= 6
            reads.seen.clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scaled", [False, True])
def test_a_gpu_is_never_waited_for(scaled: bool) -> None:
    weight = torch.ones(1000, device="cuda", requires_grad=True)
    rate = torch.tensor(1e-3, device="cuda")
    optimizer = torch.optim.AdamW([weight], lr=rate, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=scaled)
    capture = LossCapture(optimizer)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # its state is made with a first step, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3_000):
            loss = weight.square().mean()
            capture.record(loss)
            scaled_loss = scaler.scale(loss)
            assert isinstance(scaled_loss, torch.Tensor)
            scaled_loss.backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            loss.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps, losses, rates = capture.take()
    assert steps.tolist() == list(range(1, 3_001))
    assert (losses > 0).all()
    assert (rates == np.float32(1e-3)).all()


# ---------------------------------------------------------------------- compiled code


COMPILED = """
import json
import torch
from lossforecast.callbacks.capture import LossCapture

graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

def train(captured, recorded):
    torch._dynamo.reset()
    graphs.clear()
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=rate, foreach=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (1 + k))
    capture = LossCapture(optimizer) if captured else None

    def compute(value):
        loss = weight.sum() * 0 + value
        if recorded:
            capture.record(loss)
        return loss * 2

    compute = torch.compile(compute, backend=backend)
    step = torch.compile(lambda: optimizer.step(), backend=backend)
    counts = []
    for i in range(20):
        loss = compute(torch.tensor(float(i), dtype=torch.float64))
        if captured and not recorded:
            capture.record(loss / 2)
        loss.backward()
        step()
        scheduler.step()
        counts.append(len(graphs))
    return counts, [column.tolist() for column in capture.take()] if captured else None

torch.set_num_threads(1)
print(json.dumps([train(*how) for how in [(False, False), (True, False), (True, True)]]))
"""


def test_compiled_code_is_not_compiled_again_at_every_step() -> None:
    # in a process of its own, as the compiler leaves much behind
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, check=True
    )
    (alone, _), *captured = json.loads(ran.stdout)
    for counts, (steps, losses, rates) in captured:
        assert counts[2] == counts[-1]
        assert steps == losses == list(range(20))
        assert rates[1:] == [0.5 / k for k in range(1, 20)]
    hooked, recorded = captured[0][0], captured[1][0]
    assert hooked == alone, "the hooks add nothing to what is compiled"
    assert recorded[-1] == alone[-1] + 1, "recording splits a function in two"
