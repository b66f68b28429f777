"""`ForecastPlugin`: the tab "Loss forecast" of TensorBoard. Needs no torch."""

import functools
import gzip
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from importlib import resources
from typing import Any, Generic, TypeVar

from tensorboard import errors as tb_errors  # type: ignore[import-untyped]
from tensorboard import plugin_util
from tensorboard.backend import http_util  # type: ignore[import-untyped]
from tensorboard.data import provider  # type: ignore[import-untyped]
from tensorboard.plugins import base_plugin  # type: ignore[import-untyped]
from werkzeug import wrappers
from werkzeug.exceptions import RequestEntityTooLarge

from lossforecast.callbacks.tensorboard.plugin import record
from lossforecast.callbacks.tensorboard.plugin.overview import overview, ranked, shown
from lossforecast.callbacks.tensorboard.plugin.what_if import answer
from lossforecast.errors import LossForecastError, StateError
from lossforecast.forecaster import Forecaster

__all__ = ["ForecastPlugin", "lighter"]

T = TypeVar("T")
Series = tuple[str, str, Any]
"""A run, a tag and what is told of it: its last step and when that was."""

_SCRIPTS = ("index", "panel", "charts", "dom", "runs", "story", "theme", "what_if", "words", "zoom")
_PAGE = {**{f"{name}.js": "text/javascript" for name in _SCRIPTS}, "panel.css": "text/css"}
_REGISTERS = re.compile(rb"(\w+)\.register\(\[(?:\w+\(\),){20,}\w+\(\)\]\);(?=\w+\.exports=\1)")
_DAY = 86_400  # seconds
_LONGEST_QUESTION = 4096  # bytes
_PATIENCE = 5.0  # seconds that a what-if waits for others
_ROWS, _RUNS = 4096, 16  # how many rows of the table, and whole runs, are kept in memory


class ForecastPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serves the page, and what it shows of the summaries in the logs.

    Routes, below ``/data/plugin/lossforecast``:

    * ``/runs``: all runs in few words, what had to be skipped, and the folder of the logs;
    * ``/run?run=..&tag=..``: all of one;
    * ``/what_if``: POST; as in `lossforecast.callbacks.tensorboard.plugin.what_if.answer`, with
      "run" and "tag".

    Answers are JSON; what cannot be answered is told under "error".
    """

    plugin_name = record.PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._provider = context.data_provider
        self._logdir = str(context.logdir or "")
        self._rows: _Kept[dict[str, Any]] = _Kept(_ROWS)
        self._records: _Kept[dict[str, Any]] = _Kept(_RUNS)
        self._forecasters: _Kept[Forecaster] = _Kept(_RUNS)
        self._asking = threading.Lock()

    def get_plugin_apps(self) -> dict[str, Any]:
        """The routes."""
        page = {f"/{name}": _file(_static(name), kind) for name, kind in _PAGE.items()}
        return {
            **page,
            "/plotly.min.js": _file(_plotly, "text/javascript", keep=_DAY, packed="gzip"),
            "/runs": self._answering(self._serve_runs),
            "/run": self._answering(self._serve_run),
            "/what_if": self._answering(self._serve_what_if, "POST"),
        }

    def is_active(self) -> bool:
        """Never by itself: TensorBoard asks its data for summaries of this name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The name of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Loss forecast")

    # ------------------------------------------------------------------ routes

    def _serve_runs(self, request: wrappers.Request) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        series = self._series(request)
        unknown = [each for each in series if self._rows.get(_key(each)) is None]
        for (run, tag, about), packed in self._latest(request, unknown):
            try:
                self._rows.put(_key((run, tag, about)), overview(record.read(packed)))
            except LossForecastError as error:
                self._rows.put(_key((run, tag, about)), {"why": str(error)})
        for run, tag, about in series:
            row = self._rows.get(_key((run, tag, about)))
            if row is None:
                continue
            named = {"run": run, "tag": tag, "written": about.max_wall_time, **row}
            (skipped if "why" in row else rows).append(named)
        return {"runs": ranked(rows), "skipped": skipped, "logdir": self._logdir}

    def _serve_run(self, request: wrappers.Request) -> dict[str, Any]:
        series = self._asked_for(request, request.args)
        return {"run": series[0], "tag": series[1], **shown(self._record(request, series))}

    def _serve_what_if(self, request: wrappers.Request) -> dict[str, Any]:
        request.max_content_length = _LONGEST_QUESTION
        try:
            asked = json.loads(request.get_data(cache=False))
        except RequestEntityTooLarge as error:
            why = f"a question has at most {_LONGEST_QUESTION} bytes"
            raise _RefusedError(413, why) from error
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, f"the question is no JSON: {error}") from error
        if not isinstance(asked, dict):
            raise _RefusedError(400, "the question must be an object with run, tag and a schedule")
        series = self._asked_for(request, asked)
        if not self._asking.acquire(timeout=_PATIENCE):
            raise _RefusedError(503, "others are asking: try again")
        try:
            now = self._record(request, series)["step"]
            return answer(self._forecaster(request, series), now, asked)
        finally:
            self._asking.release()

    # ------------------------------------------------------------------ inside

    def _series(self, request: wrappers.Request) -> list[Series]:
        found = self._provider.list_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=record.PLUGIN,
        )
        return [(run, tag, about) for run, tags in found.items() for tag, about in tags.items()]

    def _latest(
        self, request: wrappers.Request, series: list[Series]
    ) -> list[tuple[Series, bytes]]:
        """The latest summary of each; those that are no text are none."""
        if not series:
            return []
        found = self._provider.read_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=record.PLUGIN,
            downsample=1,
            run_tag_filter=provider.RunTagFilter(
                runs={run for run, _, _ in series}, tags={tag for _, tag, _ in series}
            ),
        )
        latest = []
        for run, tag, about in series:
            values = found.get(run, {}).get(tag, [])
            packed = values[-1].numpy.ravel().tolist() if values else []
            sound = len(packed) == 1 and isinstance(packed[0], bytes)
            latest.append(((run, tag, about), packed[0] if sound else b""))
        return latest

    def _asked_for(self, request: wrappers.Request, asked: Any) -> Series:
        run, tag = asked.get("run"), asked.get("tag")
        if not isinstance(run, str) or not isinstance(tag, str):
            raise _RefusedError(400, "name a run and a tag")
        for series in self._series(request):
            if series[:2] == (run, tag):
                return series
        raise _RefusedError(404, f"there is no forecast {tag!r:.80} of a run {run!r:.80}")

    def _record(self, request: wrappers.Request, series: Series) -> dict[str, Any]:
        found = self._records.get(_key(series))
        if found is None:
            ((_, packed),) = self._latest(request, [series])
            found = record.read(packed)
            self._records.put(_key(series), found)
        return found

    def _forecaster(self, request: wrappers.Request, series: Series) -> Forecaster:
        found = self._forecasters.get(_key(series))
        if found is None:
            found = Forecaster.from_state_dict(self._record(request, series)["state"])
            self._forecasters.put(_key(series), found)
        return found

    def _answering(
        self, answer_to: Callable[[wrappers.Request], dict[str, Any]], method: str = "GET"
    ) -> Any:
        """A route that answers in JSON, whatever is asked."""

        @wrappers.Request.application
        def application(request: wrappers.Request) -> wrappers.Response:
            code = 200
            try:
                if request.method != method:
                    raise _RefusedError(405, f"ask with {method}")
                told: dict[str, Any] = answer_to(request)
            except _RefusedError as refused:
                code, told = refused.code, {"error": str(refused)}
            except StateError as error:
                code, told = 422, {"error": f"the summary of this run is not used: {error}"}
            except LossForecastError as error:
                code, told = 400, {"error": str(error)}
            except tb_errors.NotFoundError as error:
                code, told = 404, {"error": str(error)}
            response: wrappers.Response = http_util.Respond(
                request, json.dumps(told, allow_nan=False), "application/json", code=code
            )
            return response

        return application


class _RefusedError(Exception):
    """A request that is not answered."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Kept(Generic[T]):
    """What was used last, so much of it and no more."""

    def __init__(self, most: int) -> None:
        self._most, self._found = most, OrderedDict[Hashable, T]()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.popitem(last=False)


def _key(series: Series) -> Hashable:
    """Of the latest summary of a run."""
    run, tag, about = series
    return run, tag, about.max_step, about.max_wall_time


def _static(name: str) -> Callable[[], bytes]:
    return lambda: resources.files(__package__).joinpath("static", name).read_bytes()


@functools.cache
def _plotly() -> bytes:
    bundle = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return gzip.compress(lighter(bundle), compresslevel=6, mtime=0)


def lighter(bundle: bytes) -> bytes:
    """Plotly.js without its start of all kinds of charts but lines, which takes a browser long.

    They are registered in one call at the very end; a bundle that is built otherwise stays as is.
    """
    rest, calls = _REGISTERS.subn(b"", bundle)
    return rest if calls == 1 else bundle


def _file(content: Callable[[], bytes], kind: str, keep: int = 0, packed: str | None = None) -> Any:
    """A route to a file of the package."""

    @wrappers.Request.application
    def application(request: wrappers.Request) -> wrappers.Response:
        response: wrappers.Response = http_util.Respond(
            request, content(), kind, expires=keep, content_encoding=packed
        )
        return response

    return application
