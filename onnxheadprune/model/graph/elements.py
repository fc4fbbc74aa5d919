"""The elements of small integer values: numbers, or dimensions of the inputs.

Exporters compute target shapes at run time (`Shape -> Gather -> Concat -> Reshape`). Following these
few operators symbolically tells which element of a target shape is the batch size, which a literal.
An element that cannot be followed is None. Numbers that are no integers (a step of `ceil(height / 2)`) are folded.

Other values hold one number, or the same number everywhere, whatever the inputs are (`scalar_of`, `uniform`).

The data propagation of onnx has no bound: a shape that is joined with itself thirty times fills any memory.
`follows_few` counts the elements before onnx follows them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper
from onnx.defs import OpSchema

from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.operator import (
    ELEMENTWISE,
    OBSERVES,
    ROUNDS_ACTIVATIONS,
    VIEWS,
    is_a,
    kind,
    schema_of,
)
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, GraphView, Node, Value
from onnxheadprune.model.tensors import FLOATS

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
    found = evaluated(node.proto, node.opset, literals)
    return found if found is not None and found.size <= MAX_FOLDED else None


def is_computable(node: Node) -> bool:
    """Return whether a node is a standard operator with one output that its inputs decide.

    Sums that are rounded to levels are not followed: onnx before 1.22 wraps those beyond the last level.
    """
    if node.domain or node.bodies or len(node.outputs) != 1 or not node.inputs or node in ROUNDS_ACTIVATIONS:
        return False
    # onnx before 1.23 judges a Range by the loop that defines it, as not deterministic.
    return is_a(node, "Range") or _is_function(node.op_type, node.opset)


def _is_small(node: Node) -> bool:
    shape = node.out.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return False
    return math.prod(dim for dim in shape if isinstance(dim, int)) <= MAX_FOLDED


def evaluated(
    node: NodeProto, opset: int, arrays: Mapping[str, npt.NDArray[np.generic]]
) -> npt.NDArray[np.generic] | None:
    """The only output of a node for inputs by name, by onnx's reference implementation; None where that fails."""
    from onnx.reference import ReferenceEvaluator

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    graph = helper.make_graph([node], "one", inputs, [ValueInfoProto(name=node.output[0], type=TypeProto())])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(model).run(None, dict(arrays))
    except Exception:  # an operator the reference lacks: the value stays unknown, which is always safe
        return None
    return np.asarray(results[0])


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


MAX_DEPTH = 32


NOTHING_NEW = VIEWS | kind("Flatten", "Expand", "Tile", "Slice", "Gather", "GatherND", "GatherElements")
"""Operators whose result holds nothing that the first input does not."""


def scalar_of(value: Value | None) -> float | None:
    """The one number that a value holds, None if it holds several or depends on the inputs."""
    literal = None if value is None else value.literal()
    single = literal is not None and literal.size == 1 and literal.dtype.kind in "fiubV"
    return float(literal.reshape(-1)[0]) if literal is not None and single else None


def uniform(value: Value | None) -> float | None:
    """The number that a value holds everywhere, whatever the inputs are; None if it may hold several."""
    return _uniform(value, MAX_DEPTH, {})


def _uniform(value: Value | None, depth: int, known: dict[Value, float | None]) -> float | None:
    if value is None or value.tensor is not None:
        return None if value is None else _stored(value)
    if value not in known:
        node = None if depth == 0 else value.producer
        known[value] = None if node is None or node.domain else _made(node, depth - 1, known)
    return known[value]


def _made(node: Node, depth: int, known: dict[Value, float | None]) -> float | None:
    """The number that a node makes; its inputs are looked at once each, since streams fork at every sum."""
    if is_a(node, "ConstantOfShape"):
        fill = node.attribute("value")
        return 0.0 if fill is None else float(numpy_helper.to_array(fill).reshape(-1)[0])
    if node in NOTHING_NEW:
        return _uniform(node.input(0), depth, known)
    if node not in ELEMENTWISE:
        return None
    return number_of(node, [_uniform(item, depth, known) for item in node.inputs])


def number_of(node: Node, numbers: Sequence[float | None]) -> float | None:
    """The number that an element-wise operator makes of one number per input.

    Conditions that are not known are tried both ways. None if the number depends on an unknown one, or is none.
    """
    if node.domain or node not in ELEMENTWISE or not any(number is not None for number in numbers):
        return None
    if is_a(node, "Where") and numbers[0] is not None:
        return numbers[1] if numbers[0] else numbers[2]
    types = [0 if value is None else value.elem_type or TensorProto.FLOAT for value in node.inputs]
    given: list[Sequence[float | None]] = []
    for value, number, elem_type in zip(node.inputs, numbers, types, strict=True):
        if number is None and value is not None and elem_type != TensorProto.BOOL:
            return None
        given.append((0.0, 1.0) if number is None and value is not None else (number,))
    attributes = tuple(item.SerializeToString(deterministic=True) for item in node.proto.attribute)
    found = {
        _computed(node.op_type, node.opset, attributes, tuple(types), some)
        for some in itertools.product(*given)
    }
    return found.pop() if len(found) == 1 else None


MAX_EXACT = 2**53
"""The largest whole number up to which floats hold all of them."""


@functools.lru_cache(maxsize=1024)
def _computed(
    op_type: str,
    opset: int,
    attributes: Sequence[bytes],
    types: Sequence[int],
    numbers: Sequence[float | None],
) -> float | None:
    finite = all(number is None or math.isfinite(number) for number in numbers)
    integers = any(elem_type not in (0, TensorProto.BOOL, *FLOATS) for elem_type in types)
    # What older versions of onnx make of it is not what ONNX Runtime does, and larger ones are no longer exact.
    if integers and not all(number is None or 0 <= number <= MAX_EXACT for number in numbers):
        return None
    names = ["" if number is None else f"x{index}" for index, number in enumerate(numbers)]
    proto = NodeProto(op_type=op_type, input=names, output=["y"])
    proto.attribute.extend(map(AttributeProto.FromString, attributes))
    to = next((item.i for item in proto.attribute if item.name == "to"), TensorProto.FLOAT)
    if not finite and to not in FLOATS:
        return None
    arrays = {
        name: np.array(number, helper.tensor_dtype_to_np_dtype(elem_type))
        for name, number, elem_type in zip(names, numbers, types, strict=True)
        if name
    }
    found = evaluated(proto, opset, arrays)
    number = math.nan if found is None else float(found.reshape(-1)[0])
    # An overflow, or a division by zero, is not told apart from a mistake.
    return number if math.isfinite(number) or (not finite and not math.isnan(number)) else None


def _stored(value: Value) -> float | None:
    tensor = value.tensor
    if tensor is None or math.prod(tensor.dims) > MAX_LITERAL_ELEMENTS:
        return None
    literal = value.literal()
    if literal is None or not literal.size or literal.dtype.kind not in "biuf":
        return None
    first = literal.reshape(-1)[0]
    return float(first) if bool((literal == first).all()) else None
