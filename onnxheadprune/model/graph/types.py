"""Element types of values, from what is stored or cast, and by the schemas of operators or the roles of their inputs.

Shape inference does not know the output types of ONNX Runtime's own operators, and files that were converted to half
precision often still declare float for values in between. Stored tensors and casts are reliable. An operator of which
nothing is known is taken to output the type that it reads first.
"""

from __future__ import annotations

import functools

from onnx import TensorProto

from onnxheadprune.model.graph.operator import is_a, schema_of
from onnxheadprune.model.graph.view import Node, Value

_GIVEN = ("to", "dtype")
"""Attributes that name the type of an output which no input has."""


def adopt_types(node: Node) -> None:
    """Give the outputs of a node that have no element type the one that its operator specifies."""
    for value in node.outputs:
        if value is not None and not value.elem_type:
            inputs = inputs_alike(node, value.output_index)
            known = (item.elem_type for item in inputs if item.elem_type)
            value.elem_type = next(known, 0 if inputs else _own_type(node, value.output_index))


def inputs_alike(node: Node, output: int) -> list[Value]:
    """The given inputs that have the type of an output, as the operator's schema or its roles specify."""
    roles = node.roles
    indices = () if node.domain else _by_schema(node.op_type, node.opset, len(node.inputs), output)
    indices = indices or roles.alike_by_output.get(output, roles.alike)
    return [value for index in indices if (value := node.input(index)) is not None]


def _own_type(node: Node, output: int) -> int:
    """The type of an output that is the type of none of the inputs; UNDEFINED where that is not known."""
    found = node.roles.types.get(output) or (
        0 if node.domain else _only_type(node.op_type, node.opset, output)
    )
    return found or next((int(node.attribute(name)) for name in _GIVEN if node.attribute(name)), 0)


@functools.cache
def _only_type(op_type: str, opset: int, output: int) -> int:
    """The one type that an output of a standard operator may have; UNDEFINED if it may have several."""
    schema = schema_of(op_type, opset)
    if schema is None or output >= len(schema.outputs):
        return 0
    spelled = schema.outputs[output].type_str
    allowed = {item.type_param_str: list(item.allowed_type_strs) for item in schema.type_constraints}
    types = allowed.get(spelled, [spelled])
    if len(types) != 1 or not types[0].startswith("tensor("):
        return 0
    return int(TensorProto.DataType.Value(types[0].removeprefix("tensor(").removesuffix(")").upper()))


@functools.cache
def _by_schema(op_type: str, opset: int, count: int, output: int) -> tuple[int, ...]:
    """The inputs that have the type of an output.

    Args:
        count: how many inputs the node has. The last formal input or output may stand for any number of them.
    """
    schema = schema_of(op_type, opset)
    if schema is None or not schema.inputs or not schema.outputs:
        return ()
    wanted = schema.outputs[min(output, len(schema.outputs) - 1)]
    given = [schema.inputs[min(index, len(schema.inputs) - 1)] for index in range(count)]
    if not wanted.is_homogeneous:
        return ()
    return tuple(index for index, item in enumerate(given) if item.type_str == wanted.type_str)


MAX_STEPS = 64


def type_of(value: Value | None) -> int:
    """The element type; UNDEFINED where nothing tells it."""
    declared = 0 if value is None else value.elem_type
    for _ in range(MAX_STEPS):
        if value is None:
            break
        if value.tensor is not None or value.is_graph_input or value.producer is None:
            return value.elem_type or declared
        node = value.producer
        if is_a(node, "Cast"):
            return int(node.attribute("to"))
        alike = inputs_alike(node, value.output_index)
        if not alike and (value.elem_type or declared or not node.sources):
            return value.elem_type or declared
        alike = alike or node.sources[:1]
        value = next((source for source in alike if source.tensor is not None), alike[0])
    return declared or int(TensorProto.UNDEFINED)
