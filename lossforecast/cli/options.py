"""`LogOptions`: the options that describe a log and its run, shared by several commands."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

from lossforecast.cli.output import print_note, reading
from lossforecast.errors import ConfigurationError
from lossforecast.prior import Prior
from lossforecast.readers import FORMATS, Log, read_log
from lossforecast.runs import RunInfo
from lossforecast.schedule import NAMED_SCHEDULES, LRSchedule, schedule_from_text
from lossforecast.status import Caveat
from lossforecast.store import RunStore

__all__ = [
    "CURVES_HELP",
    "EVENT_OPTIONS",
    "JOBS_HELP",
    "JSON_HELP",
    "LOG_HELP",
    "LOG_OPTIONS",
    "PROJECT_HELP",
    "SCHEDULE_EXAMPLE",
    "STORE_OPTIONS",
    "TARGET_HELP",
    "LogOptions",
    "print_notes",
    "with_options",
]

SCHEDULE_EXAMPLE = "such as cosine:peak=3e-4,end=3e-5,warmup=2000"
LOG_HELP = (
    "Log of a run: a file, or the folder of one run. Known formats: "
    f"{', '.join(log_format.description for log_format in FORMATS)}."
)
TARGET_HELP = "Final loss to reach. If given, the advice is also to stop a run that will miss it."
JSON_HELP = "Write the whole result to this file as JSON; - for stdout."
CURVES_HELP = "Folder of recorded runs: NAME.npz with its description NAME.json."
JOBS_HELP = "Number of processes that share the runs."
PROJECT_HELP = "Project of the run; runs learn from finished runs of the same project."

_EVENT_HELP = (
    "Change of the data, augmentation, sequence length or batch size, at which the loss may jump: "
    "the optimizer steps before it, and a name. May be repeated."
)


def _option(text: str, **limits: float) -> Any:
    return field(default=None, metadata={"help": text, **limits})


@dataclass(frozen=True)
class LogOptions:
    """Description of a log and its run; each field is an option of the command line."""

    column: str | None = _option(
        "Column that holds the loss. Default: the first whose name looks like one (loss, "
        "train_loss, eval_loss, ...)."
    )
    metric: str | None = _option(
        "Kind of loss: train or val. Default: inferred from the name of the column."
    )
    step_column: str | None = _option(
        "Column of optimizer steps. Default: the first with a usual name (global_step, step, ...)."
    )
    lr_column: str | None = _option(
        "Column of the learning rate. Default: the one whose name looks like it (lr, ...)."
    )
    run: str | None = _option(
        "Run to read from a log of several, by its name or its number from 1. Default: the last of "
        "runs that were appended, the first of runs with names."
    )
    schedule: str | None = _option(
        f"Planned schedule of the whole run, {SCHEDULE_EXAMPLE}. One of "
        f"{', '.join(NAMED_SCHEDULES)}. Default: the decay that the logged rates lie on, or the "
        "last rate held."
    )
    total_steps: int | None = _option("Planned length of the run in optimizer steps.", min=1)
    optimizer: str | None = _option("Name of the optimizer, such as adamw.")
    task: str | None = _option(
        "What the model is trained for, e.g. 'language modelling' or 'image classification'. "
        "Without it, the annealing rule of large language models is not used."
    )
    dataset: str | None = _option("Name of the training data.")
    n_params: int | None = _option(
        "Number of parameters of the model; up to ten million, it counts as a small model.", min=1
    )
    steps_per_epoch: float | None = _option(
        "Optimizer steps in one pass over the training data. Default: inferred from the "
        "column of epochs, if the log has one."
    )
    batch_size: int | None = _option("Samples or tokens per optimizer step.", min=1)
    model: str | None = _option("Name of the architecture.")
    project: str | None = _option(PROJECT_HELP)
    store: str | None = _option("Store of past runs to learn from: a path or a database URL.")
    event: list[str] | None = field(
        default=None, metadata={"help": _EVENT_HELP, "metavar": "STEP:NAME"}
    )

    @property
    def events(self) -> list[tuple[int, str]]:
        """Steps and names of the events.

        Raises:
            ConfigurationError: one of them is not STEP:NAME.
        """
        return [_event(text) for text in self.event or ()]

    def read(self, path: Path, *, notes: bool = True) -> Log:
        """Read a log and mark its events; print its notes unless `notes` is False.

        Raises:
            ConfigurationError: the log cannot be read, or an option contradicts it.
        """
        if self.metric not in (None, "train", "val"):
            raise ConfigurationError(f"--metric {self.metric}: it must be train or val")
        with reading(path) as on_read:
            log = read_log(
                path,
                column=self.column,
                metric=self.metric,
                step_column=self.step_column,
                rate_column=self.lr_column,
                total_steps=self.total_steps,
                run=self.run,
                on_read=on_read,
            )
        if self.steps_per_epoch is not None:
            log = replace(log, steps_per_epoch=self.steps_per_epoch)
        for step, name in self.events:
            log.history.event(step, name)
        if notes:
            print_notes(log)
        return log

    def plan(self, log: Log) -> LRSchedule:
        """The learning rate of every step: as logged, then as planned."""
        total = log.total_steps if self.total_steps is None else self.total_steps
        if total is None:
            total = max(log.steps_taken, 1)
            print_note(
                f"length of the run unknown; assuming it ends with its log, at step {total:,}. "
                "Give --total-steps to change that"
            )
        if self.schedule is None:
            plan = log.plan(total)
            for note in _rate_notes(log, plan):
                print_note(note)
            return plan
        plan = log.plan(total, schedule_from_text(self.schedule, total))
        if Caveat.LR_OFF_PLAN in plan.caveats:
            print_note(
                f"the logged rates {log.rate_column!r} contradict --schedule where they overlap"
            )
        return plan

    def run_info(self, log: Log) -> RunInfo:
        """The description of the run of a log."""
        run = self.planned_run(log.metric, log.column)
        return replace(run, steps_per_epoch=log.steps_per_epoch)

    def planned_run(self, metric: str, monitor: str | None) -> RunInfo:
        """The description of a run without a log."""
        return RunInfo(
            metric=metric,
            optimizer=self.optimizer,
            task=self.task,
            project=self.project,
            model=self.model,
            dataset=self.dataset,
            n_params=self.n_params,
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            monitor=monitor,
        )

    def prior(self, run: RunInfo, plan: LRSchedule) -> Prior | None:
        """The prior learned from past runs of the project; None without a store."""
        if self.store is None:
            return None
        if run.project is None:
            raise ConfigurationError(
                "--store needs --project, which names the past runs to learn from"
            )
        prior = RunStore(self.store, make=False).prior(run, plan)
        print_note(f"learning from {len(prior.past)} finished runs of project {run.project!r}")
        return prior


STORE_OPTIONS = ("model", "project", "store")
"""Options of commands that learn from past runs."""
EVENT_OPTIONS = ("event",)
"""Options of commands that forecast from a log."""
LOG_OPTIONS = tuple(
    opt.name for opt in fields(LogOptions) if opt.name not in STORE_OPTIONS + EVENT_OPTIONS
)
"""Options of every command that reads logs."""


def _rate_notes(log: Log, plan: LRSchedule) -> list[str]:
    """Notes on learning rates that are not logged: the assumption, and how to do better."""
    if Caveat.LR_UNKNOWN in plan.caveats:
        return [
            f"no column of {log.path} is named like a learning rate: the forecast covers a "
            "constant rate and one that decays to 0, so it is wide. To narrow it, log the rate, "
            f"name its column with --lr-column, or give --schedule, {SCHEDULE_EXAMPLE}"
        ]
    shape = log.rate_shape(plan.total_steps)
    if Caveat.LR_ASSUMED in plan.caveats:
        fits = f"; the logged rates fit {shape.description}" if shape is not None else ""
        return [
            f"learning rate after step {log.rate_steps[-1]:,} unknown{fits}; assuming the last one "
            f"is held. Give --schedule to change that, {SCHEDULE_EXAMPLE}"
        ]
    if shape is None:
        return []
    return [
        f"learning rate taken for {shape.description}, as the logged rates are (to "
        f"{shape.distance:.2%}). Give --schedule to change that, {SCHEDULE_EXAMPLE}"
    ]


def print_notes(log: Log) -> None:
    """Print the remarks on what was read."""
    for remark in log.notes:
        print_note(remark)


def _event(text: str) -> tuple[int, str]:
    """The step and the name of an event."""
    before, _, name = text.partition(":")
    try:
        step = int(before)
    except ValueError:
        step = -1
    if step < 0 or not name.strip():
        raise ConfigurationError(
            f"--event {text:.60}: give STEP:NAME, such as '5000:longer sequences'"
        )
    return step, name.strip()


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that adds the named options to a command, as one argument `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        import typer

        @wraps(command)
        def expanded(**given: Any) -> None:
            values = {name: given.pop(name) for name in names}
            command(options=LogOptions(**values), **given)

        by_name = {option.name: option for option in fields(LogOptions)}
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[by_name[name].type, typer.Option(**by_name[name].metadata)],
            )
            for name in names
        ]
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "options"
        ]
        parameters = [*own, *added]
        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {
            parameter.name: parameter.annotation for parameter in parameters
        }
        return expanded

    return decorate
