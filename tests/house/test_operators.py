"""One operator, one record; other files ask for a name together with its domain."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx
import onnx.parser
import pytest

from onnxheadprune import operators
from onnxheadprune.model.graph.operator import OPERATORS
from onnxheadprune.operators import view_of
from onnxheadprune.operators.record import operator
from tests.sources import FILES, PACKAGE, nodes

assert operators
OURS = (
    "operators",
    "fusion/emit",
    "fusion/forms",
    "fusion/bias",
    "edit/nodes",
    "edit/gradients",
    "model/prepare",
    "runtime/deterministic",
    "choosing/gradients",
)
"""Operators themselves, and what edits, fusers and gradients write."""
ELSEWHERE = {
    "attention/sites/attention_near_misses.py": ["Attention"],
    "model/bodies.py": ["Constant"],
    "model/graph/view.py": ["Concat", "Max", "Mean", "Min", "Sum", "Identity"],
}
"""Names of operators in other files that are in no call that knows about domains: what users call the block, what any
graph may hold, what is an Identity with one input (`tests/model/test_identities.py` finds all of these).
"""
NAMES = {schema.name for schema in onnx.defs.get_all_schemas()} | {
    name.rpartition(".")[2] for name in OPERATORS
}


KNOWING = ("is_a", "kind", "new", "insert", "inserted", "together", "make_node")
"""Functions that know about domains, or make a node of the standard."""


def names_in(nodes: Iterable[ast.AST]) -> list[str]:
    """Strings that are names of operators, or lists of them; docstrings and `is_a(node, "Cast")` do not count."""
    nodes = list(nodes)
    said = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    known = (call for call in calls if ast.unparse(call.func).rpartition(".")[2].lstrip("_") in KNOWING)
    said |= {id(item) for call in known for item in call.args}
    words = [
        node.value.split()
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]
    return [word for listed in words if set(listed) <= NAMES for word in listed]


def test_operators_are_compared_with_their_domain() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in FILES}
    found = {name: names_in(nodes(path)) for name, path in files.items() if not name.startswith(OURS)}
    assert {name: words for name, words in found.items() if words} == ELSEWHERE


def test_an_operator_has_one_record() -> None:
    with pytest.raises(ValueError, match="two records of Mul"):
        operator("Mul", axes="...->...")


def test_what_is_random_is_no_constant() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        odd (float[2] x) => (y, z) <float[2] chances = {0.5, 0.5}> {
            drawn = Bernoulli(chances)
            y = Mul(x, drawn)
            z = Dropout(chances)
        }"""
    values = view_of(onnx.parser.parse_model(text)).main.values
    assert values["z"].is_constant and not values["drawn"].is_constant
