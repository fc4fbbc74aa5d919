"""The elements of small integer values: numbers, or dimensions of the inputs.

Exporters compute target shapes at run time (`Shape -> Gather -> Concat -> Reshape`). Following these
few operators symbolically tells which element of a target shape is the batch size, which a literal.
An element that cannot be followed is None. Numbers that are no integers (a step of `ceil(height / 2)`) are folded.

The data propagation of onnx has no bound: a shape that is joined with itself thirty times fills any memory.
`follows_few` counts the elements before onnx follows them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, TypeProto, ValueInfoProto, helper
from onnx.defs import OpSchema

from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.operator import OBSERVES, is_a, schema_of
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, GraphView, Node, Value

Elements: TypeAlias = npt.NDArray[np.object_]
MAX_ELEMENTS = 64
"""Elements of a value that is followed; target shapes have a handful."""
INTEGER_TYPES = frozenset(
    (
        TensorProto.INT64,
        TensorProto.INT32,
        TensorProto.INT16,
        TensorProto.INT8,
        TensorProto.UINT64,
        TensorProto.UINT32,
        TensorProto.UINT16,
        TensorProto.UINT8,
    )
)


def as_elements(array: npt.NDArray[np.generic]) -> Elements | None:
    """Integer literals as elements; None for other types or too many of them."""
    if array.dtype.kind not in "iub" or array.size > MAX_ELEMENTS:
        return None
    return boxed([int(item) for item in array.reshape(-1)], array.shape)


def boxed(items: list[Dim | None], shape: tuple[int, ...]) -> Elements:
    """Elements in a shape."""
    boxed = np.empty(len(items), dtype=object)
    boxed[:] = items
    return boxed.reshape(shape)


def shape_range(node: Node, rank: int) -> range:
    """The axes that a Shape node reports, its `start` and `end` attributes applied."""
    start, end = node.attribute("start", 0), node.attribute("end", rank)
    start = max(0, start + rank if start < 0 else min(start, rank))
    end = max(0, end + rank if end < 0 else min(end, rank))
    return range(start, end)


def elements_of(node: Node, index: int) -> Elements | None:
    """The known elements of input `index`."""
    value = node.input(index)
    return None if value is None else value.elements


MAX_FOLDED = 64
"""Elements of what is folded, and of each of its inputs."""
MAX_COMBINED = 2**18
"""Combinations of elements of all inputs, which no broadcast or contraction exceeds."""


def fold(node: Node) -> npt.NDArray[np.generic] | None:
    """The value of a node's only output, computed by onnx's reference implementation.

    None unless all inputs are small literals, the operator is a standard, deterministic one, and the size of
    its output is known to be small before it is computed: `Range(0, 2**40)` would fill any memory.
    """
    if not is_computable(node) or not _is_small(node):
        return None
    literals: dict[str, npt.NDArray[np.generic]] = {}
    for value in node.inputs:
        literal = None if value is None else value.literal()
        if value is None or literal is None or literal.size > MAX_FOLDED:
            return None
        literals[value.name] = literal
    if math.prod(max(1, literal.size) for literal in literals.values()) > MAX_COMBINED:
        return None
    found = computed(node, literals)
    return found if found is not None and found.size <= MAX_FOLDED else None


def is_computable(node: Node) -> bool:
    """Return whether a node is a standard operator with one output that its inputs decide."""
    if node.domain or node.bodies or len(node.outputs) != 1 or not node.inputs:
        return False
    # onnx before 1.23 judges a Range by the loop that defines it, as not deterministic.
    return is_a(node, "Range") or _is_function(node.op_type, node.opset)


def _is_small(node: Node) -> bool:
    shape = node.out.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return False
    return math.prod(dim for dim in shape if isinstance(dim, int)) <= MAX_FOLDED


def computed(node: Node, literals: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.generic] | None:
    """The only output of a node for inputs by name, by onnx's reference implementation; None where that fails."""
    from onnx.reference import ReferenceEvaluator

    inputs = [_declared(node.inputs, name, literal) for name, literal in literals.items()]
    output = ValueInfoProto(name=node.out.name, type=TypeProto())
    graph = helper.make_graph([node.proto], "fold", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    try:
        results: Any = ReferenceEvaluator(model).run(None, dict(literals))
    except Exception:  # an operator the reference lacks: the value stays unknown, which is always safe
        return None
    return np.asarray(results[0])


def _declared(
    values: tuple[Value | None, ...], name: str, literal: npt.NDArray[np.generic]
) -> ValueInfoProto:
    elem_type = next(value.elem_type for value in values if value is not None and value.name == name)
    elem_type = elem_type or helper.np_dtype_to_tensor_dtype(literal.dtype)
    return helper.make_tensor_value_info(name, elem_type, literal.shape)


@functools.cache
def _is_function(op_type: str, opset: int) -> bool:
    """Return whether an operator gives the same for the same inputs, whatever its attributes are."""
    schema: Any = schema_of(op_type, opset)  # onnx's stubs lack the attribute
    return schema is not None and bool(schema.node_determinism != OpSchema.NodeDeterminism.NonDeterministic)


MAX_FOLLOWED = 2**20
"""Elements of all values together; a hundred bytes each."""


def follows_few(view: GraphView) -> bool:
    """Return whether the elements of all shapes and literals, followed as far as they go, stay few."""
    longest = max((len(info.type.tensor_type.shape.dim) for info in _infos(view)), default=0)
    counts: dict[Value, int] = {}
    total = 0
    for node in view.nodes:
        count = _count(node, counts, max(64, longest))
        total += count
        if total > MAX_FOLLOWED:
            return False
        for output in node.outputs if count else ():
            if output is not None:
                counts[output] = count
    return True


def _infos(view: GraphView) -> Iterable[ValueInfoProto]:
    graph = view.main.proto
    return chain(graph.input, graph.value_info, graph.output)


def _count(node: Node, counts: dict[Value, int], longest: int) -> int:
    """At most so many elements of a node's output are followed."""
    if node in OBSERVES:
        return longest
    if node.domain or not _follows_elements(node.op_type, node.opset):
        return 0
    given = [_followed(value, counts) for value in node.sources]
    if not given or 0 in given:
        return 0
    if is_a(node, "Concat"):
        return sum(given)
    return given[-1] if is_a(node, "Gather") else max(given)


def _followed(value: Value, counts: dict[Value, int]) -> int:
    if value.tensor is None:
        return counts.get(value, 0)
    size = math.prod(value.tensor.dims)
    return size if size <= MAX_LITERAL_ELEMENTS else 0


@functools.cache
def _follows_elements(op_type: str, opset: int) -> bool:
    """Return whether onnx's shape inference follows elements through an operator."""
    schema: Any = schema_of(op_type, opset)  # onnx's stubs lack the attribute
    return schema is not None and bool(schema.has_data_propagation_function)
