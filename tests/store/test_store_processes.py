"""Many processes that write to one store, some of them killed."""

import os
import pickle
import random
import signal
import time

import numpy as np
import pytest
from support.stored_runs import filled, start

from lossforecast.store.run_store import RunStore


def test_many_write_at_once_and_some_are_killed(where: str) -> None:
    """No record is lost or torn: what a writer said was flushed is there, whole."""
    full = bool(os.environ.get("LOSSFORECAST_FULL"))
    count, flushes, victims = (32, 200, 5) if full else (8, 25, 2)
    RunStore(where)
    writers = start(where, count, flushes, victims)
    chance = random.Random(0)
    said: list[list[str]] = [[] for _ in writers]
    doomed = {i: chance.randrange(flushes // 4, flushes // 2) for i in range(victims)}
    for i, last in doomed.items():
        with writers[i] as writer:
            assert writer.stdout is not None
            while len(said[i]) <= last:
                said[i].append(writer.stdout.readline().strip())
            time.sleep(chance.random() * 0.05)  # somewhere within the next flush
            writer.send_signal(signal.SIGKILL)
            said[i] += writer.stdout.read().split()
    for i, writer in enumerate(writers):
        rest, errors = ("", "") if i in doomed else writer.communicate(timeout=500)
        said[i] += rest.split()
        assert writer.returncode == (-signal.SIGKILL if i in doomed else 0), errors
    store = RunStore(where)
    found = {run.key: run for run in store.runs()}
    assert len(found) == count
    for i, (key, *flushed) in enumerate(said):
        run, history, kept = found[key], store.history(key), store.forecasts(key)
        at_least = int(flushed[-1]) if flushed else 0
        done = (run.step + 1) // 20
        assert done == flushes if i not in doomed else done in (at_least, at_least + 1)
        assert run.state == ("running" if i in doomed else "finished")
        assert history.last_step == run.step
        assert [row["made_at"] for row in kept] == [20 * n - 1 for n in range(1, done + 1)]
        bins = history.bins()
        assert bins.count.sum() == 20 * done
        exact = [
            np.mean(2 + 1 / (np.arange(a, b + 1) + 1))
            for a, b in zip(bins.first, bins.last, strict=True)
        ]
        assert bins.mean.tolist() == pytest.approx(exact)


def test_many_open_a_new_store_at_once(where: str) -> None:
    writers = start(where, 6, 1)
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert len(RunStore(where).runs()) == 6


def test_a_store_goes_to_another_process(where: str) -> None:
    store, key = filled(where)
    assert pickle.loads(pickle.dumps(store)).run(key).key == key
