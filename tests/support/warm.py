"""Processes that begin with torch and lossforecast loaded, which a fresh Python takes seconds for.

They are forked from a server, which this module is when it is run. To their scripts they look like
a fresh Python: arguments, environment, folder, streams and the way they end are their own.
"""

import atexit
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.processes import python_path

_MESSAGE_BYTES = 1 << 20
_RETURNCODE = 4  # bytes of a number that the server sends


class WarmProcess:
    """A script or ``-c CODE`` with its arguments: as much of `subprocess.Popen` as tests need.

    Its output, both streams together, goes to the file `output`. The script may import `support`.
    """

    def __init__(
        self, *arguments: object, output: Path, cwd: Path | None = None, **environment: str
    ) -> None:
        self.returncode: int | None = None
        self.output = output
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or Path.cwd()),
            "environment": {**os.environ, **environment},
        }
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_address())
        with output.open("wb") as file:
            socket.send_fds(self._server, [json.dumps(request).encode()], [file.fileno()])
        self.pid = self._number()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; `TimeoutError` if it still runs then."""
        if self.returncode is None:
            self._server.settimeout(timeout)
            self.returncode = self._number()
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        try:
            self.wait(timeout=1e-3)
        except TimeoutError:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        return int.from_bytes(self._server.recv(_RETURNCODE), signed=True)


def run_warm(
    *arguments: object, output: Path, limit: float = 300, cwd: Path | None = None, **env: str
) -> str:
    """The output of a script or ``-c CODE``, which must end well."""
    process = WarmProcess(*arguments, output=output, cwd=cwd, **env)
    try:
        returncode = process.wait(timeout=limit)
    finally:
        process.kill()
    assert returncode == 0, output.read_text()
    return output.read_text()


@functools.cache
def _address() -> str:
    """The socket of the server, which ends with this process."""
    folder = tempfile.mkdtemp(prefix="warm-")
    server = subprocess.Popen(
        [sys.executable, __file__, f"{folder}/socket"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert server.stdout is not None
    assert server.stdin is not None
    server.stdout.readline()
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    return f"{folder}/socket"


# ---------------------------------------------------------------------- the server


def _load() -> None:
    """Load what every script needs; the first optimizer loads torch's compiler."""
    import torch

    from lossforecast.callbacks import TorchLossForecast  # noqa: F401

    torch.optim.SGD([torch.ones(1)], lr=0.1)


def _serve(address: str) -> dict[str, Any]:
    """Fork a process for each request until nobody is left to ask; returns in those processes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)  # noqa: T201
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            sys.exit()
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _watched(client)
        client.close()


def _watched(client: socket.socket) -> dict[str, Any]:
    """Tell the client when the process has ended in which this returns."""
    message, (output,), _, _ = socket.recv_fds(client, _MESSAGE_BYTES, 1)
    process = os.fork()
    if process == 0:
        client.close()
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        request: dict[str, Any] = json.loads(message)
        return request
    os.close(output)
    client.sendall(process.to_bytes(_RETURNCODE))
    _, status = os.waitpid(process, 0)
    client.sendall(os.waitstatus_to_exitcode(status).to_bytes(_RETURNCODE, signed=True))
    os._exit(0)


def _run(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _load()
    _run(**_serve(sys.argv[1]))
