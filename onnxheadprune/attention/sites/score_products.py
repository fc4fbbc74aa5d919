"""The products of queries and keys behind a core, and the widths that they show."""

from __future__ import annotations

import math

from onnxheadprune.attention.sites.core import MAX_UPSTREAM, MAX_VIEWS, Core
from onnxheadprune.attention.sites.products import is_contraction, is_product, upstream
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.layouts import layout_of
from onnxheadprune.model.graph.view import Node, Value


def query_width(core: Core) -> int | None:
    """The width of a query head; None where there are no queries and keys, or where weights mix maps."""
    found = is_product(core.node)
    if found is None:
        return None  # stored maps have neither queries nor keys
    values = found.owners(found.out_axes[core.feature_axes[0]])[0]
    scores = score_products(core)
    if scores:
        return _contracted_size(scores[0])
    # Queries read a summary of keys and values: the core itself sums over them.
    return _contracted_size(core.node) if _first_products(core.node, values) else None


def score_products(core: Core) -> list[Node]:
    """The products of queries and keys that compute a core's attention weights; none for fused operators."""
    found = is_product(core.node)
    if found is None:
        return []
    values = found.owners(found.out_axes[core.feature_axes[0]])[0]
    return [node for index in found.indices if index != values for node in _first_products(core.node, index)]


def _first_products(node: Node, index: int) -> list[Node]:
    """Products upstream of an operand, nearest first, that read no other products; stops at linear layers."""
    above = upstream(node.inputs[index], MAX_UPSTREAM, _is_weighted)
    products = [item for item in above if is_product(item) is not None]
    return [item for item in products if not _reads_products(item)]


def _is_weighted(node: Node) -> bool:
    """Return whether a node is a linear layer: a contraction with weights."""
    return is_contraction(node) and is_product(node) is None


def _reads_products(node: Node) -> bool:
    """Return whether a product multiplies results of other products, as in a matrix inverse."""
    found = is_product(node)
    return found is not None and any(_product_behind(node.inputs[index]) for index in found.indices)


def _product_behind(value: Value | None) -> bool:
    for _ in range(MAX_VIEWS):
        node = None if value is None else value.producer
        if node is None or not node.inputs:
            return False
        if contraction_of(node) is not None:
            return is_product(node) is not None
        value = node.inputs[0]
    return False


def _contracted_size(node: Node) -> int | None:
    found = contraction_of(node)
    if found is None:
        return None
    first = found.indices[0]
    shape = node.shape(first)
    if shape is None:
        return None
    sizes = [shape[axis] for axis, letter in enumerate(found.axes_of(first)) if letter in found.contracted]
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def features(core: Core) -> int | None:
    """Features that the context of one head has; None where their number is not known."""
    layout = layout_of(core.node)
    if layout is not None:
        # A fused operator may have heads and features in one axis.
        return layout.v_head_size
    shape = core.node.out.shape
    if shape is None:
        return None
    sizes = [dim for axis in core.feature_axes if isinstance(dim := shape[axis], int)]
    return math.prod(sizes) if len(sizes) == len(core.feature_axes) else None
