"""`ForecastPlugin`: the tab "Loss forecast" of TensorBoard. Needs no torch."""

import functools
import gzip
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
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
from lossforecast.callbacks.tensorboard.plugin.overview import MAX_ROWS, overview, ranked, shown
from lossforecast.callbacks.tensorboard.plugin.what_if import answer
from lossforecast.errors import LossForecastError, StateError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger

__all__ = ["ForecastPlugin", "lighter"]

T = TypeVar("T")
Series = tuple[str, str, Any]
"""A run, a tag and TensorBoard's metadata of its tensors, such as the last step and its time."""

_SCRIPTS = (
    *("index", "panel", "charts", "compare", "dom", "runs", "save", "story", "theme"),
    *("trail_chart", "what_if", "words", "zoom"),
)
_PAGE = {**{f"{name}.js": "text/javascript" for name in _SCRIPTS}, "panel.css": "text/css"}
_REGISTRATION = re.compile(rb"(\w+)\.register\(\[(?:\w+\(\),){20,}\w+\(\)\]\);(?=\w+\.exports=\1)")
_DAY_SECONDS = 86_400
_MAX_QUESTION_BYTES = 4096
_MAX_COMPARED_BYTES = 1 << 20
_MAX_WAIT_SECONDS = 5.0  # for the previous what-if to finish
_CACHED_RUNS = 16


class ForecastPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serves the page and the data of the summaries in the logs.

    Routes, below ``/data/plugin/lossforecast``:

    * ``/runs``: a row for each run, the summaries that cannot be read, and the folder of the logs;
    * ``/run?run=..&tag=..``: the details of one run;
    * ``/compare``: POST; the rows of some runs, ranked among each other, by "series", a list of
      pairs of run and tag;
    * ``/what_if``: POST; as in `lossforecast.callbacks.tensorboard.plugin.what_if.answer`, with
      "run" and "tag".

    Answers are JSON; errors have a message under "error".
    """

    plugin_name = record.PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._provider = context.data_provider
        self._logdir = str(context.logdir or "")
        self._rows: _Cache[dict[str, Any]] = _Cache(MAX_ROWS)
        self._records: _Cache[dict[str, Any]] = _Cache(_CACHED_RUNS)
        self._forecasters: _Cache[Forecaster] = _Cache(_CACHED_RUNS)
        self._asking = threading.Lock()
        self._logged = set[type]()  # exceptions

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return the routes by path."""
        page = {f"/{name}": _file(_static(name), kind) for name, kind in _PAGE.items()}
        return {
            **page,
            "/plotly.min.js": _file(_plotly, "text/javascript", keep=_DAY_SECONDS, packed="gzip"),
            "/runs": self._answering(self._serve_runs),
            "/run": self._answering(self._serve_run),
            "/compare": self._answering(self._serve_compare, "POST"),
            "/what_if": self._answering(self._serve_what_if, "POST"),
        }

    def is_active(self) -> bool:
        """Return False: TensorBoard shows the tab if the logs have summaries of this plugin."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the script and the name of the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Loss forecast")

    # ------------------------------------------------------------------ routes

    def _serve_runs(self, request: wrappers.Request) -> dict[str, Any]:
        rows, skipped = self._rows_and_skipped(request, self._series(request))
        return {"runs": ranked(rows), "skipped": skipped, "logdir": self._logdir}

    def _serve_compare(self, request: wrappers.Request) -> dict[str, Any]:
        wanted = self._question(request, _MAX_COMPARED_BYTES, "a list of series").get("series")
        if not isinstance(wanted, list):
            raise _RefusedError(400, "give a list of series, pairs of a run and a tag")
        series = [one for one in self._series(request) if list(one[:2]) in wanted]
        rows, _ = self._rows_and_skipped(request, series)
        return {"runs": ranked(rows)}

    def _serve_run(self, request: wrappers.Request) -> dict[str, Any]:
        series = self._asked_for(request, request.args)
        with self._reading():
            details = shown(self._record(request, series))
        return {"run": series[0], "tag": series[1], **details}

    def _serve_what_if(self, request: wrappers.Request) -> dict[str, Any]:
        asked = self._question(request, _MAX_QUESTION_BYTES, "run, tag and a schedule")
        series = self._asked_for(request, asked)
        if not self._asking.acquire(timeout=_MAX_WAIT_SECONDS):
            raise _RefusedError(503, "the server is busy with another question: try again")
        try:
            with self._reading():
                now = self._record(request, series)["step"]
                return answer(self._forecaster(request, series), now, asked)
        finally:
            self._asking.release()

    # ------------------------------------------------------------------ inside

    def _question(self, request: wrappers.Request, most: int, content: str) -> dict[str, Any]:
        """Return the JSON object that was posted, of at most `most` bytes.

        Raises:
            _RefusedError: it is not such an object; the message names its `content`.
        """
        request.max_content_length = most
        try:
            asked = json.loads(request.get_data(cache=False))
        except RequestEntityTooLarge as error:
            raise _RefusedError(413, f"a question may have at most {most} bytes") from error
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, f"the question is not JSON: {error}") from error
        if not isinstance(asked, dict):
            raise _RefusedError(400, f"the question must be an object with {content}")
        return asked

    def _series(self, request: wrappers.Request) -> list[Series]:
        tensors = self._provider.list_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=record.PLUGIN,
        )
        return [(run, tag, about) for run, tags in tensors.items() for tag, about in tags.items()]

    def _table(self, request: wrappers.Request, series: list[Series]) -> list[dict[str, Any]]:
        """Return the row of each series, or under "why" the reason that it cannot be read."""
        rows = [self._rows.get(_key(one)) for one in series]
        unknown = [one for one, row in zip(series, rows, strict=True) if row is None]
        try:
            tensors = self._tensors(request, unknown)
        except Exception:  # due to one of them, which is found by reading them one by one
            tensors = None
        return [
            self._row(request, one, tensors) if row is None else row
            for one, row in zip(series, rows, strict=True)
        ]

    def _rows_and_skipped(
        self, request: wrappers.Request, series: list[Series]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of the series that can be read, and the names of the others."""
        rows: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        for (run, tag, about), row in zip(series, self._table(request, series), strict=True):
            named = {"run": run, "tag": tag, "written": _written(about), **row}
            (skipped if "why" in row else rows).append(named)
        return rows, skipped

    def _row(self, request: wrappers.Request, series: Series, tensors: Any) -> dict[str, Any]:
        """Return the row of a series that is not cached; `tensors` may be those of many or None."""
        try:
            with self._reading():
                if tensors is None:
                    tensors = self._tensors(request, [series])
                row = overview(record.read(_packed(tensors, series)))
        except LossForecastError as error:
            row = {"why": str(error)}
            if isinstance(error, _UnexpectedError):
                return row  # not cached: it may be readable next time
        self._rows.put(_key(series), row)
        return row

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn every exception about one summary into an error of ours; log unexpected ones once.

        A log may come from anyone, and TensorBoard itself decodes its tensors.
        """
        try:
            yield
        except (LossForecastError, tb_errors.NotFoundError):
            raise
        except Exception as error:
            if type(error) not in self._logged:
                self._logged.add(type(error))
                logger.warning("a summary of the panel cannot be read", exc_info=True)
            why = f"it cannot be read: {type(error).__name__}: {error!s:.200}"
            raise _UnexpectedError(why) from error

    def _tensors(self, request: wrappers.Request, series: list[Series]) -> Any:
        """Return the latest tensors by run and tag.

        Raises:
            Exception: of any kind, if one of them is malformed.
        """
        if not series:
            return {}
        return self._provider.read_tensors(
            plugin_util.context(request.environ),
            experiment_id=plugin_util.experiment_id(request.environ),
            plugin_name=record.PLUGIN,
            downsample=1,
            run_tag_filter=provider.RunTagFilter(
                runs={run for run, _, _ in series}, tags={tag for _, tag, _ in series}
            ),
        )

    def _asked_for(self, request: wrappers.Request, asked: Any) -> Series:
        run, tag = asked.get("run"), asked.get("tag")
        if not isinstance(run, str) or not isinstance(tag, str):
            raise _RefusedError(400, "give a run and a tag")
        for series in self._series(request):
            if series[:2] == (run, tag):
                return series
        raise _RefusedError(404, f"there is no forecast {tag!r:.80} of a run {run!r:.80}")

    def _record(self, request: wrappers.Request, series: Series) -> dict[str, Any]:
        cached = self._records.get(_key(series))
        if cached is None:
            cached = record.read(_packed(self._tensors(request, [series]), series))
            self._records.put(_key(series), cached)
        return cached

    def _forecaster(self, request: wrappers.Request, series: Series) -> Forecaster:
        cached = self._forecasters.get(_key(series))
        if cached is None:
            cached = Forecaster.from_state_dict(self._record(request, series)["state"])
            self._forecasters.put(_key(series), cached)
        return cached

    def _answering(
        self, answer_to: Callable[[wrappers.Request], dict[str, Any]], method: str = "GET"
    ) -> Any:
        """Return a route that answers every request in JSON, also those it refuses."""

        @wrappers.Request.application
        def application(request: wrappers.Request) -> wrappers.Response:
            code = 200
            try:
                if request.method != method:
                    raise _RefusedError(405, f"use {method}")
                answered: dict[str, Any] = answer_to(request)
            except _RefusedError as refused:
                code, answered = refused.code, {"error": str(refused)}
            except StateError as error:
                code, answered = 422, {"error": f"the summary of this run cannot be used: {error}"}
            except LossForecastError as error:
                code, answered = 400, {"error": str(error)}
            except tb_errors.NotFoundError as error:
                code, answered = 404, {"error": str(error)}
            response: wrappers.Response = http_util.Respond(
                request, json.dumps(answered, allow_nan=False), "application/json", code=code
            )
            return response

        return application


class _RefusedError(Exception):
    """Raised to refuse a request with an HTTP status code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _UnexpectedError(StateError):
    """An exception while reading a summary that no check anticipated."""


class _Cache(Generic[T]):
    """A limited number of values; the least recently used is dropped first."""

    def __init__(self, size: int) -> None:
        self._size, self._values = size, OrderedDict[Hashable, T]()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)


def _key(series: Series) -> Hashable:
    """Return the key under which the latest summary of a series is cached."""
    run, tag, about = series
    return run, tag, about.max_step, _written(about)


def _written(about: Any) -> float | None:
    """Return the time of the latest summary; None if the log has no possible time."""
    return about.max_wall_time if math.isfinite(about.max_wall_time) else None


def _packed(tensors: Any, series: Series) -> bytes:
    """Return the latest packed record of a series.

    Raises:
        StateError: the tensor is not one string.
    """
    run, tag, _ = series
    values = tensors.get(run, {}).get(tag, [])
    if not values:
        raise _UnexpectedError("it has no tensor")
    tensor = values[-1].numpy
    packed = tensor.ravel()[0] if tensor.size == 1 else None
    if not isinstance(packed, bytes):
        kind = f"{tensor.dtype} of shape {tensor.shape}"
        raise StateError(f"it is not a forecast: a tensor of {kind}, not a string")
    return packed


def _static(name: str) -> Callable[[], bytes]:
    return lambda: resources.files(__package__).joinpath("static", name).read_bytes()


@functools.cache
def _plotly() -> bytes:
    bundle = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return gzip.compress(lighter(bundle), compresslevel=6, mtime=0)


def lighter(bundle: bytes) -> bytes:
    """Return plotly.js without the chart types other than lines, whose registration is slow.

    They are registered in one call at its end; a bundle built in another way is left unchanged.
    """
    lighter_bundle, calls = _REGISTRATION.subn(b"", bundle)
    return lighter_bundle if calls == 1 else bundle


def _file(content: Callable[[], bytes], kind: str, keep: int = 0, packed: str | None = None) -> Any:
    """Return a route that serves a file of the package."""

    @wrappers.Request.application
    def application(request: wrappers.Request) -> wrappers.Response:
        response: wrappers.Response = http_util.Respond(
            request, content(), kind, expires=keep, content_encoding=packed
        )
        return response

    return application
