"""The masked reference: the original model with a 0/1 multiplication on the input of each output projection.

It is the oracle of this package: a pruned model must equal it, always. With masks that are stored as numbers of their
own, all of them one, it is what a gradient with respect to a mask is taken of. Who reads the state behind a removed
layer reads the one in front. It works on names and protos alone, and so shares nothing with the edits of a cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.states import State, is_sum, place_of
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import InsertNode
from onnxheadprune.edit.submodel import needed_nodes
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.layouts import is_mixture, mixture_of
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.operator import DEQUANTIZES, QUANTIZERS, QUANTIZES
from onnxheadprune.model.graph.types import type_of
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.messages import copied, insert_nodes, replace_all
from onnxheadprune.model.tensors import FLOATS, Mask


def masked_reference(
    view: GraphView,
    sites: Iterable[Site],
    heads: Mapping[int, Iterable[int]],
) -> ModelProto:
    """A copy of the viewed model in which the given units contribute nothing, and given layers are the identity."""
    masked = copied(view.model)
    left: dict[Node, tuple[Projection, Mask]] = {}
    routed: list[Insert] = []
    graphs: dict[State, GraphProto] = {}
    for site in sites:
        silenced = tuple(heads.get(site.index, ()))
        if not silenced:
            continue
        if site.states:
            graphs |= {state: graph_at(masked, state.behind.scope) for state in site.states}
            continue
        routed += routed_masks(masked, site, silenced)
        for projection in site.contexts:
            # A projection may sum up heads and neurons, in channels of their own.
            alive = projection.live_without(silenced)
            before = left[projection.node][1] if projection.node in left else True
            left[projection.node] = projection, alive & before
    inserts = [masked_input(masked, projection, alive) for projection, alive in left.values()]
    insert(masked, [*routed, *inserts])
    shorten(graphs)
    return masked


def routed_masks(model: ModelProto, site: Site, gone: Sequence[int]) -> Iterator[Insert]:
    """Yield the masks that keep units away from the choice of a router, stored in a model."""
    for gate in site.gates():
        out, created = gate.closing()
        _store(model, gate.node, numpy_helper.from_array(gate.alive(gone), gate.mask))
        _store(model, gate.node, out)
        yield Insert(gate.node, gate.index, created, gate.name)


def with_variables(
    view: GraphView, projections: Iterable[Projection]
) -> tuple[ModelProto, dict[Node, TensorProto]]:
    """A copy of the viewed model in which stored factors, all of them one, multiply what projections read."""
    made = copied(view.model)
    inserts, factors = [], {}
    for projection in {projection.node: projection for projection in projections}.values():
        place = _place(projection, projection.live_without(()))
        if place.elem_type not in FLOATS:
            raise RefusedError(
                f"what {projection.node.label} reads is never a real number, so it has no gradient;"
                " score by another method"
            )
        factors[projection.node] = numpy_helper.from_array(place.factors, place.stored)
        inserts.append(_multiplied(place))
    made.graph.initializer.extend(factors.values())
    insert(made, inserts)
    return made, factors


@dataclass(frozen=True, eq=False)
class _MaskPlace:
    """The place of a mask."""

    node: Node  # what reads the masked value
    index: int  # at which input
    value: Value  # what is masked
    mask: Mask  # over it, of size 1 along axes of which it says nothing
    elem_type: int  # of the value
    rounding: tuple[Node, ...]  # nodes that are to round what is masked, as they do what is not
    name: str  # of the masked value

    @property
    def stored(self) -> str:
        """The name of the mask."""
        return f"{self.name}_heads"

    @property
    def factors(self) -> npt.NDArray[np.generic]:
        """The mask as numbers of the value's own type."""
        return self.mask.astype(helper.tensor_dtype_to_np_dtype(self.elem_type))


def _place(projection: Projection, alive: Mask) -> _MaskPlace:
    node, index = projection.node, projection.activation[0]
    value = node.inputs[index]
    assert value is not None and value.shape is not None
    mask = projection.spread(alive, len(value.shape))
    while value.producer is not None and value.producer in QUANTIZERS and value.elem_type not in FLOATS:
        node, index = value.producer, 0
        value = node.inputs[0]
        assert value is not None
    value, rounding = _before_rounding(value)
    name = f"{value.name}/onnxheadprune_mask{projection.node.index}"
    elem_type = value.elem_type or (0 if index in node.roles.zero_points else _weight_type(projection))
    return _MaskPlace(node, index, value, mask, elem_type, rounding, name)


def _store(model: ModelProto, node: Node, tensor: TensorProto) -> None:
    """Store a tensor beside a node: a generation operator runs its decoders as graphs of their own."""
    graph_of(model, node).initializer.append(tensor)


def _multiplied(place: _MaskPlace) -> Insert:
    """A real value times its mask."""
    return _before(place, nodes.new(place.node.ref, "Mul", (place.value.name, place.stored), place.name))


def masked_input(model: ModelProto, projection: Projection, alive: Mask) -> Insert:
    """The mask in front of a projection, stored in a model."""
    place = _place(projection, alive)
    node, value = place.node, place.value
    layout = mixture_of(node)
    if value.tensor is not None and layout is not None and place.index == layout.silent != layout.last:
        # A kernel that finds scales computed takes another way, which rounds otherwise.
        numbers = value.numbers()
        stored = numpy_helper.from_array(numbers * place.mask.astype(numbers.dtype), place.name)
        _store(model, node, stored)
        return Insert(node, place.index, [], place.name)
    if place.elem_type in FLOATS:
        _store(model, node, numpy_helper.from_array(place.factors, place.stored))
        return _multiplied(place)
    # An integer context is zero where it equals its zero point.
    zero = _level_of_zero(model, node, place.name) if is_mixture(node) else _zero_point(node, place.index)
    _store(model, node, numpy_helper.from_array(place.mask, place.stored))
    return _before(place, nodes.new(node.ref, "Where", (place.stored, value.name, zero), place.name))


def _before(place: _MaskPlace, created: InsertNode) -> Insert:
    """A new node at its place, and what rounds its result."""
    inserted = [
        nodes.as_proto(created, place.node.scope.opset),
        *_rounded_again(place.name, place.rounding),
    ]
    return Insert(place.node, place.index, inserted, inserted[-1].output[0])


def _before_rounding(value: Value) -> tuple[Value, tuple[Node, ...]]:
    """The value that a pair of QuantizeLinear and DequantizeLinear rounds, and the pair; the value itself without one.

    ONNX Runtime fuses a contraction with the DequantizeLinear before it. A mask between the two would stop
    that, and the masked reference would round at other places than the pruned model.
    """
    last = value.producer
    stored = None if last is None or last not in DEQUANTIZES else last.inputs[0]
    first = None if stored is None else stored.producer
    if last is None or first is None or first not in QUANTIZES or first.inputs[0] is None:
        return value, ()
    return first.inputs[0], (first, last)


def _rounded_again(name: str, rounding: tuple[Node, ...]) -> Iterator[NodeProto]:
    """Copy of rounding nodes for a masked value; the originals stay for whoever else reads them."""
    source = name
    for node in rounding:
        copy = copied(node.proto)
        copy.input[0], copy.name = source, f"{name}/{node.op_type}"
        source = copy.output[0] = copy.name
        yield copy


def _zero_point(node: Node, index: int) -> str:
    """The zero point of a quantized operand."""
    at = node.roles.zero_points.get(index)
    value = None if at is None else node.input(at)
    if value is None:
        raise RefusedError(
            f"the context of {node.label} is quantized in a way that no masked reference can be built for"
        )
    return value.name


def _level_of_zero(model: ModelProto, node: Node, name: str) -> str:
    """The bytes that mean zero in the last layer of a mixture, a new tensor that fits each row of it."""
    from onnxheadprune.attention.quantized import packed_again, unpacked

    layout, bits = mixture_of(node), 8
    assert layout is not None
    bits = layout.bits or bits
    levels = np.full((1, 1), 2 ** (bits - 1), dtype=np.uint8)
    if layout.zero is not None:
        value, weight = node.input(layout.zero), node.shape(layout.last)
        if value is None or value.tensor is None or weight is None:
            raise RefusedError(
                f"the zero points of {node.label} are not stored, so that zero cannot be expressed as a constant"
            )
        levels = unpacked(value.numbers(), bits)[:, : int(str(weight[1]))]
    filled = np.repeat(levels.reshape(-1, 1), 8 // bits, axis=1)
    tensor = numpy_helper.from_array(packed_again(filled, bits).reshape(*levels.shape, 1), f"{name}_zero")
    _store(model, node, tensor)
    return tensor.name


def _weight_type(projection: Projection) -> int:
    found = type_of(projection.operand or projection.node.out)
    return found if found in FLOATS else TensorProto.FLOAT


class Insert(NamedTuple):
    """Nodes before a node, and which of its inputs reads their result."""

    node: Node
    input_index: int
    created: list[NodeProto]
    result: str


def insert(model: ModelProto, inserts: Iterable[Insert]) -> None:
    """Put new nodes before those that read them, in place."""
    every = sorted(inserts, key=lambda item: -item.node.index)
    for item in every:
        graph_of(model, item.node).node[item.node.position].input[item.input_index] = item.result
    for item in every:
        insert_nodes(graph_of(model, item.node), {item.node.position: item.created})


def graph_of(model: ModelProto, node: Node) -> GraphProto:
    """The graph of the copy that corresponds to a node's scope."""
    return graph_at(model, node.scope)


def graph_at(model: ModelProto, scope: Scope) -> GraphProto:
    """The graph of the copy that corresponds to a scope."""
    graph = model.graph
    for owner, body in reversed(list(scope.owners)):
        attributes = graph.node[owner.position].attribute
        graph = next(item.g for item in attributes if owner.bodies.get(item.name) is body)
    return graph


SKIP = 1
"""The input of an operator that adds and normalizes which a state alone lacks."""


def shorten(graphs: Mapping[State, GraphProto]) -> None:
    """Make layers the identity, in place.

    Args:
        graphs: the graphs of a copy of the viewed model, by the states around layers in them.
    """
    # From behind: a state in front that is removed with another layer is replaced in turn.
    for state in sorted(graphs, key=lambda state: -place_of(state.behind)):
        graph, front, behind = graphs[state], state.front.name, state.behind.name
        place = next(place for place, node in enumerate(graph.node) if behind in node.output)
        for node in nodes_in(graph.node):
            for index, name in enumerate(node.input):
                if name == behind:
                    node.input[index] = front
        maker = graph.node[place]
        made = []
        if state.behind.producer is not None and is_sum(state.behind):
            zeros = f"{behind}/onnxheadprune_zeros"
            maker.input[0], maker.input[SKIP] = front, zeros
            bias = state.behind.producer.roles.learned[-1]
            if len(maker.input) > bias:
                maker.input[bias] = ""
            made.append(nodes.as_proto(nodes.new("", "Sub", (front, front), zeros)))
        if any(info.name == behind for info in graph.output):
            maker.output[list(maker.output).index(behind)] = f"{behind}/onnxheadprune_before"
            made.append(nodes.as_proto(nodes.new("", "Identity", (front,), behind)))
        for node in made:
            graph.node.insert(place, node)
    # A node that nothing reads would keep ONNX Runtime from fusing others.
    for graph in {id(graph): graph for graph in graphs.values()}.values():
        needed, _ = needed_nodes(graph, [info.name for info in graph.output])
        replace_all(graph.node, needed)
