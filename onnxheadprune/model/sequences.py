"""Sequences of chunks as Splits: unoptimized exports write `split` and `unbind` by SplitToSequence and SequenceAt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.bodies import bodies_of, constant_tensor, is_constant
from onnxheadprune.model.messages import copied, declared, keep, replace_all

SMALL = 4096
"""Bytes of a stored tensor that may be a list of sizes."""
SIZES_ARE_INPUTS = 13
"""The opset since which Split and Squeeze take sizes and axes as inputs."""


def without_sequences(model: ModelProto) -> ModelProto:
    """The model, or one in which a Split makes the chunks of each sequence of which readers take one by its number.

    Other sequences stay: how many chunks there are, or which one is read, is known at run time only.
    """
    if not any(node.op_type == "SplitToSequence" for node in model.graph.node):
        return model
    made = copied(model)
    nodes, shapes, readers = made.graph.node, _shapes(made), _readers(made.graph)
    literals = dict(_literals(made.graph))
    opset = max(item.version for item in made.opset_import if item.domain in ("", "ai.onnx"))
    instead: dict[int, NodeProto] = {}
    for position, node in enumerate(nodes):
        if node.op_type != "SplitToSequence":
            continue
        read_at = readers[node.output[0]]
        numbers = [None if at is None else _number(nodes[at], node.output[0], literals) for at in read_at]
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        sizes = _sizes(node, attributes.get("axis", 0), shapes.get(node.input[0]), literals)
        taken = [
            number
            for number in numbers
            if number is not None and sizes and -len(sizes) <= number < len(sizes)
        ]
        if sizes and len(taken) == len(numbers):
            writer = _Writer(made.graph, node, attributes, opset)
            instead[position] = writer.split(sizes)
            for at, number in zip(read_at, taken, strict=True):
                if at is not None:
                    instead[at] = writer.taken(nodes[at], number % len(sizes))
    if not instead:
        return model
    gone = {nodes[position].output[0] for position, new in instead.items() if new.op_type == "Split"}
    replace_all(nodes, [instead.get(position, node) for position, node in enumerate(nodes)])
    keep(made.graph.value_info, lambda info: info.name not in gone)
    return made


class _Writer:
    """Writes the Split of one sequence, and what readers of it become."""

    def __init__(self, graph: GraphProto, node: NodeProto, attributes: Mapping[str, int], opset: int) -> None:
        self._graph, self._node, self._opset = graph, node, opset
        self._axis = attributes.get("axis", 0)
        # Sizes that are given keep the axis, whatever is said.
        self._drops = len(node.input) < 2 and not attributes.get("keepdims", 1)

    def split(self, sizes: Sequence[int]) -> NodeProto:
        """The Split in place of the SplitToSequence."""
        outputs = [self._chunk(number) for number in range(len(sizes))]
        return self._made("Split", self._node, outputs, split=sizes, axis=self._axis)

    def taken(self, reader: NodeProto, number: int) -> NodeProto:
        """The node that outputs a chunk under the name of the reader's output."""
        if self._drops:
            return self._made("Squeeze", reader, reader.output, axes=[self._axis], source=self._chunk(number))
        return helper.make_node("Identity", [self._chunk(number)], reader.output, name=reader.name)

    def _chunk(self, number: int) -> str:
        return f"{self._node.output[0]}/{number}"

    def _made(
        self, op_type: str, old: NodeProto, outputs: Sequence[str], source: str = "", **attributes: Any
    ) -> NodeProto:
        """A node with a list of numbers, its first attribute, which newer opsets take as an input."""
        inputs, (key, numbers) = [source or self._node.input[0]], next(iter(attributes.items()))
        if self._opset >= SIZES_ARE_INPUTS:
            del attributes[key]
            inputs.append(f"{self._node.output[0]}/{key}")
            if all(tensor.name != inputs[1] for tensor in self._graph.initializer):
                stored = numpy_helper.from_array(np.array(numbers, np.int64), inputs[1])
                self._graph.initializer.append(stored)
        return helper.make_node(op_type, inputs, outputs, name=old.name, **attributes)


def _number(reader: NodeProto, sequence: str, literals: Mapping[str, TensorProto]) -> int | None:
    """The number of the chunk that a reader takes, None where it is computed, or reads otherwise."""
    if reader.op_type != "SequenceAt" or reader.input[0] != sequence:
        return None
    literal = literals.get(reader.input[1])
    return None if literal is None else int(numpy_helper.to_array(literal).reshape(-1)[0])


def _sizes(
    node: NodeProto, axis: int, shape: Sequence[int | None] | None, literals: Mapping[str, TensorProto]
) -> list[int] | None:
    """The sizes of the chunks along the axis, None if unknown."""
    whole = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    if len(node.input) < 2 or not node.input[1]:
        return None if whole is None else [1] * whole
    literal = literals.get(node.input[1])
    if literal is None:
        return None
    sizes = numpy_helper.to_array(literal)
    if sizes.ndim:
        return [int(size) for size in sizes]
    size = int(sizes)
    # The last chunk may be shorter.
    return (
        [min(size, whole - start) for start in range(0, whole, size)]
        if whole is not None and size > 0
        else None
    )


def _literals(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """The stored numbers of a graph that may be sizes or positions."""
    stored = [(tensor.name, tensor) for tensor in graph.initializer]
    stored += [
        (node.output[0], tensor)
        for node in graph.node
        if is_constant(node) and (tensor := constant_tensor(node)) is not None
    ]
    inputs = {info.name for info in graph.input}
    for name, tensor in stored:
        whole = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
        if whole and tensor.data_location != TensorProto.EXTERNAL and name not in inputs:
            yield name, tensor


def _readers(graph: GraphProto) -> Mapping[str, list[int | None]]:
    """The positions of the nodes that read each value; None for a caller, or a node in a body."""
    found: defaultdict[str, list[int | None]] = defaultdict(list)

    def enter(inner: GraphProto) -> None:
        for info in inner.output:
            found[info.name].append(None)
        for position, node in enumerate(inner.node):
            for name in node.input:
                found[name].append(position if inner is graph else None)
            for body in bodies_of(node):
                enter(body)

    enter(graph)
    return found


def _shapes(model: ModelProto) -> Mapping[str, list[int | None]]:
    """Shapes as they are declared or as onnx infers them, None for a dimension that is not known."""
    small = copied(model)
    large = [tensor for tensor in small.graph.initializer if tensor.ByteSize() > SMALL]
    small.graph.input.extend(declared(tensor) for tensor in large)
    keep(small.graph.initializer, lambda tensor: tensor.ByteSize() <= SMALL)
    try:
        graph = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        graph = small.graph
    return {
        info.name: [
            dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim
        ]
        for info in (*graph.input, *graph.value_info)
    }
