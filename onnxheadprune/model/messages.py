"""Protobuf messages: copies, and repeated fields with other items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

AnyMessage = TypeVar("AnyMessage", bound=Message)


def copied(message: AnyMessage) -> AnyMessage:
    """Return a copy of a message."""
    copy: AnyMessage = type(message)()
    copy.CopyFrom(message)
    return copy


def replace_all(field: Any, items: Iterable[Any]) -> None:
    """Give a repeated field other items, which may be some of its own."""
    kept = [copied(item) if isinstance(item, Message) else item for item in items]
    del field[:]
    field.extend(kept)


def keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Drop items of a repeated field, without a copy of the others."""
    for position in reversed(range(len(field))):
        if not is_kept(field[position]):
            del field[position]


def insert_nodes(graph: GraphProto, created: Mapping[int, Sequence[NodeProto]]) -> None:
    """Put new nodes before those at some positions of a graph, in place."""
    for position in sorted(created, reverse=True):
        for new in reversed(created[position]):
            graph.node.insert(position, new)


def without_nodes(model: ModelProto) -> ModelProto:
    """Return a model without a graph that has the opsets and functions of another one."""
    made = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    made.graph.name = model.graph.name or "graph"
    return made


def declared(tensor: TensorProto) -> ValueInfoProto:
    """Return the declaration of a stored tensor as an input."""
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def store_tensors(
    graph: GraphProto, tensors: Iterable[TensorProto], is_weight: Callable[[TensorProto], bool]
) -> None:
    """Store tensors in a graph, and declare the weights among them as inputs, for what needs no numbers of them."""
    known = {info.name for info in graph.input}
    for tensor in tensors:
        if not is_weight(tensor):
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(declared(tensor))
