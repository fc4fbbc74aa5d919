"""The nodes that multiply attention weights with values, whether or not a site is found around them.

Heads are found by structure alone; this list is there so that nothing that looks like attention is left out in
silence. It may hold more than attention (a router, a soft argmax): what is no site is then explained.
"""

from __future__ import annotations

from onnxheadprune.attention.sites.fused import is_attention_operator
from onnxheadprune.attention.sites.products import is_product, is_weight
from onnxheadprune.liveness.contraction import Contraction, operand_indices
from onnxheadprune.model.graph.dims import Dim, divisor
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    DIVIDES,
    DIVIDES_BY_NORM,
    MULTIPLIES,
    RAISES,
    SUMS,
    SUMS_MAGNITUDES,
    WEIGHS,
)
from onnxheadprune.model.graph.view import GraphView, Node, Value

MAPS_SCORES = ACTIVATES | RAISES | DIVIDES_BY_NORM
"""Operators that make weights of scores if these are products of queries and keys."""
SUMS_WEIGHTS = SUMS | SUMS_MAGNITUDES
MAX_HOPS = 24
"""Nodes between a map, or scores, and what reads them; behind more of them lies something else."""


def attention_products(view: GraphView) -> list[Node]:
    """The products of attention weights and values in all scopes, in graph order; fused operators are some.

    One pass over the nodes, which come in topological order: how far away is the nearest map, with no contraction
    in between?
    """
    found = []
    scored: dict[Node, int] = {}
    mapped: dict[Node, int] = {}
    for node in view.needed:
        indices = operand_indices(node)
        product = is_product(node) if indices or node in MULTIPLIES else None
        fused = is_attention_operator(node)
        if fused or _weighs_values(node, indices, product, mapped):
            found.append(node)
        if product is not None:
            scored[node] = 0
        elif not indices and not fused and scored:
            _carry(node, scored)
        if _is_map(node, scored):
            mapped[node] = 0
        elif not indices and not fused and mapped:
            _carry(node, mapped)
    return found


def _carry(node: Node, distances: dict[Node, int]) -> None:
    """Notes how far a node is from the nearest of those that are noted with 0, unless that is too far."""
    nearest = min((_distance(value, distances) for value in node.inputs), default=MAX_HOPS)
    if nearest + 1 < MAX_HOPS:
        distances[node] = nearest + 1


def _distance(value: Value | None, distances: dict[Node, int]) -> int:
    """Return how far away the nearest node of a kind is, `MAX_HOPS` where there is none."""
    producer = None if value is None or value.is_constant else value.producer
    return MAX_HOPS if producer is None else distances.get(producer, MAX_HOPS)


def _weighs_values(
    node: Node, indices: tuple[int, ...], product: Contraction | None, mapped: dict[Node, int]
) -> bool:
    if not indices:
        # Weights and values may also be multiplied one by one, and summed up by the next node.
        return product is not None
    sources = [
        value for index in indices if (value := node.input(index)) is not None and not is_weight(value)
    ]
    return len(sources) > 1 and any(_distance(value, mapped) < MAX_HOPS for value in sources)


def _is_map(node: Node, scored: dict[Node, int]) -> bool:
    """Return whether a node turns scores into weights."""
    if node in MAPS_SCORES:
        return _distance(node.input(0), scored) < MAX_HOPS
    return sums_to_one(node)


def sums_to_one(node: Node) -> bool:
    """Return whether a node makes weights: a softmax, one that is spelled out, or any other division by the sum."""
    return node in WEIGHS or (node in DIVIDES and _is_sum_of(node.input(1), node.input(0)))


def _is_sum_of(value: Value | None, of: Value | None, hops: int = 6) -> bool:
    """Return whether a value is the sum over another one, perhaps kept away from zero or spread again."""
    producer = None if value is None else value.producer
    if producer is None or not hops:
        return False
    if producer in SUMS_WEIGHTS:
        return producer.input(0) is of
    computed = producer.computed
    return bool(computed) and _is_sum_of(computed[0], of, hops - 1)


def has_heads_to_tell(node: Node, found: Contraction | None) -> bool:
    """Return whether an axis of a product's output may enumerate heads.

    Args:
        node: the product.
        found: it as a contraction, None for fused operators and unknown shapes: heads are in their attributes,
            or not known.
    """
    if found is None or node.out.shape is None:
        return True
    return any(
        _may_enumerate(node.out.shape[axis])
        for axis, letter in enumerate(found.out_axes)
        if letter in found.batch
    )


def _may_enumerate(dim: Dim) -> bool:
    return divisor(dim) > 1
