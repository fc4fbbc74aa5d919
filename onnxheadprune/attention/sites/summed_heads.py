"""Heads whose contexts or attention maps are summed before the output projection.

Contexts of single heads may be added up one by one before the projection, and attention maps may be averaged over
heads before they weigh the values, so that there is only one context. Then no axis enumerates heads: their number is
known, and they can only be removed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from onnxheadprune.attention.sites.attention_near_misses import sums_to_one
from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.products import MAX_UPSTREAM, is_contraction, is_product, upstream
from onnxheadprune.attention.sites.score_products import score_products
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph.facts import ADDS, ADDS_ALL, REDUCES
from onnxheadprune.model.graph.reductions import reduced_axes
from onnxheadprune.model.graph.view import Node, Value

SUMS_UP = ADDS | ADDS_ALL


class Blended(NamedTuple):
    """A block with its heads, and why no single one can be removed."""

    block: Block
    reason: Refusal


def blended(block: Block) -> Blended | None:
    """Return the heads that a block of one context has, None if it has one head."""
    cores = [core.node for core in block.cores]
    if any(is_fused(core) or is_product(core) is None for core in cores):
        return None
    if len(cores) > 1:
        added = _added_one_by_one(block, cores)
        return None if added is None else Blended(_of(block, [(core.index, 0) for core in cores]), added)
    reduced = _reduced_maps(block.cores[0])
    if reduced is None:
        return None
    count, node = reduced
    sentence = (
        f"{node.label} makes one attention map of those of {count} heads before it weighs the values, so that no single"
        " head has a context"
    )
    reason = Refusal(Reason.COUPLED, node.label, node.out.name, sentence)
    return Blended(_of(block, [(cores[0].index, 0)] * count), reason)


def _of(block: Block, places: Sequence[tuple[int, int]]) -> Block:
    """The block with a head at each of these positions of its cores; all fill the same channels."""
    projections = tuple(replace(item, channels=item.channels * len(places)) for item in block.projections)
    return Block(projections, block.cores, tuple(frozenset({place}) for place in places))


def _added_one_by_one(block: Block, cores: list[Node]) -> Refusal | None:
    """Return the reason if contexts of heads with separate queries are added up before the projection."""
    queries = {_query(core) for core in block.cores}
    if None in queries or len(queries) < len(cores):
        return None
    for projection in block.projections:
        joins = list(_joins(projection.node.inputs[projection.activation[0]], set(cores)))
        if not joins or any(node not in SUMS_UP for node in joins):
            return None
        sentence = (
            f"its heads are added up one by one before {projection.node.label}, which reads only their sum"
        )
        return Refusal(Reason.COUPLED, joins[0].label, joins[0].out.name, sentence)
    return None


def _query(core: Core) -> Value | None:
    """The queries of a core."""
    scores = score_products(core)
    return scores[0].inputs[0] if scores else None


def _joins(value: Value | None, cores: set[Node]) -> Iterator[Node]:
    """Yield the nodes between some cores and their reader that depend on several cores, nearest to the reader first."""
    above = list(upstream(value, MAX_UPSTREAM, lambda node: node in cores))
    leads = {node for node in above if node in cores}
    for node in sorted(above, key=lambda node: node.index):
        makers = leads.intersection(node.producers)
        if node not in cores and makers:
            leads.add(node)
            if len(makers) > 1:
                yield node


def _reduced_maps(core: Core) -> tuple[int, Node] | None:
    """The reduction that merges the attention maps of heads before they weigh the values, with their number."""
    product = is_product(core.node)
    assert product is not None
    values = product.owners(product.out_axes[core.feature_axes[0]])
    for index in product.indices:
        for node in (
            upstream(core.node.inputs[index], MAX_UPSTREAM, is_contraction) if index not in values else ()
        ):
            count = _heads_of(node) if node in REDUCES else None
            if count is not None:
                return count, node
    return None


def _heads_of(node: Node) -> int | None:
    """The number of heads that a reduction of attention weights runs over, None if it reduces something else."""
    source, shape = node.inputs[0], node.shape(0)
    if source is None or not any(map(sums_to_one, upstream(source, MAX_UPSTREAM, is_contraction))):
        return None
    for axis in reduced_axes(node) or ():
        size = (shape or ())[axis]
        if not isinstance(size, int) or size < 2:
            continue
        if Tracer().trace(source, (axis,), (size,)).mixes_heads:
            return size
    return None
