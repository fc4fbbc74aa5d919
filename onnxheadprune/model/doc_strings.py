"""Doc strings: exporters write stack traces of each node there, which may be far more than the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxheadprune.model.bodies import bodies_of

Documented: TypeAlias = (
    ModelProto | GraphProto | FunctionProto | NodeProto | AttributeProto | TensorProto | ValueInfoProto
)
MUCH = 2**20
"""Characters that are worth a copy of the model."""


def undocumented(model: ModelProto) -> ModelProto:
    """A copy without doc strings, which no analysis and no run reads; the model itself if they are short."""
    if sum(len(item.doc_string) for item in _documented(model)) < MUCH:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for item in _documented(copy):
        item.ClearField("doc_string")
    return copy


def _documented(model: ModelProto) -> Iterator[Documented]:
    """Whatever in a model may have a doc string of any length."""
    yield model
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield function
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[Documented]:
    yield graph
    for listed in (graph.initializer, graph.input, graph.output, graph.value_info):
        yield from listed
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[Documented]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("t"):
                yield attribute.t
        for body in bodies_of(node):
            yield from _of_graph(body)
