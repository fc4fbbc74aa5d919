"""Types and shapes of one node at a time, for graphs that are too large to be inferred as a whole.

`onnx.shape_inference` copies a graph several times. Here types follow from the operator's schema, which says
what inputs share a type with an output; and onnx is asked for a shape only where no function of ours tells one.
"""

from __future__ import annotations

import functools

import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper, shape_inference

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.schemas import schema_of
from onnxheadprune.model.graph.view import Node, Value

_GIVEN = ("to", "dtype")
"""Attributes that name the type of an output which no input has."""


def adopt_type(node: Node) -> None:
    """Gives the outputs of a standard operator the element types that its schema tells."""
    for value, source in zip(node.outputs, _sources(node.op_type, node.opset), strict=False):
        if value is None or value.elem_type:
            continue
        if isinstance(source, str):
            value.elem_type = TensorProto.DataType.Value(source)
        elif source is not None:
            given = node.input(source)
            value.elem_type = 0 if given is None else given.elem_type
        else:
            value.elem_type = next((node.attribute(name) for name in _GIVEN if node.attribute(name)), 0)


@functools.cache
def _sources(op_type: str, opset: int) -> tuple[int | str | None, ...]:
    """Per output the input whose type it has, or the one type that it may have; None where neither is so."""
    schema = schema_of(op_type, opset)
    if schema is None:
        return ()
    allowed = {item.type_param_str: list(item.allowed_type_strs) for item in schema.type_constraints}
    found: list[int | str | None] = []
    for output in schema.outputs:
        types = allowed.get(output.type_str, [output.type_str])
        same = [index for index, item in enumerate(schema.inputs) if item.type_str == output.type_str]
        if len(types) == 1 and types[0].startswith("tensor("):
            found.append(types[0].removeprefix("tensor(").removesuffix(")").upper())
        else:
            found.append(same[0] if same else None)
    return tuple(found)


def adopt_shapes(node: Node) -> None:
    """Gives the outputs of a standard operator what onnx infers from the node and its inputs alone."""
    inputs = [value for value in node.inputs if value is not None]
    if node.bodies or not all(value.elem_type for value in inputs):
        return
    known = {str(dim): dim for value in inputs for dim in value.shape or ()}
    literals = {value.name: value.literal() for value in inputs}
    try:
        answer = shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, node.opset, ""),
            node.proto,
            {value.name: _type_of(value) for value in inputs},
            {name: numpy_helper.from_array(item) for name, item in literals.items() if item is not None},
            opset_imports=[helper.make_opsetid("", node.opset)],
        )
    except Exception:  # as for whole graphs: the values stay unknown, which is no less exact
        return
    for value in node.outputs:
        told = None if value is None else answer.get(value.name)
        if value is None or told is None or told.WhichOneof("value") != "tensor_type":
            continue
        value.elem_type = value.elem_type or told.tensor_type.elem_type
        if told.tensor_type.HasField("shape"):
            value.shape = _shape(value, told, known)


def _type_of(value: Value) -> TypeProto:
    shape = (
        None if value.shape is None else [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    )
    return helper.make_tensor_type_proto(value.elem_type, shape)


def _shape(value: Value, told: TypeProto, known: dict[str, Dim]) -> Shape:
    """The told shape, in which names of dimensions are the polynomials that they spell."""
    made: list[Dim] = []
    for axis, dim in enumerate(told.tensor_type.shape.dim):
        if dim.WhichOneof("value") == "dim_value":
            made.append(dim.dim_value)
        else:
            made.append(known.get(dim.dim_param) or dims.symbol(f"{value.name}.{axis}"))
    return tuple(made)
