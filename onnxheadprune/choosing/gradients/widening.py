"""A model in half precision as the same model in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.bodies import bodies_of

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPES = ("to", "dtype")
"""Attributes that name the type of an output."""


def widened(model: ModelProto, masters: frozenset[str]) -> ModelProto:
    """The model with float32 in place of float16 and bfloat16; inputs and stored tensors are cast where they are read.

    Args:
        model: whose outputs may change their type.
        masters: inputs that are float32 themselves from now on.
    """
    if not _has_halves(model.graph):
        return model
    made = ModelProto()
    made.CopyFrom(model)
    _widen(made.graph, masters, {})
    return made


def _has_halves(graph: GraphProto) -> bool:
    declared = [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)]
    if any(kind in HALVES for kind in (*declared, *(item.data_type for item in graph.initializer))):
        return True
    return any(_mentions_halves(node) for node in graph.node)


def _mentions_halves(node: NodeProto) -> bool:
    for item in node.attribute:
        if (item.name in _TYPES and item.i in HALVES) or item.t.data_type in HALVES:
            return True
    return any(_has_halves(body) for body in bodies_of(node))


def _widen(graph: GraphProto, masters: frozenset[str], outer: Mapping[str, str]) -> None:
    """Changes a graph in place.

    Args:
        graph: the main graph, or a body.
        masters: inputs that become float32.
        outer: new names of values that are cast around a body.
    """
    renamed, casts = dict(outer), []
    for info in graph.input:
        if info.name in masters and info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    narrow = [info.name for info in graph.input if info.type.tensor_type.elem_type in HALVES]
    narrow += [tensor.name for tensor in graph.initializer if tensor.data_type in HALVES]
    for name in dict.fromkeys(narrow):
        renamed[name] = f"{name}/float32"
        casts.append(helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT))
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        for attribute in node.attribute:
            _widen_attribute(attribute)
        for body in bodies_of(node):
            _widen(body, frozenset(), renamed)
    for info in graph.output:
        if info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    infos = [info for info in graph.value_info if info.type.tensor_type.elem_type not in HALVES]
    spare = GraphProto(value_info=infos)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*casts, *nodes])
    graph.value_info.extend(spare.value_info)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in _TYPES and attribute.i in HALVES:
        attribute.i = TensorProto.FLOAT
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES:
        array = numpy_helper.to_array(attribute.t).astype(np.float32)
        attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
