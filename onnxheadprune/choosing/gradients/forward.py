"""The part of a model that a loss needs: parameters as inputs, fused operators in parts, half precision as float32."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest

import numpy as np
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

from onnxheadprune.edit.gradients import Constant, Decomposition, Step, Term, UnknownShapeError, Writer
from onnxheadprune.edit.submodel import read_by, submodel
from onnxheadprune.model.bodies import bodies_of, graphs_in
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.operator import QUANTIZES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied, declared, keep, replace_all
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.operators import load

load(gradients=True)
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPES = ("to", "dtype")
"""Attributes that name the type of an output."""


def forward_part(model: ModelProto, loss: str, parameters: Collection[str]) -> ModelProto:
    """A model of the nodes that `loss` needs; parameters are inputs in their own type.

    Tensors that are no parameters are copied unchanged, so references to files stay references.
    """
    values = GraphView(model).main.values
    part = submodel([values[loss]], opened=set(parameters))
    graph = part.graph
    inputs = [info for info in model.graph.input if not values[info.name].is_initializer]
    inputs += [declared(tensor) for tensor in model.graph.initializer if tensor.name in parameters]
    replace_all(graph.input, inputs)
    made = {name for node in graph.node for name in node.output}
    graph.value_info.extend(info for info in model.graph.value_info if info.name in made)
    replace_all(graph.output, [_declared(model, loss)])
    return part


def _declared(model: ModelProto, name: str) -> ValueInfoProto:
    for info in (*model.graph.output, *model.graph.value_info):
        if info.name == name:
            found: ValueInfoProto = info
            return found
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def names_of(graph: GraphProto) -> set[str]:
    """All names of values and nodes, those in bodies included."""
    names: set[str] = set()
    for inner in graphs_in(graph):
        names.update(item.name for item in (*inner.input, *inner.output, *inner.initializer))
        names.update(name for node in inner.node for name in (node.name, *node.output, *node.input))
    return names


def active_values(view: GraphView, parameters: Iterable[str]) -> set[str]:
    """Names of values of the main graph that depend on parameters through numbers that can be differentiated."""
    active = set(parameters)
    for node in view.main.nodes:
        if active.isdisjoint(read_by(node.proto)):
            continue
        for value in node.outputs:
            if value is not None and (
                value.elem_type in (0, *FLOATS) or node in QUANTIZES or _carries(node, active)
            ):
                active.add(value.name)
    return active


def _carries(node: Node, active: set[str]) -> bool:
    """Return whether a node only moves quantized numbers."""
    first, out = node.input(0), node.out
    return (
        first is not None
        and first.name in active
        and first.elem_type not in FLOATS
        and out.elem_type == first.elem_type
        and node.operator.gradient is not None
    )


def taken_apart(model: ModelProto, parameters: Iterable[str]) -> ModelProto:
    """The model with fused operators on the path of a gradient replaced by smaller operators."""
    given = list(parameters)
    while True:
        view = annotate(GraphView(model))
        active = active_values(view, given)
        writer = Writer(view.main.opset, names_of(model.graph), "part")
        nodes: list[NodeProto] = []
        done = False
        for node in view.main.nodes:
            before = len(writer.nodes)
            parts = None if active.isdisjoint(node.proto.input) else _parts(node, active, writer)
            # Nodes of an attempt that failed may be shared by later ones; what nobody reads is dropped in the end.
            nodes += writer.nodes[before:]
            nodes += [node.proto] if parts is None else parts
            done = done or parts is not None
        if not done:
            return model
        changed = copied(model)
        replace_all(changed.graph.node, nodes)
        changed.graph.initializer.extend(writer.constants)
        model = changed


def _parts(node: Node, active: set[str], writer: Writer) -> list[NodeProto] | None:
    """Return the rest of a fused node that was replaced by smaller operators; None where it is kept."""
    if node.operator.parts is None:
        return None
    terms = parts_of(node, active, writer)
    if isinstance(terms, Constant):
        return None
    outputs = [
        (value, term)
        for value, term in zip_longest(node.outputs, terms[: len(node.outputs)])
        if value is not None and value.is_read
    ]
    if any(term is None and value.elem_type in FLOATS for value, term in outputs):
        # Its gradient would be lost: scores that leave the operator beside the context.
        return None
    kept = {value.name for value, term in outputs if term is None}
    for value, term in outputs:
        if term is not None:
            writer.node("Identity", [term.name], [value.name])
    # Lengths, and what else has no gradient, are still the operator's own.
    names = [name if name in kept else writer.fresh() for name in node.proto.output]
    rest = copied(node.proto)
    replace_all(rest.output, names)
    return [rest] if kept else []


def parts_of(node: Node, active: set[str], writer: Writer) -> Sequence[Term | None] | Constant:
    """The outputs of a fused node, written as smaller operators, or why that is not possible."""
    face: Decomposition | None = node.operator.parts
    if face is None:
        return Constant("has no gradient")
    wanted = frozenset(i for i, value in enumerate(node.inputs) if value is not None and value.name in active)
    try:
        return face(Step(node, (), wanted, writer))
    except UnknownShapeError as error:
        return Constant(f"has no gradient here, because {error}")


def widened(model: ModelProto, masters: frozenset[str]) -> ModelProto:
    """The model in float32 instead of float16 and bfloat16; inputs and stored tensors are cast where they are read."""
    if not _has_halves(model.graph):
        return model
    made = copied(model)
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
    """Change a graph in place."""
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
    replace_all(graph.node, [*casts, *graph.node])
    keep(graph.value_info, lambda info: info.type.tensor_type.elem_type not in HALVES)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in _TYPES and attribute.i in HALVES:
        attribute.i = TensorProto.FLOAT
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES:
        array = numpy_helper.to_array(attribute.t).astype(np.float32)
        attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
