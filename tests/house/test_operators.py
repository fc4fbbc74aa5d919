"""One operator, one record; other files ask for a name together with its domain."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable

import onnx
import onnx.parser
import pytest

from onnxheadprune import operators
from onnxheadprune.model.graph.element_types import type_of
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.graph.operator import CARRIERS, OPERATORS, VIEWS, kind
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators import view_of
from onnxheadprune.operators.record import operator
from tests.graph_text import model_of
from tests.graphs import toys
from tests.sources import FILES, PACKAGE, nodes

assert operators
OURS = (
    "operators",
    "fusion/emit",
    "fusion/forms",
    "edit/nodes",
    "model/sequences",
    "edit/gradient",
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


def test_lists_are_read_name_by_name() -> None:
    source = (
        '"""Reshape"""\nA = {"Reshape", "of"}\nB = "Add Mul".split()\nC = "an Add"\nD = is_a(node, "Sub")\n'
    )
    assert names_in(ast.walk(ast.parse(source))) == ["Reshape", "Add", "Mul"]


UNFILLED = """
from onnx.parser import parse_model

from onnxheadprune.model.graph.view import GraphView

model = parse_model('<ir_version: 10, opset_import: ["": 20]> one (float[2] x) => (float[2] y) { y = Relu(x) }')
try:
    print(len(GraphView(model).nodes))
except Exception as error:
    print(error)
"""


def test_asking_before_operators_are_there_is_an_error() -> None:
    fails, works = (
        subprocess.run([sys.executable, "-c", code + UNFILLED], capture_output=True, text=True, check=True)
        for code in ("", "import onnxheadprune.operators; ")
    )
    assert "import onnxheadprune.operators first" in fails.stdout
    assert works.stdout.strip().isdecimal(), works.stdout


def test_an_operator_has_one_record() -> None:
    with pytest.raises(ValueError, match="two records of Mul"):
        operator("Mul", axes="...->...")


def test_kinds_are_joined_and_grow() -> None:
    nodes = view_of(toys.attention()).nodes
    assert any(node in VIEWS for node in nodes)
    assert all(node in CARRIERS for node in nodes if node in VIEWS)
    own = kind("Add")
    joined = own | VIEWS
    assert [node for node in nodes if node in own] == [node for node in nodes if node.op_type == "Add"]
    own.add("Softmax")
    assert all(node in joined for node in nodes if node in own or node in VIEWS or node.op_type == "Softmax")


@pytest.mark.parametrize(
    ("op_type", "numbers", "found"),
    [
        ("Add", (2.0, 3.0), 5.0),
        ("Add", (2.0, None), None),
        ("Div", (5.0, 2.0), 2.5),
        ("Div", (5.0, 0.0), None),
        ("Sqrt", (-1.0,), None),
        ("Reciprocal", (4.0,), 0.25),
        ("Pow", (10.0, 400.0), None),
        ("Or", (None, 1.0), 1.0),
        ("Or", (None, 0.0), None),
        ("And", (0.0, None), 0.0),
        ("And", (1.0, None), None),
        ("Not", (0.0,), 1.0),
        ("Equal", (2.0, 2.0), 1.0),
    ],
)
def test_arithmetic_of_single_numbers(
    op_type: str, numbers: tuple[float | None, ...], found: float | None
) -> None:
    node = one_node(op_type, len(numbers))
    function = node.operator.number
    assert function is not None and function(node, numbers) == found


def test_whole_numbers_are_divided_without_a_rest() -> None:
    node = one_node("Div", 2, "int64")
    function = node.operator.number
    assert function is not None
    assert [function(node, pair) for pair in ((5.0, 2.0), (-5.0, 2.0))] == [2.0, None]


def one_node(op_type: str, count: int, dtype: str = "float") -> Node:
    names = "abc"[:count]
    inputs = ", ".join(f"{dtype}[2] {name}" for name in names)
    text = f'<ir_version: 10, opset_import: ["": 20]> one ({inputs}) => (y) {{ y = {op_type}({", ".join(names)}) }}'
    (node,) = view_of(onnx.parser.parse_model(text)).nodes
    return node


def test_types_are_told_alike_only_where_no_schema_is() -> None:
    told = [name for name, record in OPERATORS.items() if record.roles.alike and "." not in name]
    assert [op_type for op_type in told if onnx.defs.has(op_type)] == []


def test_types_come_from_what_is_stored_or_cast() -> None:
    """Files converted to half precision still declare float in between, whatever the operators there are."""
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        half (float16[2, 4] x) => (z) <float[2, 4] a, float[2, 4] b, float[2, 4] c, float16[4] one = {1, 1, 1, 1}> {
            a = Relu(x)
            b = com.microsoft.FastGelu(a)
            c = Max(b, one)
            z = HardSigmoid(c)
        }"""
    model = onnx.parser.parse_model(text)
    values = view_of(model).main.values
    assert {type_of(values[name]) for name in "abcz"} == {onnx.TensorProto.FLOAT16}


def test_packed_weights_make_logits() -> None:
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        head (float[2, 32] x) => (float[2, 8] y) <uint8[8, 1, 16] w, float[8] scales> {
            y = com.microsoft.MatMulNBits <K = 32, N = 8, bits = 4, block_size = 32>(x, w, scales)
        }"""
    main = main_output(view_of(model_of(text)), ())
    assert main is not None and main.is_logits


def test_what_is_random_is_no_constant() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        odd (float[2] x) => (y, z) <float[2] chances = {0.5, 0.5}> {
            drawn = Bernoulli(chances)
            y = Mul(x, drawn)
            z = Dropout(chances)
        }"""
    values = view_of(onnx.parser.parse_model(text)).main.values
    assert values["z"].is_constant and not values["drawn"].is_constant
