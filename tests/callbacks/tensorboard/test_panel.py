"""The panel's summaries, what it makes of them, and what its backend answers."""

import copy
import json
import math
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.browsing import tensorboard
from support.panel_logs import TOTAL, shaped, summary_with, tensor_of, updates, write
from tensorboard.compat.proto import tensor_pb2  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from lossforecast import ConfigurationError, Forecaster, LRSchedule, ScheduleError, StateError
from lossforecast.callbacks import SteerableLR
from lossforecast.callbacks.monitor.trail import FAN, Trail
from lossforecast.callbacks.monitor.update import Update
from lossforecast.callbacks.tensorboard.plugin import record
from lossforecast.callbacks.tensorboard.plugin.hindsight import (
    broken_at,
    coverage_counts,
    outcome,
    was_stopped,
)
from lossforecast.callbacks.tensorboard.plugin.overview import overview, ranked, shown
from lossforecast.callbacks.tensorboard.plugin.server import lighter
from lossforecast.callbacks.tensorboard.plugin.what_if import answer
from lossforecast.policies import Action
from lossforecast.runs.history import History
from lossforecast.schedule.code import code_of

NEWER = zlib.compress(b'{"version": 7}')
QUESTION = {"decay_start": 2_400, "total_steps": 3_000, "end_lr": 0.0, "shape": "sqrt"}


@pytest.fixture(scope="module")
def run_updates() -> list[Update]:
    """A run at 60%, with 24 forecasts."""
    return list(updates(upto=2_400, target=2.1))


@pytest.fixture(scope="module")
def ended() -> list[Update]:
    return list(updates())


# ---------------------------------------------------------------------- the trail


def test_every_forecast_leaves_its_fan_and_new_advice_its_words(run_updates: list[Update]) -> None:
    rows = run_updates[-1].trail
    assert [row["step"] for row in rows] == [update.step for update in run_updates]
    for row, update in zip(rows, run_updates, strict=True):
        forecast = update.forecast
        assert (row["steps"][0], row["steps"][-1]) == (forecast.made_at, forecast.step)
        assert row["median"][-1] == pytest.approx(forecast.median, rel=1e-5)
        assert row["mean"][-1] == pytest.approx(forecast.mean, rel=1e-5)
        assert [row[f"{side}80"][-1] for side in ("lower", "upper")] == pytest.approx(
            forecast.interval(0.8), rel=1e-5
        )
        assert [row[f"{side}95"][-1] for side in ("lower", "upper")] == pytest.approx(
            forecast.interval(0.95), rel=1e-5
        )
        assert row["status"] == str(forecast.status)
    advice = [(str(u.recommendation.action), str(u.recommendation.reason)) for u in run_updates]
    news = [i for i, each in enumerate(advice) if i == 0 or each != advice[i - 1]]
    assert [i for i, row in enumerate(rows) if "message" in row] == news
    assert all(rows[i]["message"] == run_updates[i].recommendation.message for i in news)


@pytest.mark.slow
def test_a_long_trail_is_thinned_but_keeps_its_advice(run_updates: list[Update]) -> None:
    trail, last = Trail(), run_updates[-1]
    other = run_updates[0].recommendation
    assert other.action != last.recommendation.action
    for step in range(1, 1_001):
        trail.add(step, last.forecast, other if 100 <= step < 110 else last.recommendation)
    steps = [row["step"] for row in trail.rows]
    assert len(steps) <= 256
    assert {1, 100, 110, 1_000} <= set(steps)
    assert steps == sorted(set(steps))
    assert max(np.diff(steps)) <= 10
    assert [row["step"] for row in trail.rows if "message" in row] == [1, 100, 110]


def test_what_was_done_is_kept_with_the_forecast(run_updates: list[Update]) -> None:
    trail, last = Trail(), run_updates[-1]
    trail.note(Action.STOP)  # before any forecast
    assert trail.rows == []
    for step in range(1, 1_001):
        trail.add(step, last.forecast, last.recommendation)
        if step == 500:
            trail.note(Action.STOP)
    assert [row["step"] for row in trail.rows if row.get("done") == "stop"] == [500]
    trail.add(501, last.forecast, last.recommendation)
    assert was_stopped(trail.rows)
    trail.add(501, last.forecast, last.recommendation)
    trail.add(502, last.forecast, last.recommendation)
    assert not was_stopped(trail.rows), "it went on after all"
    trail.note(Action.STOP)
    trail.add(502, last.forecast, last.recommendation)
    assert was_stopped(trail.rows[-1:])


def test_a_future_that_was_rewound_is_dropped(run_updates: list[Update]) -> None:
    trail = Trail(run_updates[-1].trail)
    trail.add(1_000, run_updates[9].forecast, run_updates[9].recommendation)
    assert [row["step"] for row in trail.rows] == [update.step for update in run_updates[:10]]
    restored = Trail.from_state_dict(json.loads(json.dumps(trail.state_dict())))
    assert restored.rows == trail.rows
    states: list[Any] = [{}, [1], [{"step": "x"}]]
    for damaged in states:
        with pytest.raises(StateError, match="trail"):
            Trail.from_state_dict(damaged)


# ---------------------------------------------------------------------- the summaries


def test_a_summary_is_whole(run_updates: list[Update]) -> None:
    update = run_updates[-1]
    found = record.read(record.write(update))
    assert found["trail"] == list(update.trail)
    assert found["forecast"]["median"] == update.forecast.median
    assert found["forecast"]["mean"] == update.forecast.mean
    assert found["forecast"]["parameters"] == update.forecast.parameters
    assert found["decision"]["message"] == update.recommendation.message
    again = Forecaster.from_state_dict(found["state"]).forecast()
    assert again.mean == pytest.approx(update.forecast.mean, rel=1e-3)
    assert again.std == pytest.approx(update.forecast.std, rel=0.1)


def test_a_summary_of_an_earlier_release_gets_its_medians(run_updates: list[Update]) -> None:
    """That of the present forecast from its quantiles; those of the fans are their means."""
    update = run_updates[-1]
    older = record.read(record.write(update))
    for part in (older["forecast"], older["fan"], *older["trail"]):
        del part["median"]
    found = record.read(zlib.compress(json.dumps(older).encode()))
    assert found["forecast"]["median"] == pytest.approx(update.forecast.median, rel=1e-5)
    assert found["fan"]["median"] == found["fan"]["mean"]
    assert [row["median"] for row in found["trail"]] == [row["mean"] for row in found["trail"]]
    assert overview(found)["median"] == found["forecast"]["median"]


@pytest.mark.slow
def test_a_summary_stays_small() -> None:
    """Of the 200 of a run each has all of those before."""
    sizes = [len(record.write(update)) for update in updates(every=20)]
    assert len(sizes) == 200
    assert max(sizes) < 80_000
    assert sum(sizes) < 10_000_000


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "truncated"),
        (b"some text", "not a forecast"),
        (zlib.compress(b"[1, 2]"), "not a forecast"),
        (zlib.compress(b'{"version": NaN}'), "NaN is not a number"),
        (zlib.compress(b'{"version": 99}'), "version 99, this release reads up to 1"),
        (zlib.compress(b"[" * 100_000), "not a forecast"),
        (zlib.compress(b" " * 100_000_000), "too large for a forecast"),
        (zlib.compress(b'{"version": 1}'), "step is None"),
    ],
)
def test_what_is_no_summary_is_refused(packed: bytes, why: str) -> None:
    with pytest.raises(StateError, match=why):
        record.read(packed)


@pytest.fixture(scope="module")
def valid(run_updates: list[Update]) -> Callable[[], dict[str, Any]]:
    """Makes a summary; a function because hypothesis shows the arguments of a test."""
    packed = record.write(run_updates[5])
    return lambda: record.read(packed)


def paths(place: Any) -> list[tuple[str | int, ...]]:
    """The way to each value inside."""
    if isinstance(place, dict):
        inside: list[tuple[str | int, Any]] = list(place.items())
    else:
        inside = list(enumerate(place)) if isinstance(place, list) else []
    return [path for key, value in inside for path in [(key,), *((key, *p) for p in paths(value))]]


JUNK = st.sampled_from(
    [None, True, -1, 0, 1e300, 2**70, "x", "", [], {}, [None], [[1]], {"a": 1}, [1, 2, 3], 1.5]
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about such numbers
@settings(max_examples=100, deadline=None)
@given(number=st.integers(0, 10**6), junk=JUNK)
def test_a_summary_with_anything_in_it_is_shown_or_refused(
    valid: Callable[[], dict[str, Any]], number: int, junk: Any
) -> None:
    damaged = valid()
    everywhere = paths(damaged)
    *way, last = everywhere[number % len(everywhere)]
    place: Any = damaged
    for key in way:
        place = place[key]
    place[last] = copy.deepcopy(junk)
    try:
        found = record.read(zlib.compress(json.dumps(damaged).encode()))
        answers = [ranked([{"run": "a", **overview(found)}]), shown(found)]
        answers.append(answer(Forecaster.from_state_dict(found["state"]), found["step"], QUESTION))
    except (StateError, ConfigurationError, ScheduleError):
        return
    json.dumps(answers, allow_nan=False)


# ---------------------------------------------------------------------- in hindsight


def row(step: int, lower: float, upper: float, status: str = "identified") -> dict[str, Any]:
    fan = {name: [1.0, lower if name.startswith("lower") else upper] for name in FAN}
    return {"step": step, "steps": [step, 100], "status": status, **fan}


def history(upto: int) -> History:
    found = History()
    found.observe_many(range(upto), [1 - t / 200 for t in range(upto)])
    return found


def test_forecasts_are_judged_by_the_outcome() -> None:
    end = outcome(history(100), 100, 100)
    assert end == 1 - 99 / 200  # two losses of the last 2%: the last one
    trail = [row(10, 0.4, 0.6), row(20, 0.6, 0.7), row(30, 0.2, 0.5), row(40, 0, 1, "no_data")]
    counts = coverage_counts(trail, history(100), 100, 100)
    assert counts["80"] == {"judged": 3, "held": 1}
    longer = {**row(50, 0.4, 0.6), "steps": [50, 200]}  # as was planned then
    assert coverage_counts([*trail, longer], history(100), 100, 100) == counts


def test_before_the_end_forecasts_are_judged_by_what_came() -> None:
    assert outcome(history(60), 60, 100) is None
    seen = {**row(10, 0.7, 0.8), "steps": [10, 50]}
    wrong = {**row(20, 0.8, 0.9), "steps": [20, 50]}
    ahead = row(30, 0.4, 0.6)  # speaks of step 100 alone
    found = coverage_counts([seen, wrong, ahead], history(60), 60, 100)
    assert found == {"80": {"judged": 2, "held": 1}, "95": {"judged": 2, "held": 1}}


def test_a_run_that_broke_has_no_outcome() -> None:
    for sound in (0, 90, 99):  # losses before it broke
        broken = History()
        broken.observe_many(range(100), [1.0] * sound + [math.nan] * (100 - sound))
        assert outcome(broken, 100, 100) is None
        assert broken_at(broken, 100, 100) == sound
        assert broken_at(broken, 99, 100) is None  # it goes on
        assert coverage_counts([row(10, 0.4, 0.6)], broken, 100, 100)["80"]["judged"] == 0
    thin = History()  # validated long ago
    thin.observe_many([0, 50], [1.0, 0.9])
    assert broken_at(thin, 100, 100) is None
    assert outcome(thin, 100, 100) is None  # nor is it known where it ended


def test_a_run_that_went_on_beyond_its_plan_is_judged_where_that_ended() -> None:
    found = history(150)
    end = outcome(found, 150, 100)
    assert end == pytest.approx(np.mean([1 - t / 200 for t in (147, 148, 149)]))
    sees_it, sees_what_came_later = row(10, 0.49, 0.51), row(20, 0.25, 0.27)
    trail = [sees_it, sees_what_came_later]
    assert coverage_counts(trail, found, 150, 100)["80"] == {"judged": 2, "held": 1}


def test_runs_are_ranked_with_others_of_the_same_loss(run_updates: list[Update]) -> None:
    first = overview(record.read(record.write(run_updates[-1])))
    rows = [
        {**first, "run": "a", "median": 2.2, "levels": [x + 0.1 for x in first["levels"]]},
        {**first, "run": "b"},
        {**first, "run": "c", "loss": "perplexity", "median": 8.0},
        {**first, "run": "d", "outcome": 0.5},
        {**first, "run": "e", "median": None, "levels": [None] * 29},
        {**first, "run": "f", "median": 1.0, "broke": 3_900},
    ]
    found = ranked(rows)
    assert [each["run"] for each in found] == ["d", "b", "a", "e", "f", "c"]
    chance = {each["run"]: each["prob_best"] for each in found}
    assert (chance["c"], chance["d"], chance["e"], chance["f"]) == (None, 1.0, None, None)
    assert chance["a"] <= chance["b"] < 0.01
    assert all("levels" not in each for each in found)


def test_events_are_shown_and_known_to_what_ifs() -> None:
    names = {800: "<b>longer</b> sequences", 1_600: "more data"}
    marked, plain = (list(updates(upto=1_650, every=50, events=each)) for each in (names, None))
    known = record.read(record.write(marked[-1]))
    assert shown(known)["events"] == [{"step": step, "name": name} for step, name in names.items()]
    assert shown(record.read(record.write(plain[-1])))["events"] == []
    widths = []
    for each in (marked, plain):
        state = record.read(record.write(each[-1]))["state"]
        question = {**QUESTION, "decay_start": 1_700}
        tried = answer(Forecaster.from_state_dict(state), 1_650, question)["what_if"]
        widths.append(tried["upper80"] - tried["lower80"])
    assert widths[0] > widths[1]
    known["state"]["history"]["events"] = [[-1, "a"]]
    with pytest.raises(StateError, match="not a saved history"):
        shown(known)


# ---------------------------------------------------------------------- what if


def test_what_if_is_what_the_forecaster_says(run_updates: list[Update]) -> None:
    forecaster = run_updates[-1].forecaster
    found = answer(forecaster, 2_400, QUESTION)
    other = forecaster.schedule.with_decay(start=2_400, steps=600, shape="sqrt")
    planned, tried = forecaster.forecast(), forecaster.forecast(schedule=other)
    assert found["plan"]["median"] == planned.median
    assert found["what_if"]["median"] == tried.median
    assert found["what_if"]["fan"]["steps"][-1] == 3_000
    assert found["gain"]["median"] == pytest.approx(planned.gain(other), rel=1e-5)
    assert found["gain"]["lower80"] < found["gain"]["median"] < found["gain"]["upper80"]
    namespace = {"LRSchedule": LRSchedule}
    copied = eval(found["code"]["schedule"], namespace)
    at = np.arange(2_400, 3_001)
    assert copied.lr(at) == pytest.approx(other.lr(at), abs=2e-6)


@pytest.mark.parametrize("start", [2_400, 2_500])
def test_the_code_of_a_what_if_sets_the_rates_in_torch(
    run_updates: list[Update], start: int
) -> None:
    now, total = 2_400, 3_000
    question = {**QUESTION, "decay_start": start, "end_lr": 1e-4}
    code = answer(run_updates[-1].forecaster, now, question)["code"]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    other = run_updates[-1].forecaster.schedule.with_decay(
        start=start, steps=total - start, shape="sqrt", end=1e-4
    )
    namespace: dict[str, Any] = {"torch": torch, "np": np, "optimizer": optimizer}
    exec(code["torch"], namespace)
    assert rates_of(namespace["scheduler"], total - now) == pytest.approx(
        other.lr(np.arange(now + 1, total + 1)), abs=3e-6
    )


def test_the_code_of_a_what_if_steers(run_updates: list[Update]) -> None:
    forecaster = Forecaster(LRSchedule.constant(4_000, 1e-3, warmup=100))
    forecaster.observe_many(np.arange(300), np.linspace(3, 2, 300))
    question = {"decay_start": 350, "total_steps": 400, "end_lr": 1e-4, "shape": "linear"}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    scheduler = SteerableLR(optimizer, 4_000, warmup=100)
    rates_of(scheduler, 300)
    exec(answer(forecaster, 300, question)["code"]["begin_decay"], {"scheduler": scheduler})
    assert scheduler.total_steps == 400
    expected = LRSchedule.constant(350, 1e-3).with_decay(start=350, steps=50, end=1e-4)
    assert rates_of(scheduler, 100) == pytest.approx(expected.lr(np.arange(301, 401)))


def rates_of(scheduler: Any, steps: int) -> list[float]:
    """The learning rates of the next steps."""
    rates = []
    for _ in range(steps):
        rates += scheduler.get_last_lr()
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_an_answer_says_no_more_than_is_drawn(run_updates: list[Update]) -> None:
    found = answer(run_updates[-1].forecaster, 2_400, QUESTION)
    assert {"fan", "schedule"} & set(found["plan"]) == set()
    assert len(found["what_if"]["fan"]["steps"]) == 33


def test_curves_at_once_are_those_one_by_one(run_updates: list[Update]) -> None:
    forecast = run_updates[-1].forecast
    steps = np.linspace(2_400, TOTAL, 33).astype(int)
    for level, together in zip((0.8, 0.95), forecast.curves(steps, (0.8, 0.95)), strict=True):
        alone = forecast.curve(steps, level)
        for line in ("median", "mean", "lower", "upper"):
            assert (getattr(together, line) == getattr(alone, line)).all()


def test_the_learning_rate_is_the_one_that_was_used(run_updates: list[Update]) -> None:
    known = record.read(record.write(run_updates[-1]))
    forecaster = Forecaster.from_state_dict(known["state"])
    forecaster.history.observe_many([2_400, 2_450], [2.2, 2.2], [5e-5, 5e-5])
    found = shown({**known, "state": forecaster.state_dict()})["schedule"]
    used = dict(zip(found["steps"], found["lr"], strict=True))
    assert min(used[step] for step in used if 2_400 <= step <= 2_450) == pytest.approx(5e-5)
    assert found["lr"][-1] == pytest.approx(0, abs=1e-8)


def test_only_lines_are_registered_where_the_bundle_allows() -> None:
    kinds = b",".join([b"a()"] * 30)
    bundle = b"var R=b();R.register([" + kinds + b"]);z.exports=R});rest"
    assert lighter(bundle) == b"var R=b();z.exports=R});rest"
    for other in (b"rest", bundle + bundle, bundle.replace(b"exports=R", b"exports=Q")):
        assert lighter(other) == other


def test_a_decay_cannot_start_in_the_past(run_updates: list[Update]) -> None:
    forecaster = run_updates[-1].forecaster
    late, present = ({**QUESTION, "decay_start": step} for step in (100, 2_400))
    assert answer(forecaster, 2_400, late) == answer(forecaster, 2_400, present)
    over, soon = ({**QUESTION, "decay_start": 0, "total_steps": step} for step in (1_000, 2_401))
    assert answer(forecaster, 2_400, over) == answer(forecaster, 2_400, soon)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"decay_start": 3_000}, "after decay_start, 3000"),
        ({"decay_start": 2_500.5}, "decay_start is 2500.5"),
        ({"total_steps": True}, "total_steps is True"),
        ({"total_steps": 10**9}, "at most 20 times"),
        ({"end_lr": -1e-3}, "end_lr is -0.001"),
        ({"end_lr": "0"}, "end_lr is '0'"),
        ({"end_lr": math.nan}, "end_lr is nan"),
        ({"end_lr": 1}, "10 times the peak"),
        ({"shape": "wavy"}, "one of linear, cosine, sqrt, exp"),
        ({"shape": ["linear"]}, "shape is"),
        ({"shape": "exp"}, "rates above 0"),
    ],
)
def test_questions_that_make_no_sense(
    run_updates: list[Update], change: dict[str, Any], why: str
) -> None:
    with pytest.raises((ConfigurationError, ScheduleError), match=why):
        answer(run_updates[-1].forecaster, 2_400, {**QUESTION, **change})


@settings(max_examples=50, deadline=None)
@given(
    total=st.integers(10, 5_000),
    kind=st.sampled_from(["cosine", "linear", "wsd", "inverse_sqrt", "one_cycle"]),
    start=st.floats(0.1, 0.9),
    shape=st.sampled_from(["linear", "cosine", "sqrt", "exp"]),
)
def test_copied_code_makes_the_schedule_again(
    total: int, kind: str, start: float, shape: str
) -> None:
    plan: LRSchedule = getattr(LRSchedule, kind)(total, 1e-3)
    first = max(round(start * total), 1)
    for schedule in (plan, plan.with_decay(start=first, shape=shape, end=1e-5)):
        again = eval(code_of(schedule), {"LRSchedule": LRSchedule})
        assert again.total_steps == schedule.total_steps
        looked_at = np.unique(np.linspace(1, total, 300).astype(int))
        off = np.abs(again.lr(looked_at) - schedule.lr(looked_at))
        assert off.max() <= 0.003 * schedule.peak


# ---------------------------------------------------------------------- the backend


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that goes on, one that has ended, and some that others have written or damaged."""
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "going on", upto=2_400, target=2.1)
    write(folder / "over", floor=2.02)
    found = record.read(record.write(list(updates(upto=400))[-1]))
    for name, tensor in {
        "foreign": tensor_of(b"hello"),
        "number": tensor_of(3.5),
        "newer": tensor_of(NEWER),
        "digits": tensor_of(zlib.compress(json.dumps({**found, "target": 10**400}).encode())),
        "shape": shaped(tensor_of(b"hello"), 3),
        "sizes": shaped(tensor_pb2.TensorProto(dtype=7, string_val=[b"a", b"b"]), 3),
    }.items():
        with SummaryWriter(str(folder / name)) as writer:
            writer._get_file_writer().add_summary(summary_with(tensor), 1)
            writer._get_file_writer().add_summary(summary_with(tensor_of(b""), "a", "b"), 1)
            writer.add_scalar("loss", 1.0, 1)
    return folder


Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module", params=["true", "false"], ids=["data server", "python"])
def ask(request: pytest.FixtureRequest, logs: Path) -> Iterator[Ask]:
    """Asks a real TensorBoard, by either of its ways to read logs."""
    with tensorboard(logs, f"--load_fast={request.param}") as (address, _):

        def asked(route: str, body: bytes | None = None, **words: str) -> tuple[int, Any]:
            query = "?" + urllib.parse.urlencode(words) if words else ""
            url = f"{address}data/plugin/lossforecast/{route}{query}"
            try:
                with urllib.request.urlopen(url, body, timeout=60) as response:
                    return response.status, json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.loads(error.read())

        while len(asked("runs")[1]["skipped"]) < 6 or len(asked("runs")[1]["runs"]) < 2:
            pass  # until the logs are read
        yield asked


def test_runs_are_listed_and_what_is_skipped_is_named(ask: Ask) -> None:
    code, found = ask("runs")
    assert code == 200
    assert {each["run"] for each in found["runs"]} == {"going on", "over"}
    going = next(each for each in found["runs"] if each["run"] == "going on")
    over = next(each for each in found["runs"] if each["run"] == "over")
    assert (going["step"], going["total_steps"], going["outcome"]) == (2_400, TOTAL, None)
    assert over["outcome"] == pytest.approx(over["median"], rel=0.01)
    assert going["prob_best"] + over["prob_best"] == pytest.approx(1, abs=0.01)
    why = {each["run"]: each["why"] for each in found["skipped"]}
    assert set(why) == {"foreign", "number", "newer", "digits", "shape", "sizes"}
    assert "not a forecast" in why["foreign"]
    assert "version 7" in why["newer"]
    assert "target is not a number: 1000" in why["digits"]


def test_a_run_is_told_whole(ask: Ask) -> None:
    code, found = ask("run", run="going on", tag=record.TAG)
    assert code == 200
    assert [each["step"] for each in found["trail"]] == list(range(100, 2_401, 100))
    assert found["losses"]["steps"][-1] == pytest.approx(2_399, abs=20)
    assert found["schedule"]["steps"][-1] == TOTAL
    assert "state" not in found
    assert found["fared"]["80"]["judged"] > 10
    assert (found["run_info"]["kind"], found["run_info"]["optimizer"]) == ("other", "adamw")


def test_a_question_is_answered(ask: Ask) -> None:
    body = json.dumps({"run": "going on", "tag": record.TAG, **QUESTION}).encode()
    code, found = ask("what_if", body)
    assert code == 200
    assert found["what_if"]["total_steps"] == 3_000
    assert found["gain"]["median"] != 0


def test_runs_are_compared_with_each_other_alone(ask: Ask) -> None:
    over, going, foreign = (["over", record.TAG], ["going on", record.TAG], ["foreign", record.TAG])
    code, found = ask("compare", json.dumps({"series": [going, over, foreign, [1, {}]]}).encode())
    assert code == 200
    assert sum(each["prob_best"] for each in found["runs"]) == pytest.approx(1, abs=0.01)
    _, alone = ask("compare", json.dumps({"series": [going]}).encode())
    assert [(each["run"], each["prob_best"]) for each in alone["runs"]] == [("going on", None)]


@pytest.mark.parametrize(
    ("route", "body", "words", "code", "why"),
    [
        ("run", None, {}, 400, "give a run and a tag"),
        ("run", None, {"run": "../../etc/passwd", "tag": record.TAG}, 404, "no forecast"),
        ("run", None, {"run": "x" * 4_000, "tag": record.TAG}, 404, "no forecast"),
        ("run", None, {"run": "foreign", "tag": record.TAG}, 422, "cannot be used"),
        ("run", None, {"run": "digits", "tag": record.TAG}, 422, "cannot be used: target is not"),
        ("run", None, {"run": "sizes", "tag": record.TAG}, 422, "cannot be used"),
        ("run", b"{}", {}, 405, "use GET"),
        ("compare", None, {}, 405, "use POST"),
        ("compare", b'{"series": 1}', {}, 400, "give a list of series"),
        ("what_if", None, {}, 405, "use POST"),
        ("what_if", b"{", {}, 400, "not JSON"),
        ("what_if", b"[" * 4_000, {}, 400, "not JSON"),
        ("what_if", b"[]", {}, 400, "must be an object"),
        ("what_if", b"{}", {}, 400, "give a run and a tag"),
        ("what_if", b" " * 5_000, {}, 413, "at most 4096 bytes"),
        ("what_if", b'{"run": "over", "tag": "forecast/panel"}', {}, 400, "decay_start is None"),
    ],
)
def test_what_cannot_be_answered_is_told(
    ask: Ask, route: str, body: bytes | None, words: dict[str, str], code: int, why: str
) -> None:
    found = ask(route, body, **words)
    assert found[0] == code
    assert why in found[1]["error"]


def test_the_backend_needs_no_torch() -> None:
    program = (
        "import sys, lossforecast.callbacks.tensorboard.plugin.server\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
