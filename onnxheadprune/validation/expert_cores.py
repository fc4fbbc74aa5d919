"""The second mask of experts: zeros in what makes their neurons, or other weights where a router keeps them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.attention.sites.experts import ExpertProjection
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit import nodes
from onnxheadprune.liveness.mixtures import is_mixture
from onnxheadprune.model.tensors import FLOATS

OTHER = -3
"""What weights that nothing may depend on are multiplied by."""
Insert = tuple[GraphProto, NodeProto]
"""A node, and the graph that it goes in front of."""


def silenced_inside(model: ModelProto, site: Site, neurons: Sequence[int]) -> list[Insert] | None:
    """Lets a mixture read its first map with zeros in the rows of neurons.

    Args:
        model: a copy of the viewed model, in which no node has moved yet.
        site: the mixture, or whatever else has its cores inside an operator.
        neurons: those that are silent.

    Returns:
        Nodes that go to the beginning of graphs, once all others are placed; None where the map is not stored.
    """
    made: list[Insert] = []
    for projection in site.projections:
        found = _silenced(model, projection, neurons) if isinstance(projection, ExpertProjection) else None
        if found is None:
            return None
        made += found
    return made


def with_other_weights(model: ModelProto, site: Site, gone: Sequence[int]) -> list[Insert] | None:
    """Lets a mixture read other weights of experts that its router keeps out, on which nothing may depend.

    Args:
        model: a copy of the viewed model, in which no node has moved yet.
        site: the mixture.
        gone: the experts.

    Returns:
        Nodes that go to the beginning of graphs, once all others are placed; None where no weight is a number.
    """
    made: list[Insert] = []
    changed = False
    for node, index, live in site.stored(gone):
        value = node.inputs[index]
        assert value is not None and value.shape is not None
        if value.elem_type not in FLOATS:
            continue
        changed = True
        sizes = dict(zip(live.axes, live.array.shape, strict=True))
        alive = live.mask.reshape([sizes.get(axis, 1) for axis in range(len(value.shape))])
        factors = np.where(alive, 1, OTHER).astype(helper.tensor_dtype_to_np_dtype(value.elem_type))
        name = f"{value.name}/onnxheadprune_other{node.index}_{index}"
        graph = graph_of(model, node)
        held = numpy_helper.from_array(value.numbers() * factors if is_mixture(node) else factors, f"{name}_stored")
        graph.initializer.append(held)
        if is_mixture(node):
            # A kernel that finds scales computed takes another way, which rounds otherwise.
            graph.node[node.position].input[index] = held.name
            continue
        product = nodes.multiply(node.ref, value.name, held.name, name)
        made += [(graph, new) for new in nodes.as_protos(product, node.scope.opset)]
        graph.node[node.position].input[index] = name
    return made if changed else None


def _silenced(model: ModelProto, projection: ExpertProjection, neurons: Sequence[int]) -> list[Insert] | None:
    node, layout = projection.node, projection.layout
    alive = projection.live_without(neurons)
    values = [(index, value) for index in layout.made if (value := node.input(index)) is not None]
    if not all(value.is_initializer and value.tensor is not None for _, value in values):
        return None
    graph, made = graph_of(model, node), []
    for index, value in values:
        assert value.shape is not None and value.tensor is not None
        mask = layout.inputs[index].spread(alive, len(value.shape))
        name = f"{value.name}/onnxheadprune_core{node.index}"
        if layout.bits is None:
            dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
            held = numpy_helper.from_array(mask.astype(dtype), f"{name}_alive")
            product = nodes.multiply(node.ref, value.name, held.name, name)
            made += [(graph, new) for new in nodes.as_protos(product, node.scope.opset)]
        else:
            # A kernel that finds scales computed takes another way, which rounds otherwise.
            numbers = value.numbers()
            held = numpy_helper.from_array(numbers * mask.astype(numbers.dtype), name)
        graph.initializer.append(held)
        graph.node[node.position].input[index] = name
    return made
