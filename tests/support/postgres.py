"""A PostgreSQL server of its own for the tests, where one is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl: the newest of Debian's, or what the PATH has."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if found:
        return found[-1].parent
    known = shutil.which("initdb")
    return None if known is None else Path(known).parent


@contextmanager
def server(settings: str = "-c fsync=off") -> Iterator[str]:
    """The URL of an empty database; skips where PostgreSQL is not installed.

    The server listens on a socket in a folder of its own, which is the option `host` of the URL. It
    refuses to run as root, so root runs it as the user postgres.

    Args:
        settings: options of the server.
    """
    home = binaries()
    if home is None:
        pytest.skip("PostgreSQL is not installed")
    root = os.geteuid() == 0
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    folder = Path(tempfile.mkdtemp(prefix="lossforecast-pg-"))
    if root:
        shutil.chown(folder, "postgres")
    data = folder / "data"

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [*as_user, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(str(home / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses='' -k {folder} -c max_connections=100 {settings}"
    log = str(folder / "log")
    run(str(home / "pg_ctl"), "-D", str(data), "-o", options, "-l", log, "-w", "start")
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    finally:
        run(str(home / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
