"""The JSON of every command as JSON Schema, with a version that changes when readers may break.

Objects name their schema; lists, of one object for each run or the like, are bare. A field may be
added within a version. Renaming or removing one, or changing its meaning, makes a new version of
all commands.
"""

from typing import Any

from lossforecast.backtest import LADDER_BASELINES
from lossforecast.policies import Action, Reason
from lossforecast.status import Caveat, Status

__all__ = ["SCHEMAS", "schema_name"]

_VERSION = 1
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES = ("integer", "number", "string", "boolean", "object", "null")


def schema_name(command: str) -> str:
    """Return the name and version of the schema of a command, as its JSON gives them."""
    return f"lossforecast/{command}/{_VERSION}"


def _field(kind: str, text: str, **more: Any) -> dict[str, Any]:
    """A field: its type, with a ? if it may be null, and what it is; [type] is a list of them."""
    if kind.startswith("["):
        return {"type": "array", "items": {"type": kind.strip("[]")}, "description": text}
    name = kind.rstrip("?")
    assert name in _TYPES
    return {"type": [name, "null"] if kind != name else name, "description": text, **more}


def _word(words: Any, text: str) -> dict[str, Any]:
    return {"enum": [str(word) for word in words], "description": text}


def _object(
    fields: dict[str, Any], text: str, optional: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "properties": fields | (optional or {}),
        "required": list(fields),
    }


def _list(
    fields: dict[str, Any], text: str, optional: dict[str, Any] | None = None
) -> dict[str, Any]:
    items = _object(fields, "One of them.", optional)
    return {"type": "array", "description": text, "items": items}


def _optional(fields: dict[str, Any], text: str) -> dict[str, Any]:
    return {"anyOf": [_object(fields, text), {"type": "null"}], "description": text}


_LOG = {
    "log": _field("string", "Path of the log."),
    "format": _field("string", "Format of the log."),
    "run": _field("string?", "Name of the run in a log of several."),
    "runs": _field("[string]", "Names of all runs in a log of several."),
    "column": _field("string", "Column of the losses."),
    "metric": _word(["train", "val"], "Kind of the loss."),
    "lr_column": _field("string?", "Column of the learning rates; null if they are not logged."),
    "losses": _field("integer", "Number of losses."),
    "last_step": _field("integer", "Optimizer steps before the latest loss."),
    "total_steps": _field("integer", "Length of the run in optimizer steps."),
    "steps_per_epoch": _field("number?", "Optimizer steps in one pass over the data, if known."),
    "notes": _field("[string]", "Remarks on what was read and assumed."),
}
_INTERVALS = {
    "lower80": _field("number?", "Lower end of the 80% interval."),
    "upper80": _field("number?", "Upper end of the 80% interval."),
    "lower95": _field("number?", "Lower end of the 95% interval."),
    "upper95": _field("number?", "Upper end of the 95% interval."),
}
_SUMMARY = {
    "made_at": _field("integer", "Step of the latest loss that the forecast has seen."),
    "step": _field("integer", "Step whose loss is forecast: the end of the run."),
    "median": _field("number?", "The forecast loss: as likely to end below as above."),
    "mean": _field("number?", "Mean of the forecast."),
    "std": _field("number?", "Standard deviation of the forecast."),
    **_INTERVALS,
    "gain_mean": _field("number?", "How much lower annealing will still bring the loss."),
    "gain_std": _field("number?", "Standard deviation of that."),
    "status": _word(Status, "How far the forecast can be trusted."),
    "gain_source": _field("string", "How the gain from annealing is known."),
}
_TARGET = {"target": _field("number?", "Final loss to reach, as given.")}
_CHANCE = {
    "prob_below_target": _field("number?", "Probability of ending below the target, 0 to 1.")
}
_ADVICE = {
    "action": _word(Action, "The advice."),
    "reason": _word(Reason, "The reason for it."),
    "message": _field("string", "The advice in one sentence."),
}
_CAVEATS = {
    "caveats": {
        "type": "array",
        "items": {"enum": [str(caveat) for caveat in Caveat]},
        "description": "What else to know about the forecast.",
    }
}
_MINIMUM = {
    "median": _field("number", "Lowest validation loss up to the end, as forecast."),
    "lower80": _INTERVALS["lower80"],
    "upper80": _INTERVALS["upper80"],
    "so_far": _field("number", "The lowest mean of three validations so far."),
    "step": _field("integer", "Step of that."),
    "prob_passed": _field("number", "Probability that the loss ends above it, 0 to 1."),
}
_LIVE = {
    **_LOG,
    **_TARGET,
    **_SUMMARY,
    "minimum": _optional(_MINIMUM, "The lowest loss; null for a training loss."),
    **_CAVEATS,
    **_CHANCE,
    **_ADVICE,
}
_MOMENT = {
    "share": _field("number", "Share of the run seen, 0 to 1."),
    **_SUMMARY,
    "error": _field("number?", "Error of the forecast, relative to the outcome."),
    "last_value": _field("number?", "The latest loss at that moment."),
    "last_value_error": _field("number?", "Error of the latest loss as a forecast."),
    **_ADVICE,
}
_TALLY = {
    "n": _field("integer", "Number of checks before the end."),
    "forecast_nearer": _field("integer", "How often the forecast was nearer to the outcome."),
    "last_value_nearer": _field("integer", "How often the latest loss was."),
    "inside80": _field("integer", "How often the 80% interval held the outcome."),
    "inside95": _field("integer", "How often the 95% interval did."),
}
_REPLAY = {
    **_LOG,
    **_TARGET,
    "outcome": _field("number?", "The loss that the run ended with; null if it has not ended."),
    "broke_after": _field("integer?", "Step after which all losses were nan or infinite."),
    "stopped_at": _field("integer?", "Step at which the run would have been stopped."),
    "saved": _field("number", "Share of the compute that this would have saved, 0 to 1."),
    "rightly": _field("boolean?", "Whether that would have been right; null if unknown."),
    "tally": {
        "anyOf": [_object(_TALLY, "Forecasts compared with latest losses."), {"type": "null"}],
        "description": "How the forecasts compare with the latest losses.",
    },
    "moments": _list(_MOMENT, "The forecasts on the way."),
}
_WHAT_IF = {
    "schedule": _field("string", "The schedule: 'as planned', or as given with --try."),
    **_SUMMARY,
    "total_steps": _field("integer", "Length of the run under it, in optimizer steps."),
    **_CHANCE,
}
_STORED = {
    "key": _field("string", "Identity of the run in the store."),
    "name": _field("string", "Its name for people."),
    "metric": _word(["train", "val"], "Kind of its loss."),
    "optimizer": _field("string?", "Name of the optimizer."),
    "task": _field("string?", "What the model is trained for."),
    "project": _field("string?", "Project of the run."),
    "model": _field("string?", "Name of the architecture."),
    "dataset": _field("string?", "Name of the training data."),
    "n_params": _field("number?", "Number of parameters."),
    "steps_per_epoch": _LOG["steps_per_epoch"],
    "batch_size": _field("number?", "Samples or tokens per optimizer step."),
    "monitor": _field("string?", "Name of the loss in the logs."),
    "state": _word(["running", "finished", "stopped", "failed"], "State of the run."),
    "step": _field("integer", "Last observed step, -1 before the first."),
    "total_steps": _field("integer", "Length of the run in optimizer steps."),
    "outcome": _field("number?", "The loss that it ended with."),
    "excluded": _field("boolean", "Whether new runs do not learn from it."),
    "started": _field("string", "Time of its start, ISO 8601 in UTC."),
    "updated": _field("string", "Time of its last update, ISO 8601 in UTC."),
}
_STORED_FORECAST = {
    key: value for key, value in _SUMMARY.items() if key not in ("gain_mean", "gain_std")
} | {name: _SUMMARY[name] for name in ("gain_mean", "gain_std")}
_SHOWN = {
    **_STORED,
    "schedule": _field("object", "Learning rate of every step, as LRSchedule.from_dict reads it."),
    "steps": _field("[integer]", "Steps of the losses."),
    "losses": {
        "type": "array",
        "items": {"type": ["number", "null"]},
        "description": "The losses, averaged into bins if they are many.",
    },
    "forecasts": _list(_STORED_FORECAST, "The forecasts made on the way."),
    "decisions": _list(
        {"step": _field("integer", "Optimizer steps taken."), **_ADVICE}, "New advice on the way."
    ),
}
_FORGOTTEN = {
    "key": _STORED["key"],
    "name": _STORED["name"],
    "done": _word(["deleted", "excluded", "included"], "What was done with it."),
}
_RECORD = {
    "source": _field("string", "Name of the files that hold the run."),
    "run_id": _field("string", "Its name in these files."),
    "metric": _word(["train", "val"], "Kind of its loss."),
    "fraction": _field("number", "Share of the planned steps seen, 0 to 1."),
    "truth": _field("number", "The loss that the run ended with."),
    "median": _SUMMARY["median"],
    "mean": _SUMMARY["mean"],
    **_INTERVALS,
    "status": _SUMMARY["status"],
    "seconds": _field("number", "Duration of the fit and the forecast in seconds."),
    "kind": _field("string?", "Kind of the run."),
    "fold": _field("string", "Runs of one fold are left out together when something is learned."),
    "cluster": _field("string", "Runs of one cluster are resampled together."),
    "told": _field("string", "What the forecaster was told of the run."),
    "last_value": _field("number?", "The latest finite loss seen."),
}
_SWEEP = {
    "policy": _field("string", "Name of the rule."),
    "sweep": _field("string", "Name of the sweep."),
    "runs": _field("integer", "Number of completed runs in it."),
    "arrival": _word(["parallel", "sequential"], "Whether the runs are trained at once."),
    "compute_used": _field("number", "Steps trained over the steps of all runs in full."),
    "regret": _field("number?", "Best final loss of the survivors over that of all runs, less 1."),
    "false_kills": _field("number", "Stopped runs that ended among the best 5%."),
    "before_decay": _field("number", "Those of them stopped before their decay began."),
}
_LADDER = {
    **{name: _RECORD[name] for name in ("source", "run_id", "metric")},
    "val_set": _field("string?", "Name of the evaluation set, if it was recorded."),
    "n_params": _field("number", "Number of parameters of the run."),
    "from_params": {
        "type": "array",
        "items": {"type": "number"},
        "description": "The smaller sizes that it was forecast from, increasing.",
    },
    "from_runs": _field("integer", "Number of smaller runs."),
    "fraction": _field("number", "Share of the planned steps seen; 0 is before the first."),
    **{name: _RECORD[name] for name in ("truth", "median", "lower80", "upper80")},
}
_LADDER_BASELINES = {
    name: _field("number?", "The prediction of this baseline; absent with --no-baselines.")
    for name in LADDER_BASELINES
}
_POINT = {name: _SUMMARY[name] for name in ("median", "lower80", "upper80")}
_OPTIMUM = {
    **_POINT,
    "exponents": _list(
        {"condition": _field("string", "Setting that the optimum depends on."), **_POINT},
        "Exponents of the power law of the optimum.",
    ),
    "cost_of_factor_2": _object(_POINT, "Rise of the loss, as a share, at twice or half of it."),
    "n_sweeps": _field("integer", "Number of sweeps it was learned from."),
    "n_bracketed": _field("integer", "Number of them whose best setting is not at an end."),
    "n_runs": _field("integer", "Number of their runs."),
}
_PLAN = {
    **_SUMMARY,
    "n_smaller_runs": _field("integer", "Number of smaller runs of its family."),
    "course": _list({"step": _field("integer", "Step."), **_POINT}, "The loss along the run."),
    "splits": _list(
        {
            "n_params": _field("number", "Number of parameters."),
            "total_steps": _field("integer", "Steps that take the same compute."),
            **_POINT,
        },
        "Final losses of other splits of the compute.",
    ),
    "best_peak": _optional(_OPTIMUM, "The best peak learning rate; null without sweeps."),
    "best_batch": _optional(_OPTIMUM, "The best batch size; null without sweeps of it."),
}
_SIDE = {
    "name": _field("string", "Name of the run as stored, or path of its log."),
    "finished": _field("boolean", "Whether it has ended; else its loss is forecast."),
    **_POINT,
    "repeats": {
        "type": "array",
        "items": {"type": "number"},
        "description": "Outcomes of finished runs of the same recipe.",
    },
}
_COMPARISON = {
    "first": _object(_SIDE, "Run A and its final loss."),
    "second": _object(_SIDE, "Run B and its final loss."),
    "same_recipe": _field("boolean", "Whether nothing recorded distinguishes the two."),
    "median": _field("number", "Loss of the recipe of A over that of B, less 1."),
    **_INTERVALS,
    "prob_first_better": _field("number", "Probability that the recipe of A ends lower, 0 to 1."),
    "differ": _field("boolean", "Whether the 95% interval of the difference excludes 0."),
    "spread": _field("number", "Standard deviation of repeats, relative to the loss."),
    "spread_dof": _field("number", "Degrees of freedom of that: how well it is known."),
    "spread_runs": _field("integer", "Repeats that it was learned from; 0 if it is packaged."),
    "spread_recipes": _field("integer", "Number of recipes of these repeats."),
    "seeds_to_tell": _field(
        "integer?", "Runs of each recipe needed to detect this difference; null if over 1,000."
    ),
}
_PRIOR = {
    "provenance": _field("object", "What the prior was learned from."),
    "all": _field("object", "The prior learned from all runs."),
    "without": _field("object", "The prior learned without each fold, by its name."),
}
_DEMO_FORECAST = {"share": _MOMENT["share"], **_SUMMARY}


_DEMO = {
    "outcome": _field("number", "The loss that the run ended with."),
    "results": _list(_DEMO_FORECAST, "The forecasts on the way."),
    "files": _field("[string]", "Files written."),
}
_IMPORTED = {
    "results": _list(_STORED, "The runs added, in the order of the logs."),
    "left_out": _field("[string]", "Logs that were left out, with the reason."),
}


def _one(command: str, fields: dict[str, Any], text: str) -> dict[str, Any]:
    """The schema of a command that writes one object, which names its schema."""
    name = {"const": schema_name(command), "description": "Name and version of this schema."}
    return _object({"schema": name, **fields}, text)


_BODIES = {
    "replay": {
        "anyOf": [
            _one("replay", _REPLAY, "The replayed run, for one log."),
            _list(_REPLAY, "One for each log, for several."),
        ],
        "description": "Replayed runs.",
    },
    "forecast": _one("forecast", _LIVE, "The forecast of a run in progress."),
    "watch": _list(_LIVE, "The forecasts of all runs that have losses."),
    "what-if": _list(_WHAT_IF, "The forecast under each schedule, the plan first."),
    "runs-list": _list(_STORED, "The runs in the store, newest first."),
    "runs-show": _one("runs-show", _SHOWN, "A run in the store."),
    "runs-import": _one("runs-import", _IMPORTED, "The runs added to the store."),
    "runs-forget": _list(_FORGOTTEN, "The runs deleted or excluded, as given."),
    "backtest": _list(_RECORD, "A forecast with its outcome for each run and fraction."),
    "backtest-sweep": _list(_SWEEP, "Scores for each rule, sweep and order of arrival."),
    "backtest-ladder": _list(
        _LADDER, "A forecast from smaller runs for each run and fraction.", _LADDER_BASELINES
    ),
    "plan": _one("plan", _PLAN, "A run that has not begun."),
    "compare": _one("compare", _COMPARISON, "Two runs compared with the noise of repeats."),
    "demo": _one("demo", _DEMO, "The run of the demo."),
    "learn-prior": _one("learn-prior", _PRIOR, "The table that Prior.from_table reads."),
}

SCHEMAS = {
    name: {"$schema": _DIALECT, "$id": schema_name(name), **body} for name, body in _BODIES.items()
}
"""JSON Schema of each command, by its words joined by hyphens."""
