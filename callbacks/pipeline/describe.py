"""Facts about a run before it begins: its optimizer, its size, its project."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossforecast.callbacks.lr_schedulers import is_schedule_free
from lossforecast.runs import RunInfo
from lossforecast.schedule import averages
from lossforecast.store import storable

__all__ = ["describe", "identified", "project_name"]


def describe(
    run: RunInfo | None, optimizer: Any, metric: str, monitor: str | None = None
) -> RunInfo:
    """Complete the facts about a run with its metric and, if missing, optimizer and monitor.

    Args:
        run: facts given by the user.
        optimizer: the torch optimizer.
        metric: "train" or "val".
        monitor: name of the metric in the host's logs.
    """
    known = vars(run) if run else {}
    name = known.get("optimizer") or type(optimizer).__name__
    if is_schedule_free(optimizer) and not averages(name):
        name += "-schedule-free"
    monitor = known.get("monitor") or monitor
    return RunInfo(**{**known, "metric": metric, "optimizer": name, "monitor": monitor})


def identified(run: RunInfo, trained: Any) -> RunInfo:
    """Complete the facts about a run with its project, model and size, where they are missing.

    Args:
        run: facts about the run.
        trained: the model, or the optimizer where the model is unknown.
    """
    model = None
    if hasattr(trained, "param_groups"):
        weights = [weight for group in trained.param_groups for weight in group["params"]]
    else:
        weights, model = list(trained.parameters()), type(trained).__name__
    size = _size(weights)
    return replace(
        run,
        project=run.project or project_name(),
        model=run.model or model,
        n_params=run.n_params or size or None,
    )


def _size(weights: Iterable[Any]) -> int | None:
    """Return the number of trained parameters; None if a lazy one has no shape yet."""
    try:
        return sum(int(weight.numel()) for weight in weights if weight.requires_grad)
    except (RuntimeError, ValueError):
        return None


def project_name() -> str | None:
    """Return the path of the running script, or of the working directory in an interactive session.

    The path is relative to the parent of the repository, or absolute outside a repository; None if
    the working directory is gone.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        path = Path.cwd() if script is None else Path(script).absolute().with_suffix("")
    except OSError:
        return None
    inside = path if script is None else path.parent
    for root in (inside, *inside.parents):
        if (root / ".git").exists() and root.name:
            return storable(path.relative_to(root.parent).as_posix())
    return storable(path.as_posix())
