"""The notebook: it runs, and what is stored in it is a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
VARIABLE = "ONNXHEADPRUNE_MINILM"
PICTURES = 5
LARGEST = 1_500_000
"""Bytes of a notebook that a reader still downloads without thinking."""


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: dict[str, Any], kind: str) -> list[str]:
    """What cells have shown of a kind, as text."""
    shown = [output.get("data", {}) for cell in code_cells(notebook) for output in cell["outputs"]]
    return ["".join(data[kind]) for data in shown if kind in data]


def is_run(notebook: dict[str, Any]) -> bool:
    """Whether every cell was run in order, without an error or a warning."""
    cells = code_cells(notebook)
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    streams = {
        output["name"] for cell in cells for output in cell["outputs"] if output["output_type"] == "stream"
    }
    in_order = [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    return in_order and kinds <= {"execute_result", "display_data", "stream"} and streams <= {"stdout"}


def test_the_stored_run_is_whole_and_of_the_model_it_tells_of() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert is_run(notebook) and len(text) < LARGEST
    assert len(outputs(notebook, "image/png")) == PICTURES
    pages = " ".join(outputs(notebook, "text/html"))
    assert "6 attention sites, 72 heads" in pages and "passed" in pages
    assert re.search(r"/(root|home|tmp|work)\b|[A-Z]:\\\\", " ".join(outputs(notebook, "text/html"))) is None


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the model of the repository; the stored run is on all-MiniLM-L6-v2."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert is_run(notebook) and len(outputs(notebook, "image/png")) == PICTURES
    pages = " ".join(outputs(notebook, "text/html"))
    assert "4 attention sites, 32 heads" in pages and ">32</td>" in pages and ">24</td>" in pages
    assert "passed" in pages and "450 labels" in pages
    assert list(tmp_path.glob("*/smaller.onnx"))
