"""A model cut down to what certain values need, with those values as its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from onnxheadprune.errors import RefusedError
from onnxheadprune.model.constants import stored_tensor
from onnxheadprune.model.graph.view import Value

Array = npt.NDArray[Any]


def tapped(
    model: ModelProto, values: Iterable[Value], stored: Mapping[str, Array] | None = None
) -> ModelProto:
    """A model with `values` as its only outputs and without what they do not need.

    Args:
        model: the model of which `values` are values of the main graph.
        values: what to put out.
        stored: new contents for initializers, by name.

    Raises:
        RefusedError: if a value lives in the body of a control-flow operator.
    """
    wanted = {value.name: value for value in values}
    for value in wanted.values():
        if value.scope.parent is not None:
            raise RefusedError(
                f"{value.name} lives inside the body of a control-flow operator, where its numbers cannot be read;"
                " without data heads are chosen by their weights, or by scores that you give"
            )
    nodes, _ = needed_nodes(model.graph, wanted)
    return assembled(model, nodes, wanted.values(), stored)


def assembled(
    model: ModelProto,
    nodes: Iterable[NodeProto],
    outputs: Iterable[Value],
    stored: Mapping[str, Array] | None = None,
) -> ModelProto:
    """A model of some nodes of another, with the initializers and the graph inputs that they read.

    Args:
        model: where the nodes are from.
        nodes: nodes of its main graph, in order.
        outputs: what to put out.
        stored: new contents for initializers, by name.
    """
    small = ModelProto()
    small.ir_version = model.ir_version
    small.opset_import.extend(model.opset_import)
    small.functions.extend(model.functions)
    small.graph.name = model.graph.name or "graph"
    small.graph.node.extend(nodes)
    small.graph.output.extend(type_of(value) for value in outputs)
    read = {info.name for info in small.graph.output}.union(*map(read_by, small.graph.node))
    for tensor in model.graph.initializer:
        if tensor.name in read:
            _store(small.graph.initializer, tensor, (stored or {}).get(tensor.name))
    if stored:
        _store_constants(small.graph, stored)
    weights = {tensor.name for tensor in small.graph.initializer}
    small.graph.input.extend(info for info in model.graph.input if info.name in read - weights)
    return small


def needed_nodes(graph: GraphProto, wanted: Iterable[str]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that `wanted` values depend on, in order, and the names of all values among them."""
    needed = set(wanted)
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(read_by(node))
    return nodes[::-1], needed


def read_by(node: NodeProto) -> set[str]:
    """Names a node reads, those that its bodies read from around them included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            inner = {name for item in body.node for name in read_by(item)} | {out.name for out in body.output}
            made = {name for item in body.node for name in item.output}
            made |= {item.name for item in body.initializer} | {item.name for item in body.input}
            names |= inner - made
    return names


def with_stored(model: ModelProto, stored: Mapping[str, Array]) -> ModelProto:
    """A copy of a model in which the named initializers and constants hold other numbers."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(_tensor(tensor, stored[tensor.name]))
    _store_constants(changed.graph, stored)
    return changed


def _store(target: Any, tensor: TensorProto, array: Array | None) -> None:
    target.append(tensor if array is None else _tensor(tensor, array))


def _store_constants(graph: GraphProto, stored: Mapping[str, Array]) -> None:
    for node in graph.node:
        tensor = stored_tensor(node)
        if tensor is not None and node.output[0] in stored:
            tensor.CopyFrom(_tensor(tensor, stored[node.output[0]]))


def _tensor(old: TensorProto, array: Array) -> TensorProto:
    """The same tensor with other numbers; its name and documentation stay."""
    new = numpy_helper.from_array(
        np.ascontiguousarray(array).astype(helper.tensor_dtype_to_np_dtype(old.data_type)), old.name
    )
    if old.doc_string:
        new.doc_string = old.doc_string
    return new


def type_of(value: Value) -> ValueInfoProto:
    """A value as a graph input or output of a part."""
    # Only the type is declared: a wrong guess of a dimension would stop the run.
    return helper.make_tensor_value_info(value.name, value.elem_type or TensorProto.FLOAT, None)
