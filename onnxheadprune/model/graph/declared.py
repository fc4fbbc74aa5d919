"""Shapes that a model declares for what its nodes make, and those among them that its operators contradict.

What an operator makes of its inputs is so. A declaration beside it may be out of date, and is ignored then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from onnx import AttributeProto, GraphProto, ValueInfoProto

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.view import Contradiction, GraphView, Scope, Value


def declared_shapes(view: GraphView) -> dict[Value, Shape]:
    """Return what is declared of the outputs of nodes."""
    return {value: shape for scope in view.scopes for value, shape in _declared(scope)}


def _declared(scope: Scope) -> Iterator[tuple[Value, Shape]]:
    for info in chain(scope.proto.value_info, scope.proto.output):
        value, shape = scope.values.get(info.name), shape_of(info)
        if value is not None and value.producer is not None and value.tensor is None and shape is not None:
            yield value, shape


def contradictions(declared: Mapping[Value, Shape]) -> list[Contradiction]:
    """Those declarations that differ from the annotated shapes in rank or in a number."""
    return [
        Contradiction(value, shape, value.shape)
        for value, shape in declared.items()
        if value.shape is not None and _differ(shape, value.shape)
    ]


def _differ(declared: Shape, found: Shape) -> bool:
    if len(declared) != len(found):
        return True
    pairs = zip(declared, found, strict=True)
    return any(isinstance(left, int) and isinstance(right, int) and left != right for left, right in pairs)


def forget_shapes(view: GraphView) -> None:
    """Takes back what was annotated to the outputs of nodes."""
    for value in view.values():
        if value.producer is not None and value.tensor is None:
            value.shape = value.elements = value.folded = None


def strip(graph: GraphProto, ignored: Callable[[str, str], bool], ref: str = "main") -> None:
    """Removes ignored declarations from a graph and its bodies, in place.

    Args:
        graph: the graph.
        ignored: asked with the reference of a scope and the name of a value.
        ref: the reference of the graph's scope.
    """
    for info in chain(graph.value_info, graph.output):
        if shape_of(info) is not None and ignored(ref, info.name):
            info.type.tensor_type.ClearField("shape")
    for position, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                strip(attribute.g, ignored, f"{ref}[{position}].{attribute.name}")


def shape_of(info: ValueInfoProto) -> Shape | None:
    """The declared shape, with a symbol of its own for each size that has no name."""
    tensor = info.type.tensor_type
    if info.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return None
    shape: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        kind = dim.WhichOneof("value")
        if kind == "dim_value":
            shape.append(dim.dim_value)
        else:
            shape.append(dims.spelled(dim.dim_param) if dim.dim_param else dims.symbol(f"{info.name}.{axis}"))
    return tuple(shape)
