"""Facts about a run before it begins: its optimizer, its size, its project."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossforecast.callbacks.pipeline.recognition import Recognition
from lossforecast.display import size_text
from lossforecast.runs import RunInfo, RunKind
from lossforecast.schedule import averages
from lossforecast.store import storable

__all__ = ["describe", "identified", "kind_message", "project_name", "with_given"]

_GIVEN_ON_RESUMING = (
    "project",
    "task",
    "model",
    "dataset",
    "n_params",
    "batch_size",
    "steps_per_epoch",
)


def describe(
    run: RunInfo | None,
    metric: str,
    monitor: str | None,
    seen: Recognition,
    steps_per_epoch: float | None = None,
) -> RunInfo:
    """Complete the facts about a run with its metric and, where missing, other known facts.

    Args:
        run: facts given by the user.
        metric: "train" or "val".
        monitor: name of the metric in the host's logs.
        seen: what the model and the optimizer show about the run.
        steps_per_epoch: optimizer steps in one pass over the data, as the training loop knows them.
    """
    known = run or RunInfo()
    name = known.optimizer or seen.optimizer
    if seen.schedule_free and not averages(name or ""):
        name = f"{name}-schedule-free"
    return replace(
        known,
        metric=metric,
        optimizer=name,
        monitor=known.monitor or monitor,
        task=seen.task if known.task is None else known.task,
        n_params=seen.n_params if known.n_params is None else known.n_params,
        steps_per_epoch=known.steps_per_epoch or steps_per_epoch,
    )


def identified(run: RunInfo, seen: Recognition) -> RunInfo:
    """Complete the facts about a run with its project and model, where they are missing.

    Args:
        run: facts about the run.
        seen: what the model shows about the run.
    """
    return replace(run, project=run.project or project_name(), model=run.model or seen.model)


def with_given(state: Any, run: RunInfo | None, steps_per_epoch: float | None = None) -> Any:
    """Return the saved state of a pipeline with the facts that the user gives when resuming.

    Facts that are not given now stay as saved. A damaged state is returned as it is.

    Args:
        state: state of a `Pipeline`.
        run: facts given by the user.
        steps_per_epoch: optimizer steps in one pass over the data, if the state does not have them.
    """
    given = {name: getattr(run, name, None) for name in _GIVEN_ON_RESUMING}
    given = {name: value for name, value in given.items() if value is not None}

    def completed(saved: dict[str, Any]) -> dict[str, Any]:
        an_epoch = saved.get("steps_per_epoch") or steps_per_epoch
        return {**saved, "steps_per_epoch": an_epoch, **given}

    try:
        forecasters = {
            metric: {**saved, "run": completed(saved["run"])}
            for metric, saved in state["forecasters"].items()
        }
        return {**state, "forecasters": forecasters}
    except (AttributeError, KeyError, TypeError):
        return state


def kind_message(run: RunInfo, given: RunInfo | None, seen: Recognition) -> str:
    """Return a line for the log about the kind of a run, and how it is known.

    Args:
        run: all facts about the run.
        given: those given by the user.
        seen: what the model shows about the run.
    """
    facts = f"({', '.join(filter(None, [_size_text(run.n_params), run.optimizer]))})"
    if run.kind is RunKind.SMALL_MODEL:
        return f"kind of run: {run.kind} {facts}"
    if run.task is None:
        why = f", {seen.reason}" if seen.reason else ""
        return f"kind of run: {run.kind} {facts}, task unknown{why}; RunInfo(task=...) names it"
    line = f"kind of run: {run.kind} {facts}"
    if run.kind is RunKind.OTHER:
        line += f", task {run.task!r:.60}"
    if given is not None and given.task is not None:
        return f"{line}, as RunInfo says"
    why = seen.reason if run.task == seen.task else "as when the run began"
    return f"{line}, {why}; RunInfo(task=...) changes that"


def _size_text(n_params: float | None) -> str:
    return "size unknown" if n_params is None else f"{size_text(n_params)} parameters"


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
