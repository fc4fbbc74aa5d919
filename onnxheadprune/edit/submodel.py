"""Parts of a model as models of their own, and stored tensors with other numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune.model.bodies import bodies_of, graphs_in, stored_tensor
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, declared, without_nodes
from onnxheadprune.model.storage.reading import Sources, in_memory
from onnxheadprune.model.tensors import Array

Numbers: TypeAlias = "Array | TensorProto"
"""Other contents for a stored tensor; what is a tensor itself may refer to a file."""
NOTHING: Mapping[str, Array] = MappingProxyType({})
NO_TYPES: Mapping[str, int] = MappingProxyType({})
IR_VERSION = 10
"""Parts are in no newer version of the format: it has all types of weights, and each ONNX Runtime reads it."""


def submodel(
    wanted: Iterable[Value],
    given: Mapping[str, int] = NO_TYPES,
    stored: Mapping[str, Numbers] = NOTHING,
    opened: Collection[str] = (),
) -> ModelProto:
    """Return a model of the nodes between some values and others.

    Args:
        wanted: its outputs, one or more.
        given: element types of the values that become inputs, by name. What needs none of them is made from the
            graph's own inputs.
        stored: new contents for stored tensors, by name.
        opened: names of stored tensors that become inputs.
    """
    outputs = list(dict.fromkeys(wanted))
    small = without_nodes(outputs[0].scope.model)
    small.ir_version = min(small.ir_version, IR_VERSION)
    graph, nodes = small.graph, set[Node]()

    def above(value: Value) -> Iterable[Value]:
        is_input = value.name in given or (value.holds_tensor and value.name in opened)
        return () if value.producer is None or is_input else values_read(value.producer)

    for value in reachable(outputs, above):
        name, tensor, proto = value.name, value.tensor, value.scope.proto
        if name in given:
            graph.input.append(helper.make_tensor_value_info(name, given[name], None))
        elif tensor is not None and name in opened:
            graph.input.append(declared(tensor))
        elif value.is_initializer and tensor is not None:
            graph.initializer.append(stored_anew(tensor, stored.get(name)))
        elif value.producer is not None:
            nodes.add(value.producer)
        elif value.is_graph_input:
            graph.input.extend(info for info in proto.input if info.name == name)
        else:
            graph.sparse_initializer.extend(
                sparse for sparse in proto.sparse_initializer if sparse.values.name == name
            )
    graph.node.extend(node.proto for node in sorted(nodes, key=lambda node: node.index))
    store_constants(graph, stored)
    graph.output.extend(map(_output, outputs))
    return small


def values_read(node: Node) -> Iterator[Value]:
    """Yield the values that a node reads, those that its bodies read around them included."""
    if not node.bodies:
        yield from node.sources
        return
    for name in read_by(node.proto):
        value = node.scope.lookup(name)
        if value is not None:
            yield value


def _output(value: Value) -> ValueInfoProto:
    """Declare the type of an output alone, because a wrong guess of a dimension would stop the run."""
    if value.elem_type == TensorProto.UNDEFINED:
        # ONNX Runtime finds out by itself.
        return ValueInfoProto(name=value.name)
    return helper.make_tensor_value_info(value.name, value.elem_type, None)


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
    """Name a node reads, those that its bodies read from around them included."""
    names = {name for name in node.input if name}
    for body in bodies_of(node):
        inner = {name for item in body.node for name in read_by(item)} | {out.name for out in body.output}
        made = {name for item in body.node for name in item.output}
        made |= {item.name for item in body.initializer} | {item.name for item in body.input}
        names |= inner - made
    return names


def with_stored(model: ModelProto, stored: Mapping[str, Numbers]) -> ModelProto:
    """A copy of a model in which the named initializers and constants hold other numbers, those of bodies included."""
    changed = copied(model)
    for graph in graphs_in(changed.graph):
        store(graph, stored)
    return changed


@dataclass(frozen=True, eq=False)
class Restored:
    """Refitted tensors in the original's shapes, cut parts as they were."""

    tensors: Mapping[str, TensorProto] = field(default_factory=dict)  # by name; large ones refer to `sources`
    sources: Sources = field(default_factory=dict)  # files that hold them, and what computes them

    def arrays(self) -> dict[str, Array]:
        """All of them in memory."""
        return {
            name: numpy_helper.to_array(in_memory(tensor, self.sources))
            for name, tensor in self.tensors.items()
        }

    def into(self, model: LoadedModel, proto: ModelProto | None = None) -> LoadedModel:
        """A model with these tensors in the place of its own; without any, it is not copied."""
        made = proto or model.proto
        return self.beside(model).changed(with_stored(made, self.tensors) if self.tensors else made)

    def beside(self, model: LoadedModel) -> LoadedModel:
        """A model whose tensors may refer to these sources, too."""
        return LoadedModel(model.proto, model.name, {**model.sources, **self.sources}, model.inline)


def store(graph: GraphProto, stored: Mapping[str, Numbers]) -> None:
    """Replace the contents of stored tensors by name; bodies are unchanged."""
    for tensor in graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(stored_anew(tensor, stored[tensor.name]))
    store_constants(graph, stored)


def store_constants(graph: GraphProto, stored: Mapping[str, Numbers]) -> None:
    """Give the Constant nodes of a graph other contents, by the name of their output."""
    for node in graph.node:
        tensor = stored_tensor(node)
        if tensor is not None and node.output[0] in stored:
            tensor.CopyFrom(stored_anew(tensor, stored[node.output[0]]))


def stored_anew(tensor: TensorProto, numbers: Numbers | None) -> TensorProto:
    """Return a stored tensor with other numbers, itself where there are none; its name and documentation stay."""
    if numbers is None:
        return tensor
    if isinstance(numbers, TensorProto):
        new = copied(numbers)
        new.name = tensor.name
    else:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        new = numpy_helper.from_array(np.ascontiguousarray(numbers).astype(kind), tensor.name)
    if tensor.doc_string:
        new.doc_string = tensor.doc_string
    else:
        new.ClearField("doc_string")
    return new
