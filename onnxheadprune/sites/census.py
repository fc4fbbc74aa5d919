"""Which nodes multiply attention weights with values, whether or not a site is found around them.

Heads are found by structure alone; this list is there so that nothing that looks like attention is left out in
silence. It may hold more than attention (a router, a soft argmax): what is no site is then explained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from onnxheadprune.graph.dims import Dim, divisor
from onnxheadprune.graph.view import GraphView, Node, Value
from onnxheadprune.liveness.contraction import Contraction, operand_indices
from onnxheadprune.sites.fused import is_attention_operator
from onnxheadprune.sites.products import is_product, is_weight

MAX_NODES = 96
"""Nodes that are looked at between a product and the map that it reads."""
MAPS = frozenset({"Softmax", "LogSoftmax", "Hardmax", "QLinearSoftmax", "BiasSoftmax"})
"""Operators that make weights of scores, whatever these are made of."""
ACTIVATIONS = frozenset(
    "Sigmoid HardSigmoid QLinearSigmoid Relu Tanh Exp Softplus Elu Gelu LpNormalization Pow".split()
)
"""Operators that make weights of scores if these are products of queries and keys."""


def attention_products(view: GraphView) -> list[Node]:
    """The products of attention weights and values in all scopes, in graph order; fused operators are some.

    Args:
        view: an annotated view.
    """
    return [node for node in view.nodes if is_attention_operator(node) or _weighs_values(node)]


def has_heads_to_tell(node: Node, found: Contraction | None) -> bool:
    """Whether an axis of a product's output may enumerate heads.

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


def _weighs_values(node: Node) -> bool:
    indices = operand_indices(node)
    if not indices:
        # Weights and values may also be multiplied one by one, and summed up by the next node.
        return is_product(node) is not None
    sources = [
        value for index in indices if (value := node.input(index)) is not None and not is_weight(value)
    ]
    return len(sources) > 1 and any(_made_by(value, _is_map) for value in sources)


def _is_map(node: Node) -> bool:
    """Whether a node turns scores into weights."""
    if node.op_type in MAPS:
        return True
    first = node.input(0)
    if first is None:
        return False
    if node.op_type in ACTIVATIONS:
        return _made_by(first, is_product_of_activations)
    if node.op_type == "Div" and (below := node.input(1)) is not None:
        # A softmax spelled out, or any other division by the sum.
        return _made_by(below, lambda other: _sums(other, first))
    return False


def is_product_of_activations(node: Node) -> bool:
    """Whether a node multiplies two activations, as far as its shapes tell."""
    return is_product(node) is not None


def _sums(node: Node, value: Value) -> bool:
    return node.op_type in ("ReduceSum", "ReduceL1") and node.input(0) is value


def _made_by(value: Value, wanted: Callable[[Node], bool]) -> bool:
    """Whether a node of some kind lies upstream, nearest first, with no contraction in between."""
    queue = deque([] if value.producer is None else [value.producer])
    seen = set(queue)
    while queue and len(seen) < MAX_NODES:
        node = queue.popleft()
        if wanted(node):
            return True
        if operand_indices(node) or is_attention_operator(node):
            continue
        for source in node.inputs:
            producer = None if source is None or source.is_constant else source.producer
            if producer is not None and producer not in seen:
                seen.add(producer)
                queue.append(producer)
    return False
