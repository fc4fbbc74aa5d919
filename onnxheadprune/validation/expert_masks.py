"""The second mask of experts: zeros in what makes their neurons, or other weights where a router keeps them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from onnxheadprune.attention.insertion import graph_of
from onnxheadprune.attention.sites.experts import ExpertProjection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit import nodes
from onnxheadprune.liveness.layouts import is_mixture
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.tensors import FLOATS

OTHER = -3
"""The factor of weights on which no output may depend."""
Insert = tuple[GraphProto, NodeProto]
"""A node, and the graph that it goes before."""


def silenced_inside(model: ModelProto, site: Site, neurons: Sequence[int]) -> list[Insert] | None:
    """Let a mixture read its first layer with zeros in the rows of neurons, in a copy in which no node has moved yet.

    Nodes that go to the beginning of graphs, once all others are placed; None where the layer is not stored.
    """
    made: list[Insert] = []
    for projection in site.projections:
        found = _silenced(model, projection, neurons) if isinstance(projection, ExpertProjection) else None
        if found is None:
            return None
        made += found
    return made


def with_other_weights(model: ModelProto, site: Site, gone: Sequence[int]) -> list[Insert] | None:
    """Let a mixture read other numbers in place of all that a cut takes off, in a copy in which no node has moved yet.

    Nodes that go to the beginning of graphs, once all others are placed; None where no weight is a number.
    """
    made: list[Insert] = []
    changed = False
    for value, live in sweep(list(site.seeds(gone)), answers=site.answers(gone)).narrowed():
        if not value.is_initializer or value.tensor is None or value.elem_type not in FLOATS:
            continue
        changed = True
        made += _with_other_numbers(model, value, live)
    return made if changed else None


def _with_other_numbers(model: ModelProto, value: Value, live: Live) -> list[Insert]:
    """Let all readers of a stored tensor read other numbers where it is not live."""
    shape, readers = value.shape, value.consumers
    assert shape is not None
    factors = np.where(live.spread(len(shape)), 1, OTHER).astype(
        helper.tensor_dtype_to_np_dtype(value.elem_type)
    )
    graph, name = graph_of(model, readers[0].node), f"{value.name}/onnxheadprune_other"
    # A kernel that finds scales computed takes another way, which rounds otherwise.
    inside = any(is_mixture(use.node) for use in readers)
    held = numpy_helper.from_array(value.numbers() * factors if inside else factors, f"{name}_numbers")
    graph.initializer.append(held)
    for use in readers:
        graph_of(model, use.node).node[use.node.position].input[use.input_index] = (
            held.name if inside else name
        )
    if inside:
        return []
    product = nodes.multiply(readers[0].node.ref, value.name, held.name, name)
    return [(graph, new) for new in nodes.as_protos(product, readers[0].node.scope.opset)]


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
