"""Keeps training loops of tests near the exchange between their processes, on any machine.

In a real run a step takes much longer than an exchange. Without a limit the short steps of a test
may be over before the processes have agreed on anything, and how far they get depends on the load.
"""

import time

from lossforecast.callbacks.distributed import team

PATIENT = team.Timeouts(rendezvous=120.0, connection=600.0, drain=120.0, exit=1.0, agreement=120.0)
"""For processes that are all there, however slow the machine is."""
LONELY = team.Timeouts(rendezvous=0.3, connection=600.0, drain=120.0, exit=1.0, agreement=120.0)
"""For a run in which not all processes have a callback."""
_LIMIT = 120.0  # seconds for one exchange; only reached by an error


def keep_pace(step: int, lead: int = 15) -> None:
    """Wait while the loop is `lead` steps ahead of the oldest message that is not exchanged."""
    last = time.monotonic() + _LIMIT
    while any(_lag(each, step) >= lead for each in list(team._active)):
        assert time.monotonic() < last, "the exchange between the processes does not go on"
        time.sleep(0.001)


def _lag(one: team.Team, step: int) -> int:
    undelivered = [] if one.over else one.undelivered
    return step - undelivered[0].step if undelivered else 0
