"""The run store: finished and running runs in a database."""

from lossforecast.store.database import address, connect, default_path
from lossforecast.store.rows import StoredRun, storable
from lossforecast.store.run_store import BINS, RunStore

__all__ = ["BINS", "RunStore", "StoredRun", "address", "connect", "default_path", "storable"]
