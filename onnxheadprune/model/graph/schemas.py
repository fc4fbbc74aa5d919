"""The schema that onnx has of a standard operator, by its name and the opset."""

from __future__ import annotations

import functools
from typing import Any

import onnx
from onnx import ModelProto
from onnx.defs import OpSchema


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


@functools.cache
def schema_of(op_type: str, opset: int) -> OpSchema | None:
    """The schema, None for an operator that the standard does not have."""
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def is_function(op_type: str, opset: int) -> bool:
    """Return whether an operator gives the same for the same inputs, whatever its attributes are."""
    told: Any = schema_of(op_type, opset)  # onnx's stubs lack the attribute
    return told is not None and bool(told.node_determinism != OpSchema.NodeDeterminism.NonDeterministic)


@functools.cache
def is_random(op_type: str, opset: int) -> bool:
    """Return whether an operator draws numbers. What does so in training alone, as a Dropout, does not here."""
    schema = schema_of(op_type, opset)
    if schema is None or "seed" not in schema.attributes:
        return False
    return all(item.name != "training_mode" for item in schema.inputs)


@functools.cache
def follows_elements(op_type: str, opset: int) -> bool:
    """Return whether onnx's shape inference follows elements through an operator."""
    told: Any = schema_of(op_type, opset)  # onnx's stubs lack the attribute
    return told is not None and bool(told.has_data_propagation_function)


@functools.cache
def inputs_alike(op_type: str, opset: int, count: int, output: int) -> tuple[int, ...]:
    """The inputs that have the type of an output.

    Args:
        op_type: the operator.
        opset: which version of it.
        count: how many inputs the node has. The last formal input or output may stand for any number of them.
        output: index of the output.
    """
    schema = schema_of(op_type, opset)
    if schema is None or not schema.inputs or not schema.outputs:
        return ()
    wanted = schema.outputs[min(output, len(schema.outputs) - 1)]
    given = [schema.inputs[min(index, len(schema.inputs) - 1)] for index in range(count)]
    if not wanted.is_homogeneous:
        return ()
    return tuple(index for index, item in enumerate(given) if item.type_str == wanted.type_str)
