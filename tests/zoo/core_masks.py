"""The second mask: heads silenced where they are made, at the output of their product or fused operator.

A site names a projection. Masking that projection's input proves a cut of it, and would prove a wrong site too: one
whose "projection" is a feed-forward layer that reads the attention together with the residual stream. So the heads
are silenced at their cores as well. If the projection is the heads' own, nothing of them is left in its input, and both
masks are one model. A bias after the core leaves a constant there; that is the heads', but depends on no input.
Experts get zeros in what makes their neurons, or other weights where a router keeps them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune import AttentionSite
from onnxheadprune.attention.masking import Insert, graph_of, insert, routed_masks
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.layers import LayerSite
from onnxheadprune.attention.sites.mixtures import MixtureSite
from onnxheadprune.attention.sites.neuron_site import ExpertProjection, ExpertSite
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import InsertNode
from onnxheadprune.liveness.layouts import is_mixture
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.messages import copied, insert_nodes
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array

COUNTED = (TensorProto.INT32, TensorProto.INT64)
OTHER = -3
"""The factor of weights on which no output may depend."""
First = tuple[GraphProto, NodeProto]
"""A node, and the graph that it goes before."""


@dataclass(frozen=True)
class Tap:
    """A value that a projection reads from removed heads."""

    site: str  # how to call the site
    projection: str  # how to call the projection
    value: str  # name of its input
    axes: tuple[int, ...]  # contracted axes of that input
    gone: Array  # the positions on those axes that belong to the heads
    # name of the number that an integer input means by zero, which dynamic quantization finds anew for every
    # input of the model; None where zero is zero, or is stored
    zero: str | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """Values that have to be outputs of the model."""
        return (self.value,) if self.zero is None else (self.value, self.zero)

    def rest(self, outputs: Mapping[str, Array]) -> tuple[Array, float]:
        """The input at silenced positions, [positions, everything else], and the scale of the whole input."""
        array = outputs[self.value]
        if self.zero is not None:
            array = array.astype(np.int32) - outputs[self.zero].astype(np.int32)
        front = np.moveaxis(array, self.axes, range(len(self.axes)))
        rows = front.reshape(self.gone.size, -1)
        scale = float(np.abs(rows.astype(np.float64)).max(initial=0.0))
        return rows[self.gone.reshape(-1)], scale


@dataclass(frozen=True)
class Silenced:
    """The original with heads silenced at their cores."""

    model: ModelProto  # it, with the inputs of the projections as further outputs
    taps: tuple[Tap, ...]  # those inputs
    skipped: tuple[str, ...]  # sites that cannot be silenced there
    any: bool  # whether some site can
    # whether some projection lies in the body of a control-flow operator, whose values no output shows
    hidden: bool


def silenced_cores(planning: Planning) -> Silenced:
    """The viewed model with the removed heads silenced at their cores."""
    how = _Silencing(copied(planning.view.model))
    for site in planning.touched:
        how.add(site, planning.heads[site.index])
    return how.result()


class _Silencing:
    """A copy of the original in which units are silenced, by the way of each kind."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._masks: dict[Node, Live] = {}  # of outputs of nodes
        self._inserts: dict[Node, list[Insert]] = {}  # masks of inputs of nodes
        self._first: list[First] = []  # nodes that go to the beginning of graphs
        self._taps: list[Tap] = []
        self._skipped: list[str] = []
        self._hidden = self._stored = False

    def add(self, site: Site, units: Sequence[int]) -> None:
        """Silence units of a site."""
        if isinstance(site, LayerSite):
            self._skipped.append(site.label)
        elif isinstance(site, AttentionSite):
            self._behind(site, units, _masks(site, units))
        elif isinstance(site, MixtureSite):
            for item in routed_masks(self._model, site, units):
                self._inserts.setdefault(item.node, []).append(item)
            self._with_stored(site, with_other_weights(self._model, site, units))
        elif isinstance(site, ExpertSite):
            self._with_stored(site, silenced_inside(self._model, site, units))
        else:
            self._behind(site, units, _masks_behind(site, units))

    def result(self) -> Silenced:
        """The model with all masks in place."""
        model = self._model
        for node in sorted({*self._masks, *self._inserts}, key=lambda item: -item.index):
            if node in self._masks:
                _insert(model, node, self._masks[node])
            insert(model, self._inserts.get(node, ()))
        for graph, new in self._first:
            insert_nodes(graph, {0: [new]})
        known = {info.name for info in model.graph.output}
        for name in dict.fromkeys(name for tap in self._taps for name in tap.shown if name not in known):
            model.graph.output.append(ValueInfoProto(name=name))
        can_any = bool(self._masks) or self._stored
        return Silenced(model, tuple(self._taps), tuple(self._skipped), can_any, self._hidden)

    def _with_stored(self, site: Site, changed: list[First] | None) -> None:
        self._stored = self._stored or changed is not None
        self._skipped += [site.label] if changed is None else []
        self._first += changed or []

    def _behind(self, site: Site, units: Sequence[int], own: dict[Node, Live] | None) -> None:
        if own is None:
            self._skipped.append(site.label)
            return
        for node, mask in own.items():
            self._masks[node] = mask & self._masks[node] if node in self._masks else mask
        for projection in site.projections:
            tap = _tap(site, projection, units)
            self._hidden = self._hidden or tap is None
            self._taps += [] if tap is None else [tap]


def _tap(site: Site, projection: Projection, heads: Sequence[int]) -> Tap | None:
    """None where the projection lies in the body of a control-flow operator, whose values no output shows."""
    index, axes = projection.activation
    value = projection.node.inputs[index]
    if value is None or value.scope.parent is not None:
        return None
    gone = ~projection.live_without(heads)
    return Tap(site.label, projection.node.label, value.name, axes, gone, _found_zero(projection.node, index))


def _found_zero(node: Node, index: int) -> str | None:
    """The zero point of an integer input, where a node finds it when the model runs."""
    at = node.roles.zero_points.get(index)
    zero = None if at is None else node.input(at)
    return None if zero is None or zero.is_constant else zero.name


def _masks(site: Site, heads: Sequence[int]) -> dict[Node, Live] | None:
    """The kept part of the output of each core, over its axes; None where it cannot be masked."""
    found: dict[Node, Live] = {}
    assert site.block is not None
    gone = {place for head in heads for place in site.block.members[head]}
    for core in site.block.cores:
        alive = [(core.node.index, position) not in gone for position in range(len(core.heads))]
        shape, mask = core.node.out.shape, core.labelled(np.array(alive))
        sizes = {} if shape is None else {axis: shape[axis] for axis in mask.axes}
        # A period that is repeated along an axis of known length is no mask of it.
        fits = all(not isinstance(size, int) or mask.period(axis) == size for axis, size in sizes.items())
        if shape is None or not fits or not _can_mask(core.node):
            return None
        found[core.node] = mask
    return found


def _masks_behind(site: Site, units: Sequence[int]) -> dict[Node, Live] | None:
    """The kept part of the values that a site's projections read, for all readers; None where none can be masked.

    A neuron has no core of its own: it is the position that a projection reads.
    """
    found: dict[Node, Live] = {}
    for projection in site.projections:
        value = projection.node.inputs[projection.activation[0]]
        node = None if value is None else value.producer
        if node is None or node.out is not value or not _can_mask(node):
            return None
        mask = Live.over(projection.activation[1], projection.live_without(units))
        found[node] = mask & found[node] if node in found else mask
    return found


def _can_mask(node: Node) -> bool:
    return node.out.elem_type in (0, *FLOATS, *COUNTED) or _zero_point(node) is not None


def _zero_point(node: Node) -> Value | None:
    """The zero point of the output of a product of integers."""
    index = node.roles.output_zero
    return None if index is None else node.input(index)


def _insert(model: ModelProto, node: Node, alive: Live) -> None:
    """Put a mask after a node, so that whoever reads the node's output reads it masked."""
    graph, name = graph_of(model, node), node.out.name
    raw, stem = f"{name}/onnxheadprune_core", f"{name}/onnxheadprune_silent"
    shape = node.out.shape
    assert shape is not None
    mask = alive.spread(len(shape))
    counted = node.out.elem_type in (*FLOATS, *COUNTED)
    dtype = helper.tensor_dtype_to_np_dtype(node.out.elem_type) if counted else np.dtype(np.bool_)
    held = stem
    # A generation operator runs its decoders as graphs of their own, which see nothing around them.
    graph.initializer.append(numpy_helper.from_array(mask.astype(dtype), stem))
    created: list[InsertNode] = []
    for axis in [axis for axis in alive.axes if not isinstance(shape[axis], int)]:
        created += _tiled(graph, raw, stem, mask.shape, axis, alive.repeat(axis) != 1)
        held = created[-1].outputs[0]
    if counted:
        created.append(nodes.new(node.ref, "Mul", (raw, held), name))
    else:
        known = _zero_point(node)
        zero = f"{stem}/zero" if known is None else known.name
        if known is None:
            created.append(nodes.new(node.ref, "Sub", (raw, raw), zero))
        created.append(nodes.new(node.ref, "Where", (held, raw, zero), name))
    graph.node[node.position].output[0] = raw
    behind = [nodes.as_proto(edit, node.scope.opset) for edit in created]
    insert_nodes(graph, {node.position + 1: behind})


def _tiled(
    graph: GraphProto, source: str, mask: str, sizes: Sequence[int], axis: int, in_runs: bool
) -> list[InsertNode]:
    """A mask of one period, or each entry of it, repeated along a symbolic axis as often as `source` is long."""
    place = axis + in_runs
    numbers = {
        "axis": [axis],
        "period": [sizes[axis]],
        "apart": [*sizes[:place], 1, *sizes[place:]],
        "before": [1] * place,
        "after": [1] * (len(sizes) - place),
        "joined": [*sizes[:axis], -1, *sizes[axis + 1 :]],
    }
    for name, values in numbers.items():
        tensor = numpy_helper.from_array(np.array(values, dtype=np.int64), f"{mask}/{name}")
        graph.initializer.append(tensor)
    shape, length, times, repeats, rows, tiled, long = (
        f"{mask}/{name}" for name in ("shape", "length", "times", "repeats", "rows", "tiled", "long")
    )
    return [
        nodes.new("", "Shape", (source,), shape),
        nodes.new("", "Gather", (shape, f"{mask}/axis"), length, axis=0),
        nodes.new("", "Div", (length, f"{mask}/period"), times),
        nodes.new("", "Concat", (f"{mask}/before", times, f"{mask}/after"), repeats, axis=0),
        nodes.new("", "Reshape", (mask, f"{mask}/apart"), rows),
        nodes.new("", "Tile", (rows, repeats), tiled),
        nodes.new("", "Reshape", (tiled, f"{mask}/joined"), long),
    ]


def silenced_inside(model: ModelProto, site: Site, neurons: Sequence[int]) -> list[First] | None:
    """Let a mixture read its first layer with zeros in the rows of neurons, in a copy in which no node has moved yet.

    Nodes that go to the beginning of graphs, once all others are placed; None where the layer is not stored.
    """
    made: list[First] = []
    for projection in site.projections:
        found = _silenced(model, projection, neurons) if isinstance(projection, ExpertProjection) else None
        if found is None:
            return None
        made += found
    return made


def with_other_weights(model: ModelProto, site: Site, gone: Sequence[int]) -> list[First] | None:
    """Let a mixture read other numbers in place of all that a cut takes off, in a copy in which no node has moved yet.

    Nodes that go to the beginning of graphs, once all others are placed; None where no weight is a number.
    """
    made: list[First] = []
    changed = False
    for value, live in sweep(list(site.seeds(gone)), answers=site.answers(gone)).narrowed():
        if not value.is_initializer or value.tensor is None or value.elem_type not in FLOATS:
            continue
        changed = True
        made += _with_other_numbers(model, value, live)
    return made if changed else None


def _with_other_numbers(model: ModelProto, value: Value, live: Live) -> list[First]:
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
    product = nodes.new(readers[0].node.ref, "Mul", (value.name, held.name), name)
    return [(graph, nodes.as_proto(product, readers[0].node.scope.opset))]


def _silenced(model: ModelProto, projection: ExpertProjection, neurons: Sequence[int]) -> list[First] | None:
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
            product = nodes.new(node.ref, "Mul", (value.name, held.name), name)
            made.append((graph, nodes.as_proto(product, node.scope.opset)))
        else:
            # A kernel that finds scales computed takes another way, which rounds otherwise.
            numbers = value.numbers()
            held = numpy_helper.from_array(numbers * mask.astype(numbers.dtype), name)
        graph.initializer.append(held)
        graph.node[node.position].input[index] = name
    return made
