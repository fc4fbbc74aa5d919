"""New nodes as edits: one function for each operator that a cut or a mask writes, with its inputs in their order.

Each takes the reference of the node that the new one goes before, and the name of what it gives last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, parser

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, InsertNode
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.facts import schema_of
from onnxheadprune.model.graph.view import Node

BOUNDS_ARE_INPUTS = 10
"""The opset since which a Slice takes its bounds as inputs."""
HAS_NO_RANDOM_KERNELS = 22
"""The opset since which ONNX Runtime (1.31) has no kernel for RandomUniformLike and its like."""

COMPARES_INTEGERS = 12
"""The opset since which Max and Min take integers."""
CHOOSES_NUMBERS = 9
"""The opset since which there is a Where."""


def nodes_of_text(text: str, spelled: Callable[[str], str]) -> list[NodeProto]:
    """The nodes of some lines."""
    nodes = [parser.parse_node(line) for line in text.splitlines() if line.strip()]
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = spelled(name)
    return nodes


def add(before: str, left: str, right: str, output: str) -> InsertNode:
    """`left + right`."""
    return InsertNode(before, "Add", (left, right), (output,))


def subtract(before: str, left: str, right: str, output: str) -> InsertNode:
    """`left - right`."""
    return InsertNode(before, "Sub", (left, right), (output,))


def multiply(before: str, left: str, right: str, output: str) -> InsertNode:
    """`left * right`."""
    return InsertNode(before, "Mul", (left, right), (output,))


def divide(before: str, left: str, right: str, output: str) -> InsertNode:
    """`left / right`, without a rest for whole numbers."""
    return InsertNode(before, "Div", (left, right), (output,))


def larger(before: str, left: str, right: str, output: str) -> InsertNode:
    """The larger of two numbers; of integers since `COMPARES_INTEGERS`."""
    return InsertNode(before, "Max", (left, right), (output,))


def smaller(before: str, left: str, right: str, output: str) -> InsertNode:
    """The smaller of two numbers; of integers since `COMPARES_INTEGERS`."""
    return InsertNode(before, "Min", (left, right), (output,))


def less(before: str, left: str, right: str, output: str) -> InsertNode:
    """`left < right`."""
    return InsertNode(before, "Less", (left, right), (output,))


def choose(before: str, condition: str, yes: str, no: str, output: str) -> InsertNode:
    """`yes` where the condition holds, `no` elsewhere."""
    return InsertNode(before, "Where", (condition, yes, no), (output,))


def cast(before: str, source: str, elem_type: int, output: str) -> InsertNode:
    """The same numbers in another type."""
    return InsertNode(before, "Cast", (source,), (output,), (("to", elem_type),))


def quantize(before: str, source: str, scale: str, zero: str, output: str) -> InsertNode:
    """Rounded to multiples of a scale around a zero point."""
    return InsertNode(before, "QuantizeLinear", (source, scale, zero), (output,))


def same(before: str, source: str, output: str) -> InsertNode:
    """The same value under another name."""
    return InsertNode(before, "Identity", (source,), (output,))


def shape_of(before: str, source: str, output: str) -> InsertNode:
    """The shape of a value, as a list."""
    return InsertNode(before, "Shape", (source,), (output,))


def transpose(before: str, source: str, perm: tuple[int, ...], output: str) -> InsertNode:
    """The axes in another order."""
    return InsertNode(before, "Transpose", (source,), (output,), (("perm", perm),))


def gather(before: str, source: str, indices: str, axis: int, output: str) -> InsertNode:
    """Entries of one axis."""
    return InsertNode(before, "Gather", (source, indices), (output,), (("axis", axis),))


def concat(before: str, parts: tuple[str, ...], output: str) -> InsertNode:
    """List one after the other."""
    return InsertNode(before, "Concat", parts, (output,), (("axis", 0),))


def reshape(before: str, source: str, shape: str, output: str) -> InsertNode:
    """The same elements under other axes."""
    return InsertNode(before, "Reshape", (source, shape), (output,))


def expand(before: str, source: str, shape: str, output: str) -> InsertNode:
    """Axes of size 1 repeated, up to a shape."""
    return InsertNode(before, "Expand", (source, shape), (output,))


def tile(before: str, source: str, repeats: str, output: str) -> InsertNode:
    """Every axis repeated as often as is said for it."""
    return InsertNode(before, "Tile", (source, repeats), (output,))


def cut_list(
    before: str, scope: tuple[str, int], source: str, bounds: tuple[int, int], output: str
) -> list[Edit]:
    """The part of a list between two bounds.

    Args:
        before: the node that the new one goes before.
        scope: the reference of its graph, for the bounds, and the graph's opset.
        source: the list.
        bounds: where the part starts, and the first place after it.
        output: what to call the part.
    """
    graph, opset = scope
    start, end = bounds
    names = (f"{output}_start", f"{output}_end")
    constants: list[Edit] = [AddConstant(graph, names[0], (start,)), AddConstant(graph, names[1], (end,))]
    new = InsertNode(before, "Slice", (source, *names), (output,))
    if opset >= BOUNDS_ARE_INPUTS:
        return [*constants, new]
    listed = (("starts", (start,)), ("ends", (end,)), ("axes", (0,)))
    return [replace(new, inputs=(source,), attributes=listed)]


def with_noise(
    place: tuple[str, int], source: str, elem_type: int, size: float, seed: int, output: str
) -> list[InsertNode]:
    """A float value and noise, different in each run.

    Args:
        place: the node that the new ones go before, and the opset.
        source: the value.
        elem_type: its type.
        size: of the noise, relative to the largest absolute element of the value.
        seed: of the random numbers.
        output: the name of what it gives.
    """
    before, _ = place
    random, narrow, absolute, scale, noise = (f"{source}_noise{part}" for part in range(5))
    return [
        *_drawn(place, source, size, seed, random),
        cast(before, random, elem_type, narrow),
        InsertNode(before, "Abs", (source,), (absolute,)),
        InsertNode(before, "ReduceMax", (absolute,), (scale,), (("keepdims", 0),)),
        multiply(before, narrow, scale, noise),
        add(before, source, noise, output),
    ]


def _drawn(place: tuple[str, int], source: str, size: float, seed: int, output: str) -> list[InsertNode]:
    """Random floats of the shape of a float value, between `-size` and `size`."""
    before, opset = place
    if opset < HAS_NO_RANDOM_KERNELS:
        limits = (("dtype", TensorProto.FLOAT), ("low", -size), ("high", size), ("seed", float(seed)))
        return [InsertNode(before, "RandomUniformLike", (source,), (output,), limits)]
    names = ("size", "double", "half", "yes", "floats", "kept", "mask", "ones", "wide")
    own, double, half, yes, floats, kept, mask, ones, wide = (f"{output}_{name}" for name in names)

    def constant(name: str, value: float) -> InsertNode:
        return InsertNode(before, "Constant", (), (name,), (("value_float", value),))

    # What Dropout drops while it trains is random, and ONNX Runtime runs it in every opset.
    return [
        constant(own, size),
        constant(double, 2 * size),
        constant(half, 0.5),
        cast(before, half, TensorProto.BOOL, yes),
        cast(before, source, TensorProto.FLOAT, floats),
        InsertNode(before, "Dropout", (floats, half, yes), (kept, mask), (("seed", seed),)),
        cast(before, mask, TensorProto.FLOAT, ones),
        multiply(before, ones, double, wide),
        subtract(before, wide, own, output),
    ]


def normalized(before: str, skip: Node, total: str, learned: Sequence[str], output: str) -> InsertNode:
    """The norm of a state, as an operator that adds and normalizes computes it of its sum."""
    attributes = (("axis", -1), ("epsilon", float(skip.attribute("epsilon", 1e-12))))
    return InsertNode(before, skip.op_type.removeprefix("Skip"), (total, *learned), (output,), attributes)


def as_protos(edit: InsertNode, opset: int) -> list[NodeProto]:
    """The new node as it is stored; in an opset that lacks the operator, older ones that give the same.

    Raises:
        RefusedError: if no older operators give the same.
    """
    since, write = _OLDER.get(edit.op_type, (0, None))
    if not edit.domain and write is not None and opset < since:
        return write(edit)
    if not edit.domain and edit.op_type not in _OF_RUNTIME and not _is_defined(edit, opset):
        raise RefusedError(
            f"this needs {edit.op_type} nodes as newer opsets define them, and the model has opset {opset}: raise it"
            " with onnx.version_converter.convert_version"
        )
    return [as_proto(edit)]


def _is_defined(edit: InsertNode, opset: int) -> bool:
    """Return whether the standard has the operator in an opset, with as many inputs and these attributes."""
    schema = schema_of(edit.op_type, opset)
    if schema is None or opset < _BROADCASTS.get(edit.op_type, 0):
        return False
    return len(edit.inputs) <= schema.max_input and all(
        key in schema.attributes for key, _ in edit.attributes
    )


_OF_RUNTIME = ("LayerNormalization", "SimplifiedLayerNormalization")
"""Operators that ONNX Runtime has in the standard's domain in every opset."""
_BROADCASTS = {"Max": 8, "Min": 8}
"""Operators that took only inputs of one shape before."""


def as_proto(edit: InsertNode) -> NodeProto:
    """A new node as it is stored, named after what it gives, of an operator that all opsets have alike."""
    output = edit.outputs[0]
    # No exporter gave the name to a node of its own.
    name = output if MARK in output else f"{output}/{MARK}"
    node = helper.make_node(
        edit.op_type, list(edit.inputs), list(edit.outputs), name=name, domain=edit.domain
    )
    node.attribute.extend(helper.make_attribute(key, value) for key, value in edit.attributes)
    return node


def _expanded(edit: InsertNode) -> list[NodeProto]:
    """Expand by Tile (opset 6), for a shape that is no smaller than the source anywhere.

    Tile wants one number for each axis: the source first gets as many axes as the shape has elements, which is the
    shape of its sum with any element of it that has these axes.
    """
    source, shape = edit.inputs
    (output,) = edit.outputs
    stem = output if MARK in output else f"{output}/{MARK}"

    def named(what: str) -> str:
        return f"{stem}_{what}"

    made = [
        reshape("", source, named("list"), named("flat")),
        InsertNode("", "Slice", (named("flat"),), (named("first"),), (("starts", (0,)), ("ends", (1,)))),
        subtract("", shape, shape, named("zeros")),
        add("", named("zeros"), named("one"), named("ones")),
        reshape("", named("first"), named("ones"), named("ranked")),
        add("", source, named("ranked"), named("sum")),
        shape_of("", named("sum"), named("axes")),
        reshape("", source, named("axes"), named("whole")),
        divide("", shape, named("axes"), named("times")),
        tile("", named("whole"), named("times"), output),
    ]
    stored = [*_whole_numbers(named("list"), [-1]), *_whole_numbers(named("one"), 1)]
    return [*stored, *map(as_proto, made)]


def _compared(edit: InsertNode) -> list[NodeProto]:
    """A comparison of whole numbers where only real ones can be compared: up to 2^53 they are the same."""
    wide = [f"{edit.outputs[0]}_{index}" for index in range(len(edit.inputs))]
    casts = [cast("", name, TensorProto.DOUBLE, other) for name, other in zip(edit.inputs, wide, strict=True)]
    return [*map(as_proto, casts), as_proto(replace(edit, inputs=tuple(wide)))]


def _whole_numbers(name: str, numbers: int | list[int]) -> list[NodeProto]:
    """A constant of int64, where a Constant (before opset 9) gives real numbers alone."""
    value = numpy_helper.from_array(np.array(numbers, dtype=np.float32))
    real = helper.make_node("Constant", [], [f"{name}_real"], name=f"{name}_real", value=value)
    return [real, as_proto(cast("", real.output[0], TensorProto.INT64, name))]


_OLDER: dict[str, tuple[int, Callable[[InsertNode], list[NodeProto]]]] = {
    "Expand": (8, _expanded),
    "Less": (9, _compared),
}
"""Per operator the opset that has it as we write it, and what gives the same in older ones."""
