"""Steps that `LossCapture` counts: any loop, gradient scalers, closures, failed steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captures import INF, NAN, Block, assert_block, loss_of, sgd, train

from lossforecast.callbacks.capture.loss_capture import LossCapture


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
