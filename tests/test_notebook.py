"""The notebook runs, shows its pictures, and is stored with what it shows."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, variables: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; returns the value of its last line, if that is one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), variables)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), variables)


def test_every_cell_runs_and_what_it_shows_is_a_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOSSFORECAST_STORE", raising=False)
    variables: dict[str, Any] = {"__name__": "__main__"}
    shown = [run_cell("".join(cell["source"]), variables) for cell in code_cells()]
    forecast, figure = (each for each in shown if each is not None)
    assert "<svg" in forecast._repr_html_()
    assert figure._repr_png_().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "heading for" in printed
    assert printed.count("80%: ") == 6
    assert "decay now" in printed


def test_it_is_stored_with_what_it_shows() -> None:
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert not [each for each in outputs if each["output_type"] == "error"]
    kinds = {kind for each in outputs for kind in each.get("data", ())}
    assert {"text/html", "image/png"} <= kinds
    assert NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_runs_under_jupyter(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    page = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        page, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [each for cell in page.cells for each in cell.get("outputs", ())]
    kinds = {kind for each in outputs for kind in each.get("data", ())}
    assert {"text/html", "image/png"} <= kinds
