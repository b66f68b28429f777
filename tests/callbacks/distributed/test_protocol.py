"""The agreement of many processes, simulated: every order of events that chance comes up with."""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossforecast.callbacks.distributed.header import Request
from lossforecast.callbacks.distributed.protocol import Block, Change, Member, Message, Need
from lossforecast.schedule.lr_schedule import Decay, LRSchedule

EVERY = 3
DECAY = Decay(1_000_000_007, 12_345, "sqrt")


def block(steps: list[int], losses: list[float], step: int, **more: Any) -> Block:
    at = np.array(steps, dtype=np.int64)
    return Block(at, np.array(losses, float), np.full(at.size, 0.5), step, **more)


@dataclass
class Process:
    """A training loop and its conversation, driven step by step by a `World`."""

    world: "World"
    rank: int
    length: int
    wants_stop_at: int | None = None
    wants_decay_at: int | None = None
    fails_at: int | None = None
    calls: int = 0
    posted: int = 0
    begun: int | None = None
    next: int = 0
    inbox: deque[Message] = field(default_factory=deque)
    heard: list[Message] = field(default_factory=list)
    waits: bool = False
    done: bool = False
    dead: bool = False
    over: bool = False

    def __post_init__(self) -> None:
        size = len(self.world.lengths)
        self.member = Member(self.rank, size, 0, 2 * EVERY, self.deliver)
        self.conversation = self.member.exchange()
        self.need: Any = next(self.conversation)
        self.joined = 0  # collectives taken part in

    def deliver(self, message: Message) -> Request:
        if isinstance(message, Change):
            self.heard.append(message)
            return Request()
        if self.fails_at is not None and message.step >= self.fails_at:
            raise ZeroDivisionError("scripted")
        self.heard.append(message)
        stop = self.wants_stop_at is not None and message.step >= self.wants_stop_at
        decay = self.wants_decay_at is not None and message.step >= self.wants_decay_at
        return Request(stop, DECAY if decay and self.begun is None else None)

    # the loop, as `Pipeline` does it

    def loop(self) -> None:
        if self.calls >= self.next or self.waits:
            if not self.waits and self.calls - self.calls % EVERY > self.posted:
                self.post(leaves=False)
            following = self.member.schedule_poll((self.calls // EVERY + 1) * EVERY)
            self.waits = following is None and not self.over
            if self.waits:
                return
            self.next = following or self.calls + 1
            if self.member.decay_at is not None and self.begun is None:
                if self.calls >= self.member.decay_at:
                    assert self.member.decay == DECAY
                    self.begun = self.calls
                    self.inbox.append(Change(self.calls, LRSchedule.constant(60, 1.0)))
                else:
                    self.next = min(self.next, self.member.decay_at)
        stop = self.member.stop_at
        if self.calls == self.length or (stop is not None and self.calls >= stop):
            self.post(leaves=True)
            self.done = True
        else:
            self.calls += 1

    def post(self, *, leaves: bool) -> None:
        steps = list(range(self.posted, self.calls))
        losses = [float(self.rank + step) for step in steps]
        self.inbox.append(block(steps, losses, self.calls, leaves=leaves))
        self.posted = self.calls

    # the conversation, as `Team` does it

    def answer(self, value: Any) -> None:
        try:
            self.need = self.conversation.send(value)
        except StopIteration:
            self.over, self.need = True, None


@dataclass
class World:
    """Processes whose collectives complete when all have taken part, and a fair coin."""

    lengths: list[int]
    chance: random.Random
    lockstep: bool
    options: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self.processes = [
            Process(self, rank, length, **self.options[rank])
            for rank, length in enumerate(self.lengths)
        ]
        self.gathered: list[dict[int, Any]] = []
        self.results: dict[int, Any] = {}

    def run(self, events: float = math.inf) -> None:
        """So many events, or until nothing can happen any more."""
        while events > 0:
            able = self.chance.choice(self.processes)
            if not self.acts(able):
                others = [process for process in self.processes if self.acts(process)]
                if not others:
                    return
                able = self.chance.choice(others)
            self.chance.choice(self.acts(able))(able)
            events -= 1

    def acts(self, process: Process) -> list[Callable[[Process], None]]:
        """What a process can do now."""
        acts: list[Callable[[Process], None]] = []
        if process.dead:
            return acts
        answered = not process.member.agreeing or process.over
        if not process.done and (answered or not process.waits) and not self.held(process):
            acts.append(Process.loop)
        if process.need is Need.MESSAGE:
            if process.inbox:
                acts.append(self.read)
        elif process.need is not None and self.ready(process):
            acts.append(self.take_part)
        return acts

    def held(self, process: Process) -> bool:
        """Whether gradients of the others are missing."""
        return self.lockstep and any(
            other.calls < process.calls for other in self.processes if not other.done
        )

    def read(self, process: Process) -> None:
        process.answer(process.inbox.popleft())

    def ready(self, process: Process) -> bool:
        """Whether its contribution can be given, or the result be taken."""
        given_before = process.joined < len(self.gathered) and (
            process.rank in self.gathered[process.joined]
        )
        anyone_dead = any(p.dead and p.joined <= process.joined for p in self.processes)
        return not given_before or process.joined in self.results or anyone_dead

    def take_part(self, process: Process) -> None:
        turn = process.joined
        while turn >= len(self.gathered):
            self.gathered.append({})
        gathered = self.gathered[turn]
        if process.rank not in gathered:
            promise = process.need is Need.NEXT_POLL
            gathered[process.rank] = process.member.freeze_poll() if promise else process.need
            if len(gathered) == len(self.processes):
                values = list(gathered.values())
                kinds = {type(value) for value in values}
                assert len(kinds) == 1, "all ask for the same kind of answer"
                self.results[turn] = max(values) if kinds == {int} else np.sum(values, axis=0)
        elif turn in self.results:
            process.joined += 1
            process.answer(self.results[turn])
        else:  # the connection is lost
            process.over, process.need = True, None

    @property
    def stops(self) -> set[int]:
        """Where loops have ended before their length."""
        return {p.calls for p in self.processes if p.done and p.calls < p.length}

    def die(self, rank: int) -> None:
        self.processes[rank].dead = self.processes[rank].done = True


def world_of(sizes: list[int], seed: int, *, lockstep: bool = True, **decides: Any) -> World:
    options: list[dict[str, Any]] = [{} for _ in sizes]
    options[0] = decides
    return World(sizes, random.Random(seed), lockstep, options)


def test_losses_are_averaged_over_those_that_have_one() -> None:
    heard: list[Message] = []

    def deliver(message: Message) -> Request:
        heard.append(message)
        return Request()

    members = [Member(rank, 3, 10, 8, deliver) for rank in range(3)]
    conversations = [member.exchange() for member in members]
    for conversation in conversations:
        next(conversation)
    blocks = [
        block([10, 11, 12], [1.0, 2.0, math.nan], 14, check=0.25),
        block([11, 12, 13], [4.0, 1.0, 7.0], 14),
        block([], [], 14),
    ]
    packed: list[Any] = [c.send(b) for c, b in zip(conversations, blocks, strict=True)]
    conversations[0].send(np.sum(packed, axis=0))
    (averaged,) = heard
    assert isinstance(averaged, Block)
    assert averaged.steps.tolist() == [10, 11, 12, 13]
    np.testing.assert_array_equal(averaged.losses, [1.0, 3.0, math.nan, 7.0])
    np.testing.assert_array_equal(averaged.rates, [0.5, 0.5, 0.5, math.nan])
    assert (averaged.step, averaged.check) == (14, 0.25)


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 40),
    size=st.integers(2, 9),
    wanted=st.one_of(st.none(), st.integers(0, 45)),
    decay=st.one_of(st.none(), st.integers(0, 45)),
    seed=st.integers(0, 2**32),
    lockstep=st.booleans(),
)
def test_all_stop_and_decay_together_or_none(
    length: int, size: int, wanted: int | None, decay: int | None, seed: int, lockstep: bool
) -> None:
    decides = {"wants_stop_at": wanted, "wants_decay_at": decay}
    check_agreement(world_of([length] * size, seed, lockstep=lockstep, **decides))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lockstep", [True, False])
def test_256_processes(seed: int, lockstep: bool) -> None:
    check_agreement(world_of([30] * 256, seed, lockstep=lockstep, wants_stop_at=9))


def check_agreement(world: World) -> None:
    world.run()
    assert all(p.done for p in world.processes), "no loop waits forever"
    assert all(p.over for p in world.processes), "no conversation waits forever"
    ends = {p.calls for p in world.processes}
    assert len(ends) == 1, "all end at the same step"
    assert len({p.begun for p in world.processes}) == 1, "all decay from the same step on"
    heard = [
        [m if isinstance(m, Change) else (m.step, getattr(m, "losses", np.empty(0)).tolist())
         for m in p.heard]
        for p in world.processes
    ]  # fmt: skip
    assert all(each == heard[0] for each in heard), "all know the same"
    mean = (len(world.processes) - 1) / 2
    losses = [loss for m in heard[0] if isinstance(m, tuple) for loss in m[1]]
    assert losses == [mean + step for step in range(ends.pop())], "every loss once"


def test_a_wish_is_followed_within_two_blocks_of_lockstep() -> None:
    for seed in range(50):
        world = world_of([60] * 4, seed, wants_stop_at=9)
        world.run()
        assert len(world.stops) == 1
        (stop,) = world.stops
        assert stop > 9
        assert stop % EVERY == 0


def test_a_decay_is_begun_within_two_blocks_of_lockstep_and_a_stop_may_follow() -> None:
    for seed in range(50):
        world = world_of([60] * 4, seed, wants_decay_at=9, wants_stop_at=30)
        check_agreement(world)
        (begun,), (stop,) = {p.begun for p in world.processes}, world.stops
        assert begun is not None
        assert 9 < begun < stop
        assert stop > 30
        assert begun % EVERY == 0


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=2, max_size=9),
    wanted=st.one_of(st.none(), st.integers(0, 30)),
    fails=st.one_of(st.none(), st.tuples(st.integers(0, 8), st.integers(0, 30))),
    seed=st.integers(0, 2**32),
)
def test_no_loop_waits_for_one_that_ends_or_fails(
    lengths: list[int], wanted: int | None, fails: tuple[int, int] | None, seed: int
) -> None:
    world = world_of(lengths, seed, lockstep=False, wants_stop_at=wanted)
    if fails is not None and fails[0] < len(lengths):
        world.processes[fails[0]].fails_at = fails[1]
    world.run()
    assert all(p.done for p in world.processes)
    assert all(p.over for p in world.processes), "who ends tells the others"
    assert len(world.stops) <= 1, "at most one step to stop at"
    if world.stops:
        (stop,) = world.stops
        assert all(p.calls == min(p.length, stop) for p in world.processes)


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(2, 9),
    wanted=st.one_of(st.none(), st.integers(0, 30)),
    victim=st.integers(0, 8),
    after=st.integers(0, 400),
    seed=st.integers(0, 2**32),
)
def test_no_loop_waits_for_one_that_dies(
    size: int, wanted: int | None, victim: int, after: int, seed: int
) -> None:
    world = world_of([30] * size, seed, lockstep=False, wants_stop_at=wanted)
    world.run(after)
    world.die(victim % size)
    world.run()
    assert all(p.done for p in world.processes)
    assert len(world.stops - {world.processes[victim % size].calls}) <= 1


def test_processes_at_different_steps_part() -> None:
    members = [Member(rank, 3, 0, 8, lambda message: Request()) for rank in range(3)]
    for other in (4, 4096 + 3, 3 * 4096, 10**9):
        conversations = [member.exchange() for member in members]
        for conversation in conversations:
            next(conversation)
        blocks = [block([], [], 3), block([], [], other), block([], [], 3)]
        packed: list[Any] = [c.send(b) for c, b in zip(conversations, blocks, strict=True)]
        for conversation in conversations:
            with pytest.raises(StopIteration) as end:
                conversation.send(np.sum(packed, axis=0))
            assert "different numbers of optimizer steps" in end.value.value
