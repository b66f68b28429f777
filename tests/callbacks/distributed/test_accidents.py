"""Processes that freeze, fork, fail or are killed make no other wait, nor train otherwise."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.processes import SUPPORT
from support.warm import WarmProcess

SCRIPT = SUPPORT / "accident_processes.py"
TOTAL = 100
FULL = bool(os.environ.get("LOSSFORECAST_FULL"))
FORKS, ACCIDENTS = (40, 40) if FULL else (3, 1)
LIMIT_S = 15.0
START_S = 60.0  # for two processes to begin, on a busy machine


@contextmanager
def pair(folder: Path, **options: Any) -> Iterator[list[WarmProcess]]:
    """Two processes of one world; none is left in the end."""
    both = [
        WarmProcess(SCRIPT, folder, rank, json.dumps(options), output=folder / f"out-{rank}")
        for rank in range(2)
    ]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.wait()


def ended(process: WarmProcess, limit: float) -> int:
    try:
        return process.wait(timeout=limit)
    except TimeoutError:
        pytest.fail(f"still running after {limit} s")


def answer(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found


def wait_until_frozen(process: WarmProcess) -> None:
    last = time.monotonic() + START_S
    while time.monotonic() < last:
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text()
        except FileNotFoundError:
            pytest.fail(f"it has ended: {process.output.read_text()}")
        if stat.rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)
    pytest.fail("it was never asked to agree")


@pytest.fixture(scope="module")
def weights_without_us(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The weights of both processes."""
    folder = tmp_path_factory.mktemp("without_us")
    with pair(folder, watched=False, apart=True) as both:
        assert [ended(process, START_S) for process in both] == [0, 0]
    return [answer(folder, rank)["weights"] for rank in range(2)]


# before or after its answer, and which process freezes; all four in `make test-full`
FIRST, *OTHERS = ((True, 0), (True, 1), (False, 0), (False, 1))
WHEN_AND_WHICH = [FIRST, *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS)]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize(("before", "frozen"), WHEN_AND_WHICH)
def test_a_frozen_process_holds_no_other_loop(frozen: int, before: bool, tmp_path: Path) -> None:
    with pair(tmp_path, stop_from=30, freeze=frozen, before=before, leave=True) as both:
        wait_until_frozen(both[frozen])
        other = both[1 - frozen]
        assert ended(other, START_S) == 0, "while the first is frozen"
        found = answer(tmp_path, 1 - frozen)
        both[frozen].send_signal(signal.SIGCONT)
        assert ended(both[frozen], START_S) == 0
    assert found["steps"] == TOTAL or not before
    assert found["closing"] < 10


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize(("before", "frozen"), [FIRST, *OTHERS])
def test_processes_that_average_gradients_stop_together_or_not_at_all(
    frozen: int, before: bool, tmp_path: Path
) -> None:
    with pair(tmp_path, stop_from=30, freeze=frozen, before=before, ddp=True) as both:
        wait_until_frozen(both[frozen])
        time.sleep(3)  # longer than the others wait
        both[frozen].send_signal(signal.SIGCONT)
        assert [ended(process, START_S) for process in both] == [0, 0]
    first, other = (answer(tmp_path, rank) for rank in range(2))
    assert first["steps"] == other["steps"]
    assert first["weights"] == other["weights"]


def test_forked_children_end_and_disturb_nothing(
    tmp_path: Path, weights_without_us: list[list[float]]
) -> None:
    chance, ways = random.Random(0), ("raise", "exit", "_exit", "kill")
    forks = {step: [chance.choice(ways)] for step in chance.sample(range(5, 95), FORKS)}
    with pair(tmp_path, apart=True, forks=forks) as both:
        assert [ended(process, START_S + FORKS * LIMIT_S) for process in both] == [0, 0]
    found = [answer(tmp_path, rank) for rank in range(2)]
    assert [each["weights"] for each in found] == weights_without_us
    assert [each["steps"] for each in found] == [TOTAL, TOTAL]


def test_random_accidents(tmp_path: Path, weights_without_us: list[list[float]]) -> None:
    chance = random.Random(1)
    for turn in range(ACCIDENTS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        rank, at = chance.randrange(2), chance.randrange(TOTAL)
        how = chance.choice(("kill", "interrupt", "raise", "exit", "_exit"))
        with pair(folder, apart=True, rank=rank, at=at, how=how, stop_from=10**9) as both:
            assert ended(both[rank], START_S) != 0, (how, at)
            assert ended(both[1 - rank], LIMIT_S + 5) == 0, (how, at)
        found = answer(folder, 1 - rank)
        assert found["steps"] == TOTAL
        assert found["weights"] == weights_without_us[1 - rank]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_where_no_thread_can_be_started_training_and_forecasts_go_on(
    rank: int, tmp_path: Path, weights_without_us: list[list[float]]
) -> None:
    with pair(tmp_path, apart=True, threadless=rank, stop_from=30) as both:
        assert [ended(process, START_S) for process in both] == [0, 0]
    found = [answer(tmp_path, each) for each in range(2)]
    assert [each["weights"] for each in found] == weights_without_us
    assert not any(each["off"] for each in found)
    assert found[0]["forecast"] == TOTAL - 1
    (line,) = (line for line in found[rank]["log"] if "can't start new thread" in line)
    assert line.startswith(f"process {rank} exchanges nothing")
