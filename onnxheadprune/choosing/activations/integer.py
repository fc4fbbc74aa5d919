"""Products of integers as maps of floats: what was quantized on one side, and what is made a float on the other.

Dynamic quantization writes `Mul(Cast(MatMulInteger(x, W)), Mul(scale of x, scale of W))`, static quantization
`DequantizeLinear(QLinearMatMul(...))`, and fused operators do all of it. Each is `y = x W` of
floats, W stored in levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxheadprune.attention.levels import StoredLevels
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.model.graph.facts import (
    CASTS,
    DEQUANTIZES,
    MEASURES_SCALE,
    MULTIPLIES,
    QUANTIZERS,
    QUANTIZES,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import FLOATS


@dataclass(frozen=True, eq=False)
class WholeProduct:
    """A product of integers between floats.

    Attributes:
        source: the float that is quantized for it.
        out: the float that is made of it.
        levels: what the weight's levels mean.
    """

    source: Value
    out: Value
    levels: StoredLevels


def whole_product(node: Node, source: int, weight: int) -> WholeProduct | None:
    """A node as a product of floats, None where it multiplies no stored levels or its scales are not found.

    Args:
        node: the product.
        source: input index of the activation.
        weight: input index of the weight.
    """
    roles = roles_of(node)
    operand, x = node.input(weight), node.input(source)
    if roles.integer_weight != weight or operand is None or x is None:
        return None
    zero = None if roles.weight_zero is None else node.input(roles.weight_zero)
    before = x if x.elem_type in FLOATS else _float_before(x)
    if before is None or (zero is not None and not zero.is_constant):
        return None
    if roles.weight_scale is None:
        found = _scaled_behind(node, x)
        return None if found is None else WholeProduct(before, found[1], StoredLevels(found[0], zero))
    scale = node.input(roles.weight_scale)
    if scale is None or not scale.is_constant:
        return None
    quantized = roles.output_scale is not None and node.input(roles.output_scale) is not None
    out = _float_behind(node.out) if quantized else node.out
    return None if out is None else WholeProduct(before, out, StoredLevels((scale,), zero))


def _only_use(value: Value) -> Use | None:
    """The one consumer of a value, None where there are others, or callers read it."""
    uses = [use for use in value.consumers if not looks_only(use)]
    return uses[0] if len(uses) == 1 and not value.is_graph_output else None


def only_use_of_float(value: Value) -> Use | None:
    """The one consumer of a value behind the quantizers and dequantizers that merely round it."""
    use = _only_use(value)
    while use is not None and use.node in QUANTIZES and use.input_index == 0:
        back = _float_behind(use.node.out)
        use = None if back is None else _only_use(back)
    return use


def _float_before(value: Value) -> Value | None:
    node = value.producer
    if node is None or node not in QUANTIZERS or node.inputs[0] is None or node.outputs[0] is not value:
        return None
    return node.inputs[0] if node.inputs[0].elem_type in FLOATS else None


def _float_behind(value: Value) -> Value | None:
    use = _only_use(value)
    if use is None or use.node not in DEQUANTIZES or use.input_index != 0:
        return None
    return use.node.out


def _scaled_behind(node: Node, x: Value) -> tuple[tuple[Value, ...], Value] | None:
    """The factors of the weight's scale, and the float that a sum of integers becomes by it and the scale of x."""
    use = _only_use(node.out)
    if use is None or use.node not in CASTS:
        return None
    value, factors = use.node.out, list[Value]()
    while (use := _only_use(value)) is not None and use.node in MULTIPLIES:
        other = use.node.inputs[1 - use.input_index]
        leaves = None if other is None else list(_leaves(other))
        if leaves is None or not all(leaf.is_constant or leaf is _scale_of(x) for leaf in leaves):
            break
        factors += leaves
        value = use.node.out
        if any(leaf is _scale_of(x) for leaf in factors) and any(leaf.is_constant for leaf in factors):
            break
    measured = [leaf for leaf in factors if leaf is _scale_of(x)]
    stored = tuple(leaf for leaf in factors if leaf is not _scale_of(x))
    return (stored, value) if len(measured) == 1 and stored else None


def _leaves(value: Value) -> Iterator[Value]:
    node = value.producer
    if value.is_constant or node is None or node not in MULTIPLIES:
        yield value
        return
    for item in node.inputs:
        if item is not None:
            yield from _leaves(item)


def _scale_of(x: Value) -> Value | None:
    """The scale that a quantized value was made with."""
    node = x.producer
    if node is None:
        return None
    return node.outputs[1] if node in MEASURES_SCALE else node.input(1)
