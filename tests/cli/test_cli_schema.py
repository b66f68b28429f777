"""The JSON of every command has a schema with a version, and the advice an exit code."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
from support.command_line import TOTAL, result_of, run, write_broken_log, write_log, written_by

from lossforecast.cli.app import app
from lossforecast.cli.schemas import SCHEMAS

FIRST_VERSION = Path(__file__).parents[1] / "states" / "cli-schemas-1.json"


def commands(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by its words joined by hyphens."""
    inside = getattr(command, "commands", None)
    if inside is None:
        return {"-".join(words): command}
    return {
        k: v for name, each in inside.items() for k, v in commands(each, (*words, name)).items()
    }


def test_every_command_writes_json_and_has_a_schema() -> None:
    found = commands(typer.main.get_command(app()))
    del found["schema"]
    for name, command in found.items():
        assert "--json" in {option for each in command.params for option in each.opts}, name
    assert set(SCHEMAS) == {*found, "backtest-sweep", "backtest-ladder"}
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def described(schema: Any) -> bool:
    """Return whether every field of a schema says what it is."""
    inside = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    if "properties" in schema.get("items", {}):
        inside.append(schema["items"])
    return all(
        (field.get("description") or field == {"type": "null"}) and described(field)
        for field in inside
    )


def test_every_field_is_described() -> None:
    assert all(map(described, SCHEMAS.values()))


def test_the_command_prints_one_schema_or_all() -> None:
    assert json.loads(run("schema").stdout) == SCHEMAS
    one = json.loads(run("schema", "runs", "list").stdout)
    assert one == SCHEMAS["runs-list"] == json.loads(run("schema", "runs-list").stdout)
    assert one["$id"] == "lossforecast/runs-list/1"
    refused = run("schema", "fly")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: fly has no JSON: give one of replay, forecast, ")


def types_of(schema: Any, path: str = "") -> dict[str, Any]:
    """The type of every field, by its path."""
    found = {path: schema.get("type")}
    for name, field in schema.get("properties", {}).items():
        found |= types_of(field, f"{path}.{name}")
    for part in [schema.get("items"), *schema.get("anyOf", [])]:
        found |= types_of(part, f"{path}[]") if part else {}
    return found


def test_fields_of_version_1_are_as_they_were() -> None:
    first = json.loads(FIRST_VERSION.read_text(encoding="utf-8"))
    for name, schema in first.items():
        now = types_of(SCHEMAS[name])
        changed = [path for path, kind in types_of(schema).items() if now.get(path) != kind]
        assert not changed, f"{name}: a changed field makes a new version (_VERSION in schemas.py)"


def test_the_exit_code_tells_the_advice_if_asked(tmp_path: Path) -> None:
    good, short = write_log(tmp_path / "good.csv", 1_000), write_log(tmp_path / "short.csv", 30)
    broken = write_broken_log(tmp_path / "broken.csv", 800, 1_000)
    plan = ("--total-steps", TOTAL)
    for log, action, code in (
        (good, "continue", 0), (short, "abstain", 12), (broken, "stop", 10),
    ):  # fmt: skip
        assert result_of("forecast", log, *plan)["action"] == action
        assert run("forecast", log, *plan, "--exit-code").returncode == code
    for folder, code in (([good], 0), ([good, short], 12), ([tmp_path], 10)):
        watched = run("watch", *folder, "--once", *plan, "--exit-code")
        assert watched.returncode == code, watched.stderr


def test_what_is_imported_and_forgotten_is_written(tmp_path: Path) -> None:
    log, store = write_log(tmp_path / "a.csv"), tmp_path / "runs.db"
    torn = tmp_path / "torn.csv"
    torn.write_text("nothing\n")
    done = run("runs", "import", log, torn, "--project", "p", "--store", store, "--json", "-")
    assert done.returncode == 1
    written = written_by("runs-import", done.stdout)
    (added,), (reason,) = written["results"], written["left_out"]
    assert added["name"].endswith("/a.csv")
    assert added["state"] == "finished"
    assert str(torn) in reason
    for option, word in (("--exclude", "excluded"), ("--include", "included")):
        (row,) = result_of("runs", "forget", added["key"], option, "--store", store)
        assert row == {"key": added["key"], "name": added["name"], "done": word}
    (row,) = result_of("runs", "forget", added["key"], "--store", store)
    assert row["done"] == "deleted"


@pytest.mark.parametrize("command", ["import", "forget"])
def test_json_that_cannot_be_written_is_refused_before_the_work(
    command: str, tmp_path: Path
) -> None:
    arguments = ["x", "--project", "p"] if command == "import" else ["x"]
    done = run("runs", command, *arguments, "--store", tmp_path / "s.db", "--json", tmp_path)
    assert done.returncode == 2
    assert f"cannot write {tmp_path}" in done.stderr
