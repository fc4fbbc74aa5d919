"""Feed-forward blocks: their units are neurons, the positions between two linear layers.

They are found by structure, like heads: a linear layer sums over the outputs of other linear layers, channel by channel
(`origins.py`). That covers GELU and ReLU networks, gated ones (two layers, or one packed layer, compute a neuron),
convolutions between the layers, each expert of a mixture, experts that a router picks from one tensor, and the fused
and quantized forms of all of them. Experts in one operator are read from its layout (`neuron_site.py`).

Every connected pair of linear layers is accounted for: it is a block, or a near miss with the node that stops it, or
separated by an attention or a residual stream: the second layer does not read the neurons of the first, or they belong
to all layers of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxheadprune.attention.sites.grouping import Partition, branch_of, weight_name
from onnxheadprune.attention.sites.needed import needed_whole
from onnxheadprune.attention.sites.neuron_site import (
    CONVOLUTION,
    FEED_FORWARD,
    LOW_RANK,
    MLP,
    NeuronSite,
    mixture_site,
)
from onnxheadprune.attention.sites.origins import Cause, Origins, Stop, origins, weighs_stored_values
from onnxheadprune.attention.sites.products import (
    Summed,
    is_product,
    is_weight,
    summed,
    upstream,
    weight_contraction,
)
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Findings, NearMiss, Site, numbered, united
from onnxheadprune.attention.sites.stored_weights import once, units_together, weights_of, why_not_cut
from onnxheadprune.attention.sites.streams import Streams, below, is_grouped, is_layer
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.domain import Masks
from onnxheadprune.liveness.index_notation import contraction_of, kernel_of, operand_indices
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.operator import OBSERVES, WEIGHS, kind
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable, stored_behind
from onnxheadprune.settings.units import NEURON

TOKENS = kind("Gather", "GatherND")
"""Operators that pick some of all tokens."""


@dataclass(eq=False)
class _Block:
    """A candidate for a feed-forward block."""

    projections: list[Projection]  # the layers that sum over the neurons
    makers: dict[Node, int]  # the layers that compute them, each with one output channel per neuron
    made: Origins  # the connection of both, as traced from the first projection


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """All feed-forward blocks, in graph order of their second linear layers, and the near misses."""
    in_one_operator = [site for node in view.needed if (site := mixture_site(node)) is not None]
    every = [*_written_out(view), *in_one_operator]
    misses = (item for item in every if isinstance(item, NearMiss))
    return Findings(
        numbered(item for item in every if isinstance(item, NeuronSite)),
        [replace(item, units=NEURON.units) for item in misses],
    )


def _written_out(view: GraphView) -> Iterator[NeuronSite | NearMiss]:
    """Blocks whose layers are nodes of their own."""
    streams = Streams()
    blocks: dict[object, _Block] = {}
    hidden: list[tuple[str, NearMiss]] = []
    for node in view.needed:
        read = summed(node, is_weight)
        if read is None or weighs_stored_values(node):
            hidden += unread(node, streams)
            continue
        traced = origins(read.value, read.activation[1], read.sizes, streams)
        projection = Projection.of(read, _channels(traced))
        if len(projection.channels) < 2:
            hidden += hidden_by(node, traced, streams)
        else:
            _add(blocks, read, traced, projection)
    for block in blocks.values():
        yield from _site(block, streams)
    first: dict[str, NearMiss] = {}
    for key, miss in hidden:
        first.setdefault(key, miss)
    yield from first.values()


def _add(blocks: dict[object, _Block], read: Summed, traced: Origins, projection: Projection) -> None:
    """Add a projection; projections that read the same neurons are one block."""
    block = blocks.setdefault(_identity(read, traced, projection), _Block([], {}, traced))
    block.projections.append(projection)
    owner = _owners(projection)
    block.makers |= {
        maker: owner[min(row)] for maker, rows in traced.makers.items() for row in rows if row & owner.keys()
    }


def _channels(traced: Origins) -> tuple[tuple[int, ...], ...]:
    """The positions of each neuron: positions that share a channel of some layer are one neuron."""
    together: Partition[int] = Partition()
    own: set[int] = set()
    for rows in traced.makers.values():
        for row in rows:
            own |= row
            if len(row) > 1:
                together.join(row)
    for label in sorted(own):
        together.root(label)
    sets = [sorted(members) for members in together.sets()]
    whole = [members for members in sets if traced.foreign.isdisjoint(members)]
    return once(tuple(tuple(label - 1 for label in members) for members in sorted(whole)))


def _identity(read: Summed, traced: Origins, projection: Projection) -> object:
    """Return a key that is equal for projections which read the same neurons.

    They read the same channels of the same layers; or they are the same layer in both branches of an `If`; or each
    picks the matrices of an expert from the same tables, for some of the same tokens, as an unrolled loop over the
    experts that are chosen does.
    """
    branch = branch_of(read.node)
    if branch is not None:
        return branch[0], weight_name(projection), len(projection.channels)
    table = _table(projection)
    if table is not None:
        return table, len(projection.channels), frozenset(map(_all_tokens, _read(traced.makers)))
    owner = _owners(projection)
    rows_of = sorted(traced.makers.items(), key=lambda item: item[0].index)
    read_by = ((maker, [owner.get(min(row, default=0), -1) for row in rows]) for maker, rows in rows_of)
    # Bytes take little memory.
    return tuple((maker.index, np.array(numbers, np.int64).tobytes()) for maker, numbers in read_by)


def _table(projection: Projection) -> Value | None:
    """Return the stored tensor that a projection's matrix is picked from by computed numbers, None without."""
    weight = projection.operand
    table = None if weight is None or weight.is_constant else stored_behind(weight)
    return table if table is not None and table.is_constant else None


def _all_tokens(value: Value) -> Value:
    """Return the tokens that some are picked from."""
    while value.producer is not None and value.producer in TOKENS and value.producer.inputs[0] is not None:
        value = value.producer.inputs[0]
    return value


def _owners(projection: Projection) -> dict[int, int]:
    """The neuron of each labelled position."""
    return {position + 1: unit for unit, members in enumerate(projection.channels) for position in members}


def _site(block: _Block, streams: Streams) -> Iterator[NeuronSite | NearMiss]:
    """The site of a block, or why it is none; None where its neurons are channels of a residual stream."""
    count = len(block.projections[0].channels)
    ends = [item.node for item in block.projections]
    path = [value.producer for value, _ in block.made.path]
    between = [node for node in path if node is not None and node not in block.makers]
    site = NeuronSite(
        index=NEURON.first,
        name="",
        kind=_block_kind(tuple(block.makers), ends, between, block.made.bends, streams),
        num_units=count,
        groups=units_together((), count),
        projections=tuple(block.projections),
        cores=tuple(block.makers),
        units=units_together(block.projections, count),
        original_num_units=count,
    )
    # One neuron of every map: a layer that only makes others would not get narrower.
    removed = united(block.makers.values(), site.units)
    trial = _trial(site, removed)
    needed = needed_whole(block.makers, trial, site.KIND.units)
    whole = needed is None or needed_whole(block.makers, _trial(site, range(count)), site.KIND.units) is None
    if needed is not None and all(trial.kept.get(maker.out, FULL).is_full for maker in block.makers):
        if is_shared(block.made, trial, streams):
            return
        if not whole:
            yield NearMiss(ends[0].label, needed)
            return
    elements, size, flops = weights_of(trial)
    scale = count / len(removed)
    yield replace(
        site,
        reason=needed or why_not_cut(site),
        whole=whole,
        params=round(elements * scale),
        bytes=round(size * scale),
        flops_per_token=round(flops * scale),
    )


def _trial(site: Site, units: Iterable[int]) -> Sweep:
    return sweep(list(site.seeds(units)), domain=Masks(site.KIND.units))


def _block_kind(
    makers: Sequence[Node], ends: Sequence[Node], between: Iterable[Node], bends: bool, streams: Streams
) -> str:
    """The kind of a block."""
    layers = [*makers, *ends]
    convolves = any(kernel_of(node) is not None for node in layers)
    windows = convolves and any(_spans_positions(node) for node in (*layers, *between))
    if bends and not windows and streams.returning(ends, _read(makers)) is not None:
        return FEED_FORWARD
    if convolves:
        return CONVOLUTION
    return MLP if bends else LOW_RANK


def _spans_positions(node: Node) -> bool:
    """Return whether a node is a convolution with a window of more than one position."""
    kernel = kernel_of(node)
    shape = None if kernel is None else node.shape(kernel)
    return shape is not None and any(size != 1 for size in shape[2:])


def _read(makers: Iterable[Node]) -> list[Value]:
    """Return the inputs of some linear layers."""
    layers = [(node, weight_contraction(node, is_weight)) for node in makers]
    read = [node.inputs[weighed[1]] for node, weighed in layers if weighed is not None]
    return [value for value in read if value is not None]


MAX_BEHIND = 256
"""Values after the node that stops labels that are looked at in search of a linear layer."""


def hidden_by(node: Node, made: Origins, streams: Streams) -> Iterator[tuple[str, NearMiss]]:
    """Yield why a linear layer whose labels led to no neurons ends no block; empty if no layer is connected to it.

    Near misses have a key that equal ones share: queries, keys and values read the same.
    """
    if any(stop.cause in (Cause.ATTENTION, Cause.STREAM) for stop in made.stops):
        return
    if any(_is_in_stream(value, streams) for value, _ in made.path):
        return
    for stop in made.stops:
        blocks = stop.cause is Cause.OPERATOR and _layer_behind(stop.value, streams)
        if made.makers or blocks:
            refusal = _stopped(stop)
            yield refusal.node, NearMiss(node.label, refusal)
            return


def unread(node: Node, streams: Streams) -> Iterator[tuple[str, NearMiss]]:
    """A layer with unknown summed axes, if another layer is connected to it."""
    indices = operand_indices(node)
    operands = [value for index in indices if (value := node.input(index)) is not None]
    read = [value for value in operands if not is_weight(value)]
    if len(read) != 1 or len(operands) != 2 or _is_known(node):
        return
    if _layer_behind(read[0], streams):
        reason, why = Reason.UNKNOWN_SHAPE, "the shapes around it are not known"
        if is_grouped(node):
            reason, why = Reason.INEXPRESSIBLE, "it sums up the channels of each group apart"
        sentence = f"neurons cannot be followed into {node.label}: {why}"
        yield node.ref, NearMiss(node.label, Refusal(reason, node.label, read[0].name, sentence))


def is_shared(made: Origins, trial: Sweep, streams: Streams) -> bool:
    """Return whether neurons do not belong to one block: channels of a residual stream, or of a head."""
    values = [value for value, _ in made.path]
    others = [use for value in values for use in _whole(value, trial)]
    return any(streams.leads_on(use.node) or feeds_attention(use.node) for use in others)


def _stopped(stop: Stop) -> Refusal:
    """Return why labels stopped at some value."""
    node = stop.value.producer
    label = stop.value.name if node is None else node.label
    if stop.cause is Cause.SOURCE:
        sentence = f"{stop.value.name}, which no linear layer makes, has a part in each of its neurons"
        return Refusal(Reason.NO_PROJECTION, label, stop.value.name, sentence)
    why = "" if stop.refusal is None else f": {stop.refusal.sentence}"
    sentence = f"its neurons cannot be followed through {label}{why}"
    reason = Reason.INEXPRESSIBLE if stop.refusal is None else stop.refusal.reason
    return Refusal(reason, label, stop.value.name, sentence)


def _is_known(node: Node) -> bool:
    """Return whether the number of positions that a contraction sums over is known."""
    found = weight_contraction(node, is_weight)
    if found is None:
        return contraction_of(node) is not None or not (node.out.shape is None or is_grouped(node))
    contraction, activation, _ = found
    shape, letters = node.shape(activation), contraction.axes_of(activation)
    return shape is not None and all(
        isinstance(dim, int)
        for dim, letter in zip(shape, letters, strict=True)
        if letter in contraction.contracted
    )


def _whole(value: Value, trial: Sweep) -> Iterator[Use]:
    """Readers of a value that still need all of it."""
    for use in value.consumers:
        if trial.edge(use).is_full and not looks_only(use):
            yield use


def _is_in_stream(value: Value, streams: Streams) -> bool:
    return any(streams.leads_on(use.node) for use in value.consumers if not is_layer(use.node))


def feeds_attention(node: Node) -> bool:
    """Return whether the next contraction is a product of activations."""
    if is_layer(node):
        return is_product(node) is not None
    return any(
        is_layer(use.node) and is_product(use.node) is not None
        for other in (node, *below([node]))
        for use in other.out.consumers
    )


def _layer_behind(value: Value, streams: Streams) -> bool:
    """Return whether a linear layer computes a value, with neither an attention nor a residual stream in between."""

    def above(current: Value) -> list[Value]:
        node = current.producer
        if node is None or node in OBSERVES or is_fused(node) or is_layer(node):
            return []
        if node in WEIGHS and any(
            is_product(other) is not None for other in upstream(current, MAX_BEHIND, is_layer)
        ):
            # Scores may have terms that linear layers compute alone: queries times stored keys of relative positions.
            return []
        return [] if streams.joins(node) or _is_in_stream(current, streams) else node.computed

    makers = (item.producer for item in reachable([value], above, MAX_BEHIND))
    layers = (node for node in makers if node is not None and not is_fused(node) and is_layer(node))
    return any(weight_contraction(node, is_weight) is not None or is_grouped(node) for node in layers)
