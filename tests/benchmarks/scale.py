"""Costs at scale: sweeps of 10,000 trials, stores of 10,000 runs, a fleet of 1,000 runs.

    PYTHONPATH=tests python tests/benchmarks/scale.py

Prints each figure beside its aim. Decisions and the panel are counted in CPU time of one process;
what involves a database in wall time. `--short` runs all of it at a hundredth of the size.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import sqlalchemy as sa  # noqa: E402
from scale_fleet import fleet_figures  # noqa: E402
from scale_store import panel_figures, store_figures  # noqa: E402
from scale_sweeps import optuna_figures, ray_figures  # noqa: E402
from scale_table import Figure, table  # noqa: E402
from support.postgres import binaries, server  # noqa: E402

SHORT = 0.01

Group = Callable[[float], list[Figure]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--short", action="store_true", help="a hundredth of the size")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in args.only:
        began = time.monotonic()
        figures = GROUPS[name](SHORT if args.short else 1.0)
        sys.stdout.write(f"{table(figures)}\n")
        sys.stdout.flush()
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")


def sqlite(scale: float) -> list[Figure]:
    """Measure a store in a file."""
    with tempfile.TemporaryDirectory() as folder:
        return store_figures(str(Path(folder) / "runs.db"), "SQLite", scale)


def postgres(scale: float) -> list[Figure]:
    """Measure a store in PostgreSQL; nothing where it is not installed."""
    if binaries() is None:
        return []
    with server() as url:
        return store_figures(url, "PostgreSQL", scale)


def fleet(scale: float) -> list[Figure]:
    """Measure a fleet; nothing where PostgreSQL is not installed."""
    if binaries() is None:
        return []
    with server("-c fsync=on") as url:
        return fleet_figures(url, Path(str(sa.make_url(url).query["host"])) / "data", scale)


GROUPS: dict[str, Group] = {
    "optuna": optuna_figures,
    "ray": ray_figures,
    "sqlite": sqlite,
    "postgres": postgres,
    "panel": panel_figures,
    "fleet": fleet,
}

if __name__ == "__main__":
    main()
