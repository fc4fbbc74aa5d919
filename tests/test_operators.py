"""One operator, one place: tables that nobody filled are an error, and nothing else asks for an operator's name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from onnxheadprune import operators
from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.liveness.fused import LAYOUTS
from onnxheadprune.liveness.registry import RULES
from onnxheadprune.model.graph.facts import CARRIERS, VIEWS, Kind
from onnxheadprune.model.graph.tables import COSTS, NUMBERS, SHAPES, Table
from tests import toys

assert operators
PACKAGE = Path(__file__).parents[1] / "onnxheadprune"
OURS = ("operators", "fusion/emit", "fusion/forms", "edit/terms", "edit/gradients", "selection/gradients")
"""Operators themselves, and what the fusers and gradients write."""
MOST_NAMES = 287
"""Names of operators elsewhere in the code (of 639 at first); the number may only fall."""
NAMES = {schema.name for schema in onnx.defs.get_all_schemas()} | {
    op_type for table in (RULES, SHAPES, NUMBERS, COSTS, LAYOUTS) for _, op_type in table
}


def names_in(source: str) -> list[str]:
    """Strings of a module that are names of operators, or lists of them; docstrings do not count."""
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = [
        node.value.split()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]
    return [word for listed in words if set(listed) <= NAMES for word in listed]


def test_few_names_of_operators_outside_of_their_files() -> None:
    found = {
        path: names_in(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(OURS)
    }
    assert sum(map(len, found.values())) <= MOST_NAMES


def test_names_are_counted_one_by_one() -> None:
    source = '"""Reshape"""\nA = {"Reshape", "of"}\nB = "Add Mul".split()\nC = "an Add"\n'
    assert names_in(source) == ["Reshape", "Add", "Mul"]


def test_every_file_of_operators_is_loaded() -> None:
    files = {path.stem for path in (PACKAGE / "operators").glob("*.py")} - {"__init__"}
    code = "import sys, onnxheadprune.operators; print(*(n for n in sys.modules if '.operators.' in n))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.rpartition(".")[2] for name in loaded.stdout.split()} == files


UNFILLED = {
    "annotate": "from onnxheadprune.model.graph.infer import annotate; annotate(view)",
    "rule": "from onnxheadprune.liveness.registry import rule_for; rule_for(node)",
    "layout": "from onnxheadprune.liveness.fused import layout_of; layout_of(node)",
    "kind": "from onnxheadprune.model.graph.facts import VIEWS; node in VIEWS",
}


@pytest.mark.parametrize("asked", UNFILLED)
def test_asking_before_operators_are_there_is_an_error(asked: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(toys.attention(), path)
    start = (
        f"import onnx; from onnxheadprune.model.graph.view import GraphView;"
        f" view = GraphView(onnx.load({str(path)!r})); node = view.nodes[0]; "
    )
    fails, works = (
        subprocess.run([sys.executable, "-c", code + start + UNFILLED[asked]], capture_output=True, text=True)
        for code in ("", "import onnxheadprune.operators; ")
    )
    assert "import onnxheadprune.operators first" in fails.stderr
    assert works.returncode == 0, works.stderr


def test_an_operator_has_one_entry() -> None:
    table: Table[int] = Table("tests")
    table.add(["Add", "Mul"], "", 1)
    with pytest.raises(ValueError, match=r"two entries of tests for ai\.onnx\.Mul"):
        table.add(["Mul"], "", 2)


def test_kinds_are_joined_and_closed() -> None:
    view = view_of(toys.attention())
    assert any(node in VIEWS for node in view.nodes)
    assert all(node in CARRIERS for node in view.nodes if node in VIEWS)
    kind = Kind("test")
    kind.add("Add")
    with pytest.raises(ValueError, match="twice"):
        kind.add("Add")
    joined = kind | VIEWS
    assert [node.op_type for node in view.nodes if node in kind] == ["Add"] * sum(
        node.op_type == "Add" for node in view.nodes
    )
    assert all(node in joined for node in view.nodes if node in kind or node in VIEWS)
    with pytest.raises(TypeError, match="no longer"):
        kind.add("Mul")
