"""What is known of the values of a model whose tensors are hollow: types and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.workflow.reducing.hollow import is_hollow

Types: TypeAlias = Mapping[str, ValueInfoProto]
"""Types and shapes of values by name."""


def types_of(model: ModelProto) -> dict[str, ValueInfoProto]:
    """What is known of the values of the main graph.

    Args:
        model: with hollow tensors.
    """
    known = _declared(model)
    try:
        view = viewed(model)
    except Exception:
        # It may be the very failure that is to be shown. onnx alone says less, and goes on after an error.
        return _inferred(model) | known
    for value in view.main.values.values():
        known.setdefault(value.name, _info(value))
    return known


def viewed(model: ModelProto) -> GraphView:
    """An annotated view of a model.

    Args:
        model: with hollow tensors.

    Raises:
        Exception: of any kind, where an analysis fails.
    """
    return view_of(_sizes_only(model))


def _sizes_only(model: ModelProto) -> ModelProto:
    """A copy whose hollow tensors look as if their numbers were in a file, which is never opened."""
    made = ModelProto()
    made.CopyFrom(model)
    for tensor, _ in tensors_of(made):
        if is_hollow(tensor):
            tensor.data_location = TensorProto.EXTERNAL
    return made


def _declared(model: ModelProto) -> dict[str, ValueInfoProto]:
    graph = model.graph
    return {info.name: info for info in (*graph.value_info, *graph.output, *graph.input)}


def _inferred(model: ModelProto) -> dict[str, ValueInfoProto]:
    try:
        return _declared(shape_inference.infer_shapes(_sizes_only(model)))
    except Exception:
        # onnx raises many types here; what is declared is known still.
        return {}


def _info(value: Value) -> ValueInfoProto:
    """The type of a value; what operators give whose types nobody tells is taken for what they read."""
    shape = None if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]
    kind = value.elem_type
    if not kind and value.producer is not None:
        kind = next((item.elem_type for item in value.producer.inputs if item is not None), 0)
    return helper.make_tensor_value_info(value.name, kind or TensorProto.FLOAT, shape)
