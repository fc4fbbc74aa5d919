"""MoE and QMoE of ONNX Runtime: a router chooses experts for each token, all in one operator.

Experts are stored side by side: the first layer as `[experts, width, hidden]`, the last as `[experts, hidden, width]`.
SwiGLU has gates and values, in one first layer of twice as many rows or in a layer each. QMoE stores levels of a few
bits in bytes, with a scale per row, or per row and block of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.layouts import Mixture, NeuronAxis, Order, mixture_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible
from onnxheadprune.model.graph.dims import size_of
from onnxheadprune.model.graph.operator import Roles, Shapes
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator

TOKENS, ROUTER = 0, 1
SELECTION_WEIGHTS = 14
"""Input of QMoE with what experts are weighted by, where that is not what they are chosen by."""
ORDERS = {1: Order.PAIRS, 2: Order.HALVES}
"""The values of `swiglu_fusion` for a first layer that computes both gates and values."""


def _like_tokens(node: Node) -> Shapes:
    return [node.shape(TOKENS)]


def _mixture(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Tokens are independent of each other; every one of a token's features depends on all of them.

    Rows of the router are numbered as those of `[tokens, features]` are; with a batch in front they are not.
    """
    live, shape = lives[0], node.shape(TOKENS)
    if shape is None or len(shape) != 2 or live.axes != (0,):
        return inexpressible(node)
    return Answer(dict.fromkeys(_given(node, (TOKENS, ROUTER, SELECTION_WEIGHTS)), live))


def _chosen_experts(node: Node) -> int | None:
    """Each token goes through its chosen experts."""
    tokens, found = node.shape(TOKENS), mixture_of(node)
    count = None if tokens is None else size_of(tokens)
    return None if count is None or found is None else 2 * count * found.products


def _read(node: Node) -> Mixture | None:
    """Numbers are levels of eight bits without scales and zero points."""
    quantized = node.op_type == "QMoE"
    first, bias, last, last_bias, values, values_bias = (2, 4, 5, 7, 8, 10) if quantized else range(2, 8)
    scales, last_scales, value_scales, zeros, last_zeros, value_zeros = 3, 6, 9, 11, 12, 13
    bits = dict.fromkeys((first, last, values), 8)
    if quantized:
        for index, name in ((first, "fc1"), (last, "fc2"), (values, "fc3")):
            either = node.attribute("expert_weight_bits", 4)
            bits[index] = int(node.attribute(f"{name}_expert_weight_bits", either))
    block = int(node.attribute("block_size", 0))
    sizes = _sizes(node, first, last, 8 // bits[last]) if {*bits.values()} <= {2, 4, 8} else None
    order = None if sizes is None else _order(node, first, values, sizes[1])
    if sizes is None or order is None or block < 0:
        return None
    inputs = {
        first: NeuronAxis(1, order),
        bias: NeuronAxis(1, order),
        last: NeuronAxis(2, packed=8 // bits[last]),
        values: NeuronAxis(1),
        values_bias: NeuronAxis(1),
    }
    if quantized:
        inputs[scales], inputs[value_scales] = NeuronAxis(1, order), NeuronAxis(1)
        # Rows have zero points side by side, several in a byte; in blocks each row has bytes of its own.
        inputs[zeros] = NeuronAxis(1, order, 1 if block else 8 // bits[first])
        inputs[value_zeros] = NeuronAxis(1, packed=1 if block else 8 // bits[values])
    if block:
        inputs[last_scales] = NeuronAxis(2, packed=block)
        inputs[last_zeros] = NeuronAxis(2, packed=block * 8 // bits[last])
    experts, width = sizes
    return Mixture(
        experts,
        width,
        min(int(node.attribute("k", 1)), experts),
        _given(node, (TOKENS, ROUTER, SELECTION_WEIGHTS)),
        {index: axis for index, axis in inputs.items() if node.input(index) is not None},
        silent=last_scales if block else last,
        made=_given(node, (scales if quantized else first, bias)),
        last=last,
        bias=last_bias if node.input(last_bias) is not None else None,
        zero=last_zeros if quantized and not block and node.input(last_zeros) is not None else None,
        bits=bits[last] if quantized else None,
        maps=_maps(node, order, values),
        why_not=_why_not(node) if quantized else None,
    )


def _sizes(node: Node, first: int, last: int, levels: int) -> tuple[int, int] | None:
    """Experts and their width, None where shapes are no numbers or do not fit."""
    made, summed = node.shape(first), node.shape(last)
    if made is None or summed is None or len(made) != 3 or len(summed) != 3:
        return None
    experts, stored = summed[0], summed[2]
    if made[0] != experts or not isinstance(experts, int) or not isinstance(stored, int):
        return None
    return (experts, stored * levels) if experts and stored else None


def _order(node: Node, first: int, values: int, width: int) -> Order | None:
    """The order of gates and values in the first layer, None where its attribute states another number of rows."""
    shape, other = node.shape(first), node.shape(values)
    if node.input(values) is not None and (other is None or other[1] != width):
        return None
    fused = int(node.attribute("swiglu_fusion", 0)) if _is_gated(node) else 0
    order = ORDERS.get(fused, Order.ONCE)
    rows = len(order.positions(width))
    return order if shape is not None and shape[1] == rows else None


def _is_gated(node: Node) -> bool:
    return str(node.attribute("activation_type", "relu")).lower() == "swiglu"


def _maps(node: Node, order: Order, values: int) -> int:
    """The layers of an expert: the last one, the first one with its gates, and values apart."""
    return 1 + (1 if order is Order.ONCE else 2) + (node.input(values) is not None)


def _given(node: Node, indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(index for index in indices if node.input(index) is not None)


def _why_not(node: Node) -> str | None:
    """Return why levels are in no order that is known."""
    kind = str(node.attribute("quant_type", "int"))
    if kind != "int":
        return f"the experts of {node.label} are stored as {kind}, of which only whole numbers can be cut"
    if int(node.attribute("weights_prepacked", -1)) == 1:
        return f"the experts of {node.label} are stored in the order of one execution provider (weights_prepacked)"
    return None


operator(
    "com.microsoft.MoE",
    roles=Roles(alike=(0, 1, 2, 3, 4, 5, 6, 7)),
    shape=_like_tokens,
    cost=_chosen_experts,
    rule=_mixture,
    mixture=_read,
)
operator(
    "com.microsoft.QMoE",
    roles=Roles(alike=(0, 1, 4, 7, 10, 14)),
    shape=_like_tokens,
    cost=_chosen_experts,
    rule=_mixture,
    mixture=_read,
)
