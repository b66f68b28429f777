"""`LossCapture` reads the device once for each block, and compiled code is not compiled again."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.captures import loss_of, sgd
from support.host_reads import HostReads, on_device

from lossforecast.callbacks.capture.loss_capture import LossCapture


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
    rate = on_device(torch.tensor(0.5, dtype=torch.float64)) if tensor_rate else 0.5
    optimizer = sgd(lr=rate)
    capture = LossCapture(optimizer)
    for group in optimizer.param_groups:
        group["foreach"] = True  # which uses a tensor rate without reading it
    with HostReads() as reads:
        for block in range(3):
            for i in range(50):
                loss = on_device(loss_of(optimizer, 10.0 * block + i))
                capture.record(loss)
                capture.record(loss, scale=0.5)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            assert reads.seen == [], "nothing may be read between two blocks"
            steps, losses, _ = capture.take()
            assert steps.tolist() == list(range(50 * block, 50 * block + 50))
            assert losses.tolist() == [0.75 * (10.0 * block + i) for i in range(50)]
            assert reads.seen.count("cpu") == (2 if tensor_rate else 1)
            assert len(reads.seen) <= 6
            reads.seen.clear()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_losses_on_the_host_are_the_same_to_the_bit_as_those_on_a_device(
    dtype: torch.dtype, scale: float
) -> None:
    values = torch.tensor([2.3456789, 1e-7, 333.3, -0.1, torch.nan, torch.inf], dtype=dtype)
    taken = []
    for place in (lambda loss: loss, on_device):
        optimizer = sgd()
        capture = LossCapture(optimizer)
        for value in values:
            loss = value.clone()
            capture.record(place(loss), scale=scale)
            loss.zero_()  # as users do who scale it in place
            optimizer.step()
        taken.append(capture.take())
    for on_host, elsewhere in zip(*taken, strict=True):
        np.testing.assert_array_equal(on_host, elsewhere)
    assert taken[0][1][0] == (values[0] * scale).double()


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
