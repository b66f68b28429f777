"""What the command line can be told of a log and its run: `LogOptions`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

from lossforecast.cli.output import note
from lossforecast.errors import ConfigurationError
from lossforecast.prior import Prior
from lossforecast.readers import Log, read_log
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule, schedule_from_text
from lossforecast.status import Caveat
from lossforecast.store import RunStore

__all__ = ["LOG", "OF_LOG", "OF_STORE", "SPEC", "LogOptions", "with_options"]

SPEC = "such as cosine:peak=3e-4,end=3e-5,warmup=2000"
LOG = (
    "The log of a run: a TensorBoard event file or the folder of one run, Lightning's metrics.csv, "
    "trainer_state.json of the Hugging Face Trainer, a CSV exported from W&B, CSV or JSON lines."
)


def _option(says: str, **limits: float) -> Any:
    return field(default=None, metadata={"help": says, **limits})


@dataclass(frozen=True)
class LogOptions:
    """What was said of a log and its run; each field is an option with its help."""

    column: str | None = _option("The loss; by default what is called like one.")
    metric: str | None = _option("Whether the loss is of training (train) or validation (val).")
    step_column: str | None = _option("The optimizer steps, where their name does not tell.")
    lr_column: str | None = _option("The learning rate, where its name does not tell.")
    schedule: str | None = _option(f"The planned schedule of the whole run, {SPEC}.")
    total_steps: int | None = _option("Planned length of the run in optimizer steps.", min=1)
    optimizer: str | None = _option("Its name, such as adamw.")
    task: str | None = _option("What is learnt; tell it if it is no language model.")
    dataset: str | None = _option("What it is trained on.")
    n_params: int | None = _option("How many parameters the model has.", min=1)
    batch_size: int | None = _option("Samples or tokens per optimizer step.", min=1)
    model: str | None = _option("The architecture.")
    project: str | None = _option("What the run belongs to; runs of one project are compared.")
    store: str | None = _option("Store of past runs to learn from, a path or a database URL.")

    def read(self, path: Path, *, tell: bool = True) -> Log:
        """The log; people are told what they should know of it."""
        if self.metric not in (None, "train", "val"):
            raise ConfigurationError(f"--metric {self.metric}: it must be train or val")
        log = read_log(
            path,
            column=self.column,
            metric=self.metric,
            step_column=self.step_column,
            rate_column=self.lr_column,
            total_steps=self.total_steps,
        )
        for each in log.notes if tell else ():
            note(each)
        return log

    def plan(self, log: Log) -> LRSchedule:
        """The learning rate of every step."""
        total = log.total_steps if self.total_steps is None else self.total_steps
        if total is None:
            total = max(log.steps_taken, 1)
            note(
                f"how long the run is, is not known: taken to end with its log, at step {total:,}. "
                "Give --total-steps"
            )
        if self.schedule is None:
            return log.plan(total)
        plan = log.plan(total, schedule_from_text(self.schedule, total))
        if Caveat.LR_OFF_PLAN in plan.caveats:
            note(f"the logged rates {log.rate_column!r} contradict --schedule where they overlap")
        return plan

    def run(self, metric: str, monitor: str | None = None) -> RunInfo:
        """What is known of the run."""
        return RunInfo(
            metric=metric,
            optimizer=self.optimizer,
            task=self.task,
            project=self.project,
            model=self.model,
            dataset=self.dataset,
            n_params=self.n_params,
            batch_size=self.batch_size,
            monitor=monitor,
        )

    def prior(self, run: RunInfo, plan: LRSchedule) -> Prior | None:
        """What past runs say, where a store is named."""
        if self.store is None:
            return None
        if run.project is None:
            raise ConfigurationError("--store needs --project: which past runs to compare with")
        prior = RunStore(self.store, make=False).prior(run, plan)
        note(f"learning from {len(prior.past)} finished runs of project {run.project!r}")
        return prior


OF_STORE = ("model", "project", "store")
"""Options of commands that learn from past runs."""
OF_LOG = tuple(each.name for each in fields(LogOptions) if each.name not in OF_STORE)
"""Options of every command that reads logs."""


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options named, which it gets as one argument `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        import typer

        @wraps(command)
        def expanded(**given: Any) -> None:
            said = {name: given.pop(name) for name in names}
            command(options=LogOptions(**said), **given)

        known = {each.name: each for each in fields(LogOptions)}
        asked = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[known[name].type, typer.Option(**known[name].metadata)],
            )
            for name in names
        ]
        own = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in inspect.signature(command).parameters.values()
            if each.name != "options"
        ]
        expanded.__signature__ = inspect.Signature([*own, *asked])  # type: ignore[attr-defined]
        expanded.__annotations__ = {each.name: each.annotation for each in [*own, *asked]}
        return expanded

    return decorate
