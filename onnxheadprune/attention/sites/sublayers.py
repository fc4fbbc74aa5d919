"""Sublayers without units: a recurrence, a mixer, an attention whose heads cannot be distinguished.

Such a residual branch ends with a linear layer that sums over all of it. So the branch as a
whole can be removed exactly, like all units of any other site, independent of its operators. A branch that
ends otherwise, or whose stream reaches its sum beside its last layer, is removed as a term of the sum.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from onnxheadprune.attention.sites.feed_forward_near_misses import feeds_attention
from onnxheadprune.attention.sites.origins import BENDS
from onnxheadprune.attention.sites.products import Summed, is_weight, summed
from onnxheadprune.attention.sites.projection import Projection, emptied, named_apart
from onnxheadprune.attention.sites.residual import Join, Residuals, State, Term, is_given, silenced
from onnxheadprune.attention.sites.site import Findings, Site
from onnxheadprune.attention.sites.stored_weights import weights_of
from onnxheadprune.attention.sites.streams import CHOICES, MAX_BEHIND, Streams, addends, near
from onnxheadprune.attention.sites.sublayer_site import SublayerSite, TermSite
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.model.graph.facts import (
    ADDS_QUANTIZED,
    CASTS,
    CASTS_LIKE,
    COMPARES,
    DEQUANTIZES,
    DIVIDES,
    DIVIDES_BY_NORM,
    DROPOUTS,
    ELEMENTWISE,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    GATHERS_ROWS,
    JOINS,
    MULTIPLIES,
    NORMALIZES,
    PADS,
    QUANTIZERS,
    SIGMOIDS,
    SLICES,
    SPLITS,
    SUMS,
    SUMS_VALUES,
    VIEWS,
    WRITES_INTO,
)
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import in_graph_order, reachable

GATES = BENDS | SIGMOIDS | COMPARES
"""Operators after which a layer is no term of a sum, but a gate or a router of others."""
CARRIES = (
    ELEMENTWISE | VIEWS | FLATTENS | CASTS | CASTS_LIKE | QUANTIZERS | DEQUANTIZES | DROPOUTS | PADS | JOINS
)
CARRIES |= NORMALIZES | DIVIDES_BY_NORM | SUMS_VALUES | SLICES | SPLITS | SUMS
CARRIES |= GATHERS | GATHERS_ROWS | GATHERS_ELEMENTS | WRITES_INTO
"""Operators through which what a layer computes remains what it adds."""
PRODUCTS = MULTIPLIES | DIVIDES


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """Return the residual branches that no site ends alone, in graph order."""
    owned = {projection.node for site in known for projection in site.projections}
    cored = [site for site in known if site.unit_cores]
    owned |= sweep([seed for site in cored for seed in site.seeds(site.groups[0])]).answers.keys()
    others = {item.node for site in known if site.is_branch for item in site.projections}
    streams = Streams()
    ends = [item for node in view.needed if node not in owned and (item := _end(node, streams, others))]
    ending = [*(item for site in known if site.removable_whole for item in site.projections), *ends]
    linear = {item.node for item in ends}
    added = [(_whole_term(term), _inner(join, term)) for join, term in _terms_left(view, known, ending)]
    every = [(item, ()) for item in ends] + [(item, inner) for item, inner in added if item is not None]
    every.sort(key=lambda item: item[0].node.index)
    names = named_apart(
        (((), inner) if inner else ((item,), ()) for item, inner in every), SublayerSite.UNNAMED
    )
    return Findings(
        [
            _site(number, name, end, SublayerSite if end.node in linear else TermSite)
            for number, (name, (end, _)) in enumerate(zip(names, every, strict=True))
        ]
    )


def _terms_left(
    view: GraphView, known: Sequence[Site], ending: Sequence[Projection]
) -> Iterator[tuple[Join, Term]]:
    """Yield the terms of residual sums that some layers do not silence, in the streams of known branches."""
    residuals = Residuals()
    every = (residuals.join(node) for node in view.needed if node in SUMS_VALUES)
    joins = dict.fromkeys(item for join in every if join is not None for item in residuals.chain(join))
    branches = [item for site in known if site.is_branch for item in site.projections]
    nodes = dict.fromkeys(item.node for item in (*branches, *ending))
    met = [place for node in nodes if (place := residuals.added(node)) is not None]
    streams = {residuals.chain(join)[0] for join, _ in met}
    ends = emptied(ending)
    for join in joins:
        if residuals.chain(join)[0] in streams:
            for term in join.terms:
                if silenced(join, term, ends) not in (State.ZERO, State.BIAS) and not is_given(join, term):
                    yield join, term


def _whole_term(term: Term) -> Projection | None:
    """A term with its channels as one unit; None where no axis has a known size, or where it is quantized."""
    shape = () if term.use.node in ADDS_QUANTIZED else term.value.shape or ()
    axis = next(
        (axis for axis in reversed(range(len(shape))) if isinstance(size := shape[axis], int) and size), None
    )
    if axis is None:
        return None
    size = shape[axis]
    assert isinstance(size, int)
    return Projection(term.use.node, (term.use.input_index, (axis,)), None, (size,), (tuple(range(size)),))


def _inner(join: Join, term: Term) -> tuple[Node, ...]:
    """The nodes that compute a term and nothing else, from its stream if they do; without any, all that compute it."""
    own: dict[Node, None] = {}
    inside = sorted(_inside(term.value, join.around), key=lambda node: -node.index)
    for node in inside:
        if all(use == term.use or use.node in own for value in node.results for use in value.consumers):
            own[node] = None
    derived = {*join.around}
    for node in reversed(inside):
        if not derived.isdisjoint(node.computed):
            derived.update(node.results)
    # What other inputs give may be computed in another module than the term's.
    return tuple([node for node in own if not derived.isdisjoint(node.results)] or own or inside)


def _end(node: Node, streams: Streams, others: Collection[Node]) -> Projection | None:
    """Return the last layer of a residual branch, with its whole input as one unit; None for other nodes."""
    read = summed(node, is_weight)
    total = None if read is None else streams.returning([node], [read.value])
    if read is None or total is None or not _is_term(node, total) or feeds_attention(total):
        return None
    stream = {item for value in addends(total) for item in near(value)} - set(node.outputs)
    return None if any(inner in others for inner in _inside(read.value, stream)) else _whole(read)


def _is_term(node: Node, total: Node) -> bool:
    """Return whether a sum is linear in a layer's output: no activation, gate or choice in between."""
    reached = set(node.outputs)
    readers = (use.node for use in node.out.consumers)
    # In the order of the graph, so that all that leads to a node is known when it is looked at.
    for first in in_graph_order(readers, lambda item: item.readers if item.out in reached else ()):
        if first is total:
            return True
        factors = sum(value in reached for value in first.inputs) if first in PRODUCTS else 1
        if first in GATES or first not in CARRIES or factors > 1 or first.out.elem_type in CHOICES:
            continue
        if len(reached) > MAX_BEHIND:
            return False
        reached.update(first.outputs)
    return False


def _inside(value: Value, stream: Collection[Value]) -> Iterator[Node]:
    """Yield the nodes between a residual stream and a value that is computed from it, nearest to the value first."""

    def makers(values: Iterable[Value]) -> list[Node]:
        found = [item.producer for item in values if item.producer is not None and item not in stream]
        return [node for node in found if not _is_stream(node, stream)]

    return reachable(makers([value]), lambda node: makers(node.computed), MAX_BEHIND)


def _is_stream(node: Node, stream: Collection[Value]) -> bool:
    """Return whether a node adds to the stream."""
    return any(item in stream for value in addends(node) for item in near(value))


def _whole(read: Summed) -> Projection:
    every = tuple(range(math.prod(read.sizes)))
    return Projection(read.node, read.activation, read.weight, read.sizes, (every,))


def _site(number: int, name: str, end: Projection, kind: type[SublayerSite]) -> SublayerSite:
    site = kind(
        index=SublayerSite.FROM + number,
        name=name,
        num_units=1,
        groups=((0,),),
        projections=(end,),
        cores=(),
        units=((0,),),
        original_num_units=1,
    )
    elements, size, flops = weights_of(sweep(list(site.seeds((0,)))))
    return replace(site, params=elements, bytes=size, flops_per_token=flops)
