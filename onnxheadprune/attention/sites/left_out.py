"""Attention that is no site: near misses with their reasons, and what has no heads to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from onnxheadprune.attention.sites.census import attention_products, has_heads_to_tell
from onnxheadprune.attention.sites.fused import is_attention_operator, why_unknown
from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.maps import summed, weight_contraction
from onnxheadprune.attention.sites.products import is_product
from onnxheadprune.attention.sites.site import NearMiss
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.liveness.asking import has_law
from onnxheadprune.liveness.contraction import contraction_of, operand_indices
from onnxheadprune.liveness.readers import content_uses
from onnxheadprune.liveness.registry import Reason, Refusal
from onnxheadprune.model.graph.facts import ADDS, RESHAPES, TRANSPOSES
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable

RELAYS = RESHAPES | TRANSPOSES
MAX_HOPS = 12
MAX_PARTS = 128
"""Values between a product and the core that reads it; an inverse of a matrix is computed by a hundred nodes."""
UNPROJECTED = "a context whose heads no output projection sums up: there are no weights to cut"


@dataclass(frozen=True)
class Refused:
    """A contraction whose heads could not be traced.

    Attributes:
        node: the contraction.
        product: the attention behind what stopped the trace.
        refusal: why it stopped.
    """

    node: Node
    product: Node
    refusal: Refusal


@dataclass(frozen=True)
class LeftOut:
    """Products that attend and belong to no site: each is in one of two lists."""

    near_misses: tuple[NearMiss, ...] = ()
    no_heads: tuple[NearMiss, ...] = ()


def left_out(
    view: GraphView,
    claimed: set[Node],
    refused: Sequence[Refused],
    folded: Sequence[Block],
    pools: Sequence[Block],
    fixed: Callable[[Node], bool],
) -> LeftOut:
    """Every product of attention weights and values that is no core of a site, once.

    Args:
        view: an annotated view.
        claimed: the cores of sites.
        refused: contractions whose heads could not be traced.
        folded: blocks whose heads are folded into an axis of unknown length.
        pools: blocks of one head that do not attend with projected values.
        fixed: whether the heads of a product are found once the inputs have fixed sizes.
    """
    misses: dict[Node, NearMiss] = {}
    stopped: dict[Node, Refusal] = {}
    for item in refused:
        if item.product not in claimed and item.refusal.reason.couples_heads:
            # What mixes heads has some, whether or not a softmax made the weights.
            misses.setdefault(item.product, NearMiss(item.node.label, item.refusal))
        stopped.setdefault(item.product, item.refusal)
    for block in folded:
        misses |= dict.fromkeys((core.node for core in block.cores), _folded_miss(block, fixed))
    one_head = {core.node: block for block in pools for core in block.cores}
    without: list[NearMiss] = []
    for node in attention_products(view):
        if node in claimed or node in misses or _is_part(node, claimed):
            continue
        if not has_heads_to_tell(node, contraction_of(node) or is_product(node)):
            pools_all = "it pools with one map for all channels, so there are no heads to tell apart"
            no_axis = "no axis of its output can enumerate heads: it has one map for all channels"
            without.append(_miss(node, pools_all if node in one_head else no_axis))
        elif node in one_head:
            misses[node] = NearMiss(node.label, shared_by_heads(one_head[node].projections[0].node, node))
        else:
            misses[node] = NearMiss(node.label, _why_no_site(node, stopped.get(node), fixed))
    return LeftOut(tuple(misses.values()), tuple(without))


def _is_part(node: Node, claimed: set[Node]) -> bool:
    """Whether a product is nothing but an operand of cores of sites, as linear attention's summary of keys is."""

    def below(value: Value) -> list[Node]:
        return [use.node for use in content_uses(value)]

    def ahead(value: Value) -> list[Value]:
        return [output for other in below(value) if other not in claimed for output in other.results]

    readers: set[Node] = set()
    for number, value in enumerate(reachable([node.out], ahead)):
        found = set(below(value))
        if number > MAX_PARTS or value.is_graph_output or not found:
            return False
        if any(operand_indices(other) and is_product(other) is None for other in found - claimed):
            return False
        readers |= found
    return not readers.isdisjoint(claimed)


def shared_by_heads(layer: Node, core: Node) -> Refusal:
    """Why a product with a map per head has no heads to cut: the linear layer behind it is one for all of them."""
    sentence = (
        f"it has a map per head, and {layer.label} has no weights of single heads: it treats all heads alike"
    )
    return Refusal(Reason.NO_PROJECTION, core.label, core.out.name, sentence)


def _miss(node: Node, sentence: str) -> NearMiss:
    return NearMiss(node.label, Refusal(Reason.NO_PROJECTION, node.label, node.out.name, sentence))


def _folded_miss(block: Block, fixed: Callable[[Node], bool]) -> NearMiss:
    core = block.cores[0].node
    sentence = (
        "the context's axes are folded so that every head fills the channels of the others, at other positions:"
        " its heads cannot be told apart"
    )
    if any(not isinstance(dim, int) for dim in core.out.shape or ()):
        sentence = (
            "several pieces of one context, cut along an axis of unknown length, are joined before the projection:"
            f" if heads lie along that axis, they cannot be told apart; {_advice(core, fixed)}"
        )
    return NearMiss(core.label, Refusal(Reason.INEXPRESSIBLE, core.label, core.out.name, sentence))


def _why_no_site(node: Node, stopped: Refusal | None, fixed: Callable[[Node], bool]) -> Refusal:
    """The first thing that hides the heads of a product, from what it reads down to the next contraction."""
    if is_attention_operator(node):
        unknown = why_unknown(node)
        if unknown is not None:
            return unknown
    elif is_product(node) is None:
        return Refusal(
            Reason.UNKNOWN_SHAPE,
            node.label,
            node.out.name,
            f"the shapes that {node.op_type} multiplies are not known",
        )
    hidden = _hidden_below(node, fixed)
    if stopped is not None and (hidden is None or hidden.node != stopped.node):
        return stopped
    # Of the same node it also says whether fixed sizes help.
    return hidden or Refusal(Reason.NO_PROJECTION, node.label, node.out.name, UNPROJECTED)


def _advice(core: Node, fixed: Callable[[Node], bool]) -> str:
    return "in an export with fixed sizes they can" if fixed(core) else "fixed sizes would not help"


def _never(core: Node) -> bool:
    return False


def _stopped_above(
    layer: Node, passed: Set[Node], core: Node, fixed: Callable[[Node], bool]
) -> Refusal | None:
    """Return why the trace of heads from a linear layer up to the context stops, None if no reason is found."""
    read = summed(layer, afterwards=True)
    if read is None:
        return None
    trace = Tracer().trace(read.value, read.activation[1], read.sizes)
    stop = next((node for node in trace.blocked if node in passed), None)
    if stop is None:
        sentence = f"{layer.label} sums the context up in a way in which its heads cannot be told apart"
        return Refusal(Reason.INEXPRESSIBLE, layer.label, layer.out.name, sentence)
    why = next((item for item in trace.refusals if item.node in (stop.ref, stop.label)), None)
    sizes = [
        dim for value in (*stop.inputs, *stop.outputs) if value is not None for dim in value.shape or ("?",)
    ]
    unknown = stop in RELAYS and any(not isinstance(dim, int) for dim in sizes)
    advice = _advice(core, fixed if unknown else _never)
    sentence = f"its heads cannot be followed through {stop.label}"
    if why is not None:
        sentence += f": {why.sentence}"
    return Refusal(Reason.INEXPRESSIBLE, stop.label, stop.out.name, f"{sentence}; {advice}")


def _hidden_below(node: Node, fixed: Callable[[Node], bool]) -> Refusal | None:
    """What stands between a context and the contraction that it leads to, if heads cannot be followed through it."""
    values: list[Value] = [node.out]
    seen = set(values)
    passed: set[Node] = set()
    for _ in range(MAX_HOPS):
        below = [use.node for value in values for use in content_uses(value)]
        passed.update(below)
        for other in below:
            layer = weight_contraction(other) is not None
            found = _stopped_above(other, passed, node, fixed) if layer else None
            if found is not None:
                return found
            if not has_law(other) and not operand_indices(other):
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
            if not operand_indices(other) and other not in ADDS
            for output in other.outputs
        )
        values = [value for value in onward if value is not None and value not in seen]
        seen.update(values)
    return None
