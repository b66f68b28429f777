"""A process that writes to a store as a run does: many flushes, each with a forecast.

Prints a line after each flush that was done, so that who kills it knows what must not be lost.
"""

import sys

import numpy as np

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.store.run_store import RunStore


def main(where: str, name: str, flushes: int) -> None:
    """Write one run; its loss at step t is 2 + 1 / (t + 1)."""
    plan = LRSchedule.wsd(20 * flushes, 1e-3)
    forecaster = Forecaster(plan, RunInfo("train", project="writers"))
    store = RunStore(where)
    key = store.begin(name, forecaster.run, plan)
    print(key, flush=True)  # noqa: T201
    for flush in range(1, flushes + 1):
        steps = np.arange(20 * (flush - 1), 20 * flush)
        forecaster.observe_many(steps, 2 + 1 / (steps + 1))
        store.save(key, forecaster.history, plan, [forecaster.forecast()])
        print(flush, flush=True)  # noqa: T201
    store.end(key, "finished")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
