"""The run store: finished and running runs in a database."""

from lossforecast.store.address import address, default_path, full_address, shown, switched_on
from lossforecast.store.engines import connect
from lossforecast.store.past import FinishedRuns
from lossforecast.store.plan import RunPlan, Split
from lossforecast.store.plan_plot import plot_plan
from lossforecast.store.rows import StoredRun, storable
from lossforecast.store.run_store import BINS, RunStore

__all__ = [
    "BINS",
    "FinishedRuns",
    "RunPlan",
    "RunStore",
    "Split",
    "StoredRun",
    "address",
    "connect",
    "default_path",
    "full_address",
    "plot_plan",
    "shown",
    "storable",
    "switched_on",
]
