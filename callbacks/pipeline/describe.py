"""What a callback knows of a run before it begins: its optimizer, its size, its project."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossforecast.callbacks.lr_schedulers import is_schedule_free
from lossforecast.policies import Policy, reschedule, target_miss
from lossforecast.runs import RunInfo
from lossforecast.schedule import averages
from lossforecast.store import storable

__all__ = ["default_policies", "describe", "widest_group"]


def widest_group(optimizer: Any) -> int:
    """Index of the first parameter group with the largest rate, initial or present."""
    rates = [
        max(float(group["lr"]), float(group.get("initial_lr", group["lr"])))
        for group in optimizer.param_groups
    ]
    return rates.index(max(rates))


def describe(
    run: RunInfo | None, optimizer: Any, metric: str, monitor: str | None = None
) -> RunInfo:
    """What is known of the run, with its loss and, unless given, the optimizer's name."""
    known = vars(run) if run else {}
    name = known.get("optimizer") or type(optimizer).__name__
    if is_schedule_free(optimizer) and not averages(name):
        name += "-schedule-free"
    monitor = known.get("monitor") or monitor
    return RunInfo(**{**known, "metric": metric, "optimizer": name, "monitor": monitor})


def default_policies(apply: bool) -> list[Policy] | None:
    """The policies of a callback that was given none."""
    return [target_miss(), reschedule()] if apply else None


def identified(run: RunInfo, trained: Any) -> RunInfo:
    """What is known of a run, with what tells it from others; what was told stands."""
    model = None
    if hasattr(trained, "param_groups"):
        weights = [each for group in trained.param_groups for each in group["params"]]
    else:
        weights, model = list(trained.parameters()), type(trained).__name__
    size = sum(each.numel() for each in weights if each.requires_grad)
    return replace(
        run,
        project=run.project or project_name(),
        model=run.model or model,
        n_params=run.n_params or size or None,
    )


def project_name() -> str:
    """The script that runs, or the working folder where there is none, within its repository.

    Where there is no repository, with its whole path.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    path = Path.cwd() if script is None else Path(script).absolute().with_suffix("")
    inside = path if script is None else path.parent
    for root in (inside, *inside.parents):
        if (root / ".git").exists() and root.name:
            return storable(path.relative_to(root.parent).as_posix())
    return storable(path.as_posix())
