"""Attention that is no site: near misses with their reasons, and products without heads.

Heads are found by structure alone. So that no attention is overlooked silently, all nodes that
multiply attention weights with values are listed here; some are not attention (a router, a soft argmax).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.near_miss import NearMiss
from onnxheadprune.attention.sites.products import (
    is_contraction,
    is_product,
    is_weight,
    summed,
    upstream,
    weight_contraction,
)
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.consumers import content_uses
from onnxheadprune.liveness.contraction import Contraction, contraction_of, operand_indices
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import has_rule
from onnxheadprune.model.graph.dims import divisor, is_unnamed
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS,
    CHOOSES,
    DIVIDES,
    DIVIDES_BY_NORM,
    GENERATES,
    MULTIPLIES,
    RAISES,
    SUMS,
    SUMS_MAGNITUDES,
    WEIGHS,
)
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable

MAPS_SCORES = ACTIVATES | RAISES | DIVIDES_BY_NORM
"""Operators that make weights of scores if these are products of queries and keys."""
SUMS_WEIGHTS = SUMS | SUMS_MAGNITUDES
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
        product = is_product(node) if indices or node in MULTIPLIES else None
        fused = _is_attention_operator(node)
        if fused or _weighs_values(node, indices, product, mapped):
            products.append(node)
        if product is not None:
            scored[node] = 0
        elif not indices and not fused and scored:
            _carry(node, scored)
        if _is_map(node, scored):
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
    """Return whether a node turns scores into attention weights."""
    if node in MAPS_SCORES:
        return _distance(node.input(0), scored) < MAX_HOPS
    return sums_to_one(node)


def sums_to_one(node: Node) -> bool:
    """Return whether a node normalizes weights: a softmax, in one or several operators, or a division by the sum."""
    return node in WEIGHS or (node in DIVIDES and _is_sum_of(node.input(1), node.input(0)))


def _is_sum_of(value: Value | None, of: Value | None, hops: int = 6) -> bool:
    """Return whether a value is the sum over another one, perhaps bounded from zero or expanded again."""
    producer = None if value is None else value.producer
    if producer is None or not hops:
        return False
    if producer in SUMS_WEIGHTS:
        return producer.input(0) is of
    computed = producer.computed
    return bool(computed) and _is_sum_of(computed[0], of, hops - 1)


def _has_heads_to_tell(node: Node, product: Contraction | None) -> bool:
    """Return whether an axis of a product's output may enumerate heads.

    Args:
        found: it as a contraction, None for fused operators and unknown shapes: heads are in their attributes,
            or not known.
    """
    if product is None or node.out.shape is None:
        return True
    own = _own_axes(node, product)
    return any(divisor(node.out.shape[axis]) > 1 for axis in own) or _unknown_axis(node, product) is not None


def _own_axes(node: Node, product: Contraction) -> list[int]:
    """The axes along which each position has a product of its own."""
    return [axis for axis, letter in enumerate(product.out_axes) if letter in product.batch]


def _unknown_axis(node: Node, product: Contraction) -> int | None:
    """An axis of that kind of which neither the length is known nor what it counts."""
    shape = node.out.shape or ()
    return next((axis for axis in _own_axes(node, product) if is_unnamed(shape[axis])), None)


MAX_BELOW = 12
MAX_PARTS = 128
"""Values between a product and the core that reads it; an inverse of a matrix is computed by a hundred nodes."""
UNPROJECTED = "a context whose heads no output projection sums up: there are no weights to cut"


@dataclass(frozen=True)
class Refused:
    """A contraction whose heads could not be traced."""

    node: Node  # the contraction
    product: Node  # the attention beyond the node that stopped the trace
    refusal: Refusal  # why it stopped


@dataclass(frozen=True)
class LeftOut:
    """Attention products that belong to no site, in two lists."""

    near_misses: tuple[NearMiss, ...] = ()
    no_heads: tuple[NearMiss, ...] = ()


def left_out(
    view: GraphView,
    claimed: set[Node],
    refused: Sequence[Refused],
    folded: Sequence[Block],
    pools: Sequence[Block],
    fixed: Callable[[Node], bool] | None,
) -> LeftOut:
    """Every product of attention weights and values that is no core of a site.

    Args:
        fixed: tries whether the heads of a product are found once the inputs have fixed sizes; None where they have.
    """
    misses: dict[Node, NearMiss] = {}
    stopped: dict[Node, Refusal] = {}
    for item in refused:
        if item.product not in claimed and item.refusal.reason.couples_heads:
            # What mixes heads has some, whether or not a softmax made the weights.
            misses.setdefault(item.product, NearMiss(item.node.label, item.refusal))
        stopped.setdefault(item.product, item.refusal)
    for block in folded:
        misses |= dict.fromkeys((core.node for core in block.cores), _folded_miss(block))
    one_head = {core.node: block for block in pools for core in block.cores}
    without: list[NearMiss] = []
    products = list(attention_products(view))
    contexts = _contexts(view, products)
    for node in products:
        if node in claimed or node in misses or _is_part(node, claimed):
            continue
        shown = _has_heads_to_tell(node, contraction_of(node) or is_product(node))
        repeated = None if shown else _repeated_by(node)
        if repeated is not None:
            misses[node] = NearMiss(node.label, repeated)
        elif not shown:
            pools_all = "it pools with one map for all channels, so there are no heads to tell apart"
            no_axis = "no axis of its output can enumerate heads: it has one map for all channels"
            without.append(_miss(node, pools_all if node in one_head else no_axis))
        elif node in one_head:
            misses[node] = NearMiss(node.label, shared_by_heads(one_head[node].projections[0].node, node))
        else:
            misses[node] = NearMiss(node.label, _why_no_site(node, stopped.get(node), contexts))
    if fixed is not None:
        misses = {node: replace(miss, fixed=partial(fixed, node)) for node, miss in misses.items()}
    return LeftOut(tuple(misses.values()), tuple(without))


def _repeated_by(node: Node) -> Refusal | None:
    """Return why heads cannot be told apart that iterations of a Loop or a Scan may be; None outside of such bodies."""
    owner = next((owner for owner, _ in node.scope.owners if owner not in CHOOSES | GENERATES), None)
    if owner is None:
        return None
    sentence = (
        f"{owner.label} computes it once per iteration: if iterations are heads, they cannot be told apart"
    )
    return Refusal(Reason.INEXPRESSIBLE, owner.label, node.out.name, sentence)


def _contexts(view: GraphView, products: Iterable[Node]) -> set[Value]:
    """Values computed from the output of attention up to the next contraction, sums of it with itself included."""
    values = {node.out for node in products}
    for node in view.nodes:
        if not operand_indices(node) and node.inputs:
            parts = node.inputs if node in ADDS else node.inputs[:1]
            values.update(node.results if values.issuperset(parts) else ())
    return values


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


def shared_by_heads(layer: Node, core: Node) -> Refusal:
    """The reason that heads cannot be removed where all share the linear layer after the product."""
    sentence = (
        f"it has a map per head, and {layer.label} has no weights of single heads: it treats all heads alike"
    )
    product = contraction_of(layer)
    if product is not None and product.batch and any(_is_stack(value) for value in layer.inputs[1:]):
        sentence = (
            f"{layer.label} has a matrix for each of its positions, which nothing sums up before the next layer: these"
            " are networks of their own, not heads of one projection"
        )
    return Refusal(Reason.NO_PROJECTION, core.label, core.out.name, sentence)


def _is_stack(value: Value | None) -> bool:
    """Return whether a value is several stored matrices."""
    return value is not None and value.is_constant and any(dim != 1 for dim in (value.shape or ())[:-2])


def _miss(node: Node, sentence: str) -> NearMiss:
    return NearMiss(node.label, Refusal(Reason.NO_PROJECTION, node.label, node.out.name, sentence))


def _folded_miss(block: Block) -> NearMiss:
    core = block.cores[0].node
    sentence = (
        "the context's axes are folded so that every head fills the channels of the others, at other positions:"
        " its heads cannot be told apart"
    )
    if any(not isinstance(dim, int) for dim in core.out.shape or ()):
        sentence = (
            "several pieces of one context, cut along an axis of unknown length, are joined before the projection:"
            " if heads lie along that axis, they cannot be told apart"
        )
    return NearMiss(core.label, Refusal(Reason.INEXPRESSIBLE, core.label, core.out.name, sentence))


def _why_no_site(node: Node, stopped: Refusal | None, contexts: Set[Value]) -> Refusal:
    """The first node that hides the heads of a product, from its inputs down to the next contraction."""
    if _is_attention_operator(node):
        unknown = _why_unknown(node)
        if unknown is not None:
            return unknown
    elif is_product(node) is None:
        return Refusal(
            Reason.UNKNOWN_SHAPE,
            node.label,
            node.out.name,
            f"the shapes that {node.op_type} multiplies are not known",
        )
    hidden = _hidden_below(node, contexts)
    if stopped is not None and (hidden is None or hidden.node != stopped.node):
        return stopped
    if hidden is not None:
        return hidden
    product = contraction_of(node) or is_product(node)
    axis = None if product is None else _unknown_axis(node, product)
    if axis is not None:
        sentence = (
            f"the length of axis {axis} of {node.out.name} is not known: if heads lie along it, they cannot be told"
            " apart"
        )
        return Refusal(Reason.UNKNOWN_SHAPE, node.label, node.out.name, sentence)
    return Refusal(Reason.NO_PROJECTION, node.label, node.out.name, UNPROJECTED)


def _is_attention_operator(node: Node) -> bool:
    """Return whether the operator's name is that of a fused attention, supported or not."""
    return is_fused(node) or node.op_type.endswith("Attention")


def _why_unknown(node: Node) -> Refusal | None:
    """Return why the heads of a fused attention are unknown, None if they are known."""
    if not is_fused(node):
        sentence = (
            f"{node.domain or 'ai.onnx'}.{node.op_type} is not supported: where its heads lie is not known"
        )
        return Refusal(Reason.NO_RULE, node.label, node.out.name, sentence)
    if layout_of(node) is not None:
        return None
    if node.bodies:
        sentence = (
            f"a subgraph of {node.op_type} ({', '.join(node.bodies)}) sees all heads at once and may mix them"
        )
        return Refusal(Reason.COUPLED, node.label, node.out.name, sentence)
    unknown = [
        value.name for index in range(3) if (value := node.input(index)) is not None and value.shape is None
    ]
    sentence = f"the shapes that {node.op_type} reads are not known ({', '.join(unknown)})"
    if not unknown:
        sentence = f"the widths that {node.op_type} reads and the head counts in its attributes do not fit each other"
    return Refusal(Reason.UNKNOWN_SHAPE, node.label, node.out.name, sentence)


def _through_product(product: Node) -> Refusal:
    """The refusal where a context is multiplied with another activation before a projection sums it up."""
    sentence = f"its heads cannot be followed through {product.label}, which multiplies two activations"
    return Refusal(Reason.INEXPRESSIBLE, product.label, product.out.name, sentence)


def _stopped_above(layer: Node, passed: Set[Node], contexts: Set[Value]) -> Refusal | None:
    """Return why the trace of heads from a linear layer up to the context stops, None if no reason is found."""
    read = summed(layer, afterwards=True)
    if read is None:
        return None
    trace = Tracer().trace(read.value, read.activation[1], read.sizes)
    stop = next((node for node in (*trace.blocked, *trace.lost) if node in passed), None)
    beside = upstream(read.value, MAX_PARTS, is_contraction) if stop is None else ()
    product = next((item for item in beside if is_product(item) and item.out not in contexts), None)
    if product is not None:
        return _through_product(product)
    if stop is None:
        sentence = f"{layer.label} sums the context up in a way in which its heads cannot be told apart"
        return Refusal(Reason.INEXPRESSIBLE, layer.label, layer.out.name, sentence)
    why = next((item for item in trace.refusals if item.node in (stop.ref, stop.label)), None)
    sentence = f"its heads cannot be followed through {stop.label}"
    if why is not None:
        sentence += f": {why.sentence}"
    return Refusal(Reason.INEXPRESSIBLE, stop.label, stop.out.name, sentence)


def _hidden_below(node: Node, contexts: Set[Value]) -> Refusal | None:
    """The node between a context and the next contraction that heads cannot be followed through."""
    values: list[Value] = [node.out]
    seen = set(values)
    passed: set[Node] = set()
    for _ in range(MAX_BELOW):
        below = [use.node for value in values for use in content_uses(value)]
        passed.update(below)
        for other in below:
            layer = weight_contraction(other) is not None
            refusal = _stopped_above(other, passed, contexts) if layer else None
            if refusal is not None:
                return refusal
            if is_product(other) is not None and other.out not in contexts:
                return _through_product(other)
            if not has_rule(other) and not operand_indices(other):
                sentence = f"its heads cannot be followed through {other.label}, for which there is no rule"
                return Refusal(Reason.NO_RULE, other.label, other.out.name, sentence)
            if operand_indices(other) and other.out.shape is None:
                sentence = (
                    f"the shapes around {other.label} are not known, so its heads cannot be followed there"
                )
                return Refusal(Reason.UNKNOWN_SHAPE, other.label, other.out.name, sentence)
        onward: Iterable[Value | None] = (
            output
            for other in below
            if not operand_indices(other) and (other not in ADDS or contexts >= set(other.inputs))
            for output in other.outputs
        )
        values = [value for value in onward if value is not None and value not in seen]
        seen.update(values)
    return None
