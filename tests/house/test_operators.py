"""One operator, one place: tables that nobody filled are an error, and nothing else asks for an operator's name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable

import onnx
import onnx.parser
import pytest

from onnxheadprune import operators
from onnxheadprune.liveness.layouts import LAYOUTS
from onnxheadprune.liveness.registry import RULES
from onnxheadprune.model.graph import facts
from onnxheadprune.model.graph.element_types import type_of
from onnxheadprune.model.graph.facts import CARRIERS, VIEWS, OperatorKind
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.graph.tables import ARITHMETIC, COSTS, NUMBERS, ROLES, SHAPES, Table
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators import view_of
from tests import toys
from tests.graph_text import model_of
from tests.sources import FILES, PACKAGE, nodes

assert operators
OURS = (
    "operators",
    "fusion/emit",
    "fusion/forms",
    "edit/nodes",
    "edit/gradient",
    "choosing/gradients",
)
"""Operators themselves, and what edits, fusers and gradients write."""
ELSEWHERE = {
    "attention/sites/attention_near_misses.py": ["Attention"],
    "model/bodies.py": ["Constant"],
    "model/graph/view.py": ["Concat", "Max", "Mean", "Min", "Sum", "Identity"],
    "runtime/int8_saturation.py": ["MatMulInteger"],
}
"""Names of operators in other files: what users call the block, what any graph may hold, what is an Identity with one
input (`tests/model/test_identities.py` finds all of these), the kernel that is tried.
"""
KINDS = [kind for kind in vars(facts).values() if isinstance(kind, OperatorKind)]
TABLES: list[Iterable[tuple[str, str]]] = [RULES, SHAPES, NUMBERS, COSTS, LAYOUTS, ROLES, *KINDS]
NAMES = {schema.name for schema in onnx.defs.get_all_schemas()} | {
    op_type for table in TABLES for _, op_type in table
}


def names_in(nodes: Iterable[ast.AST]) -> list[str]:
    """Strings of a module that are names of operators, or lists of them; docstrings do not count."""
    nodes = list(nodes)
    said = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    words = [
        node.value.split()
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]
    return [word for listed in words if set(listed) <= NAMES for word in listed]


def test_operators_are_named_in_their_files() -> None:
    """Others ask for a kind, a role or a rule: then a new operator is known everywhere at once."""
    files = {path.relative_to(PACKAGE).as_posix(): path for path in FILES}
    found = {name: names_in(nodes(path)) for name, path in files.items() if not name.startswith(OURS)}
    assert {name: words for name, words in found.items() if words} == ELSEWHERE


def test_lists_are_read_name_by_name() -> None:
    source = '"""Reshape"""\nA = {"Reshape", "of"}\nB = "Add Mul".split()\nC = "an Add"\n'
    assert names_in(ast.walk(ast.parse(source))) == ["Reshape", "Add", "Mul"]


UNFILLED = """
from onnxheadprune.liveness.layouts import layout_of
from onnxheadprune.liveness.rule_calls import has_rule
from onnxheadprune.model.graph.facts import VIEWS
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView
from tests import toys

view = GraphView(toys.attention())
node = view.nodes[0]
for ask in (lambda: annotate(view), lambda: has_rule(node), lambda: layout_of(node), lambda: node in VIEWS):
    try:
        print(ask())
    except Exception as error:
        print(error)
"""


def test_asking_before_operators_are_there_is_an_error() -> None:
    fails, works = (
        subprocess.run([sys.executable, "-c", code + UNFILLED], capture_output=True, text=True, check=True)
        for code in ("", "import onnxheadprune.operators; ")
    )
    assert fails.stdout.count("import onnxheadprune.operators first") == 4, fails.stdout
    assert works.stdout.splitlines()[1:] == ["True", "None", "False"], works.stdout


def test_an_operator_has_one_entry() -> None:
    table: Table[int] = Table("tests")
    table.add(["Add", "Mul"], "", 1)
    with pytest.raises(ValueError, match=r"two entries of tests for ai\.onnx\.Mul"):
        table.add(["Mul"], "", 2)


def test_kinds_are_joined_and_closed() -> None:
    view = view_of(toys.attention())
    assert any(node in VIEWS for node in view.nodes)
    assert all(node in CARRIERS for node in view.nodes if node in VIEWS)
    kind = OperatorKind("test")
    kind.add("Add")
    with pytest.raises(ValueError, match="twice"):
        kind.add("Add")
    joined = kind | VIEWS
    assert [node.op_type for node in view.nodes if node in kind] == ["Add"] * sum(
        node.op_type == "Add" for node in view.nodes
    )
    assert all(node in joined for node in view.nodes if node in kind or node in VIEWS)
    for late in (kind, joined):
        with pytest.raises(TypeError, match="no longer"):
            late.add("Softmax")


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
    function = ARITHMETIC.of(node)
    assert function is not None and function(node, numbers) == found


def test_whole_numbers_are_divided_without_a_rest() -> None:
    node = one_node("Div", 2, "int64")
    function = ARITHMETIC.of(node)
    assert function is not None
    assert [function(node, pair) for pair in ((5.0, 2.0), (-5.0, 2.0))] == [2.0, None]


def one_node(op_type: str, count: int, dtype: str = "float") -> Node:
    names = "abc"[:count]
    inputs = ", ".join(f"{dtype}[2] {name}" for name in names)
    text = f'<ir_version: 10, opset_import: ["": 20]> one ({inputs}) => (y) {{ y = {op_type}({", ".join(names)}) }}'
    (node,) = view_of(onnx.parser.parse_model(text)).nodes
    return node


def test_types_are_told_alike_only_where_no_schema_is() -> None:
    told = [key for key in ROLES if ROLES[key].alike and not key[0]]
    assert [op_type for _, op_type in told if onnx.defs.has(op_type)] == []


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
