"""Attention that is no site: near misses with their reasons, and products without heads.

Heads are found by structure alone. So that no attention is overlooked silently, all nodes that
multiply attention weights with values are listed here; some are not attention (a router, a soft argmax).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxheadprune.attention.sites.products import is_product, is_weight
from onnxheadprune.attention.sites.site import NearMiss
from onnxheadprune.liveness.consumers import content_uses
from onnxheadprune.liveness.index_notation import Notation, contraction_of, operand_indices
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import has_rule
from onnxheadprune.model.graph.dims import divisor, is_unnamed
from onnxheadprune.model.graph.operator import ACTIVATES, SUMS_VALUES, WEIGHS, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable

MAPS_SCORES = ACTIVATES | kind("Pow", "LpNormalization")
"""Operators that make weights of scores if these are products of queries and keys."""
SUMS_WEIGHTS = kind("ReduceSum", "ReduceL1")
MAX_HOPS = 24
"""Nodes between a map, or scores, and what reads them; after more of them lies something else."""


def attention_products(view: GraphView) -> list[Node]:
    """The products of attention weights and values in all scopes, in graph order, including fused operators.

    One pass over the nodes in topological order computes the distance to the nearest attention weights, with no
    contraction in between.
    """
    products = []
    scored: dict[Node, int] = {}
    mapped: dict[Node, int] = {}
    for node in view.needed:
        indices = operand_indices(node)
        product = is_product(node) if indices or is_a(node, "Mul") else None
        fused = _is_attention_operator(node)
        if fused or _weighs_values(node, indices, product, mapped):
            products.append(node)
        if product is not None:
            scored[node] = 0
        elif not indices and not fused and scored:
            _carry(node, scored)
        maps_scores = node in MAPS_SCORES
        if _distance(node.input(0), scored) < MAX_HOPS if maps_scores else sums_to_one(node):
            mapped[node] = 0
        elif not indices and not fused and mapped:
            _carry(node, mapped)
    return products


def _carry(node: Node, distances: dict[Node, int]) -> None:
    """Store a node's distance from the nearest node with distance 0, unless it is too far."""
    nearest = min((_distance(value, distances) for value in node.inputs), default=MAX_HOPS)
    if nearest + 1 < MAX_HOPS:
        distances[node] = nearest + 1


def _distance(value: Value | None, distances: dict[Node, int]) -> int:
    """Return the distance of the nearest node of a kind, `MAX_HOPS` where there is none."""
    producer = None if value is None or value.is_constant else value.producer
    return MAX_HOPS if producer is None else distances.get(producer, MAX_HOPS)


def _weighs_values(
    node: Node, indices: tuple[int, ...], product: Notation | None, mapped: dict[Node, int]
) -> bool:
    if not indices:
        # Weights and values may also be multiplied one by one, and summed up by the next node.
        return product is not None
    sources = [
        value for index in indices if (value := node.input(index)) is not None and not is_weight(value)
    ]
    return len(sources) > 1 and any(_distance(value, mapped) < MAX_HOPS for value in sources)


def sums_to_one(node: Node) -> bool:
    """Return whether a node normalizes weights: a softmax, in one or several operators, or a division by the sum."""
    return node in WEIGHS or (is_a(node, "Div") and _is_sum_of(node.input(1), node.input(0)))


def _is_sum_of(value: Value | None, of: Value | None, hops: int = 6) -> bool:
    """Return whether a value is the sum over another one, perhaps bounded from zero or expanded again."""
    producer = None if value is None else value.producer
    if producer is None or not hops:
        return False
    if producer in SUMS_WEIGHTS:
        return producer.input(0) is of
    computed = producer.computed
    return bool(computed) and _is_sum_of(computed[0], of, hops - 1)


MAX_BELOW = 64
"""Nodes between a context and what its heads cannot be followed through."""
MAX_PARTS = 128
"""Values between a product and the core that reads it; an inverse of a matrix is computed by a hundred nodes."""


@dataclass(frozen=True)
class Stop:
    """A node behind which the heads of a product are not known."""

    node: Node
    reason: Reason
    why: Refusal | None = None  # what its rule says, None if that is not the reason


@dataclass(frozen=True)
class LeftOut:
    """Attention products that belong to no site, in two lists."""

    near_misses: tuple[NearMiss, ...] = ()
    no_heads: tuple[NearMiss, ...] = ()


def left_out(view: GraphView, claimed: set[Node], stopped: Mapping[Node, Stop]) -> LeftOut:
    """Every product of attention weights and values that is no core of a site.

    Args:
        stopped: the node that stops the heads of a product on the way to linear layers, where known.
    """
    missed: list[NearMiss] = []
    without: list[NearMiss] = []
    for node in attention_products(view):
        if node in claimed or _is_part(node, claimed):
            continue
        stop = stopped.get(node) or _end_of(node) if _has_heads_to_tell(node) else _repeated_by(node)
        if stop is None:
            sentence = "no axis of its output can enumerate heads: it has one map for all channels"
            refusal = Refusal(Reason.NO_PROJECTION, node.label, node.out.name, sentence)
            without.append(NearMiss(node.label, refusal))
        else:
            why = "" if stop.why is None else f": {stop.why.sentence}"
            sentence = (
                "its heads cannot be followed to a linear layer with weights of each of them: they end at"
                f" {stop.node.label}{why}"
            )
            refusal = Refusal(stop.reason, stop.node.label, node.out.name, sentence)
            missed.append(NearMiss(node.label, refusal))
    return LeftOut(tuple(missed), tuple(without))


def _has_heads_to_tell(node: Node) -> bool:
    """Return whether an axis of a product's output may enumerate heads; fused operators have attributes for them."""
    product, shape = contraction_of(node) or is_product(node), node.out.shape
    if product is None or shape is None:
        return True
    own = [shape[axis] for axis, letter in enumerate(product.out_axes) if letter in product.batch]
    return any(is_unnamed(dim) or divisor(dim) > 1 for dim in own)


def _repeated_by(node: Node) -> Stop | None:
    """The operator around a node whose iterations may be heads; None outside of such bodies."""
    owner = next((owner for owner, _ in node.scope.owners if not is_a(owner, "If")), None)
    return None if owner is None else Stop(owner, Reason.INEXPRESSIBLE)


def _end_of(product: Node) -> Stop:
    """The nearest node below a product that hides its heads; the product itself, where nothing sums them up."""
    if _is_attention_operator(product):
        if not is_fused(product) or layout_of(product) is None:
            return Stop(product, Reason.UNKNOWN_SHAPE if is_fused(product) else Reason.NO_RULE)
    elif is_product(product) is None:
        return Stop(product, Reason.UNKNOWN_SHAPE)

    def below(node: Node) -> list[Node]:
        ends = node is not product and end(node) is not None
        return [] if ends else [use.node for value in node.results for use in content_uses(value)]

    def end(node: Node) -> Reason | None:
        if operand_indices(node):
            return Reason.UNKNOWN_SHAPE if node.out.shape is None else Reason.INEXPRESSIBLE
        if node in SUMS_VALUES and len(node.computed) > 1:
            return Reason.NO_PROJECTION
        return None if has_rule(node) else Reason.NO_RULE

    nodes = (node for node in reachable([product], below, MAX_BELOW) if node is not product)
    ends = (Stop(node, reason) for node in nodes if (reason := end(node)) is not None)
    return next(ends, Stop(product, Reason.NO_PROJECTION))


def _is_part(node: Node, claimed: set[Node]) -> bool:
    """Return whether a product is only an operand of cores, like linear attention's summary of keys."""

    def below(value: Value) -> list[Node]:
        return [use.node for use in content_uses(value)]

    def ahead(value: Value) -> list[Value]:
        return [output for other in below(value) if other not in claimed for output in other.results]

    readers: set[Node] = set()
    for number, value in enumerate(reachable([node.out], ahead)):
        reached = set(below(value))
        if number > MAX_PARTS or value.is_graph_output or not reached:
            return False
        if any(operand_indices(other) and is_product(other) is None for other in reached - claimed):
            return False
        readers |= reached
    return not readers.isdisjoint(claimed)


def _is_attention_operator(node: Node) -> bool:
    """Return whether the operator's name is that of a fused attention, supported or not."""
    return is_fused(node) or node.op_type.endswith("Attention")
