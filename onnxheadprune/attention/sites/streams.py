"""Residual streams: what a layer computes is added to a value that the layer was computed from.

Layers read channels of such a stream and write to them, so no layer owns them. A sum of two values computed in parallel
(a computed bias, two linear layers that are added) is no residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, zip_longest

from onnx import TensorProto

from onnxheadprune.attention.sites.products import is_product
from onnxheadprune.liveness.index_notation import contraction_of, kernel_of, operand_indices
from onnxheadprune.model.graph.operator import (
    ADDS_AND_NORMALIZES,
    OBSERVES,
    PLAIN_SUMS,
    SUMS_VALUES,
    is_a,
)
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

CHOICES = (TensorProto.INT64, TensorProto.BOOL)
"""Types of indices, sizes and masks, which no stream has."""
MAX_NEAR = 64
"""Values between a stream and what is added to it, with no contraction in between."""
MAX_BEHIND = 1024
"""Values that are looked at in search of the stream; attention computes some hundred of them."""
MAX_BELOW = 512
"""Nodes between a layer and the sum that takes it back into the stream; a mixture sums up its experts first."""


class Streams:
    """The residual sums of one model; each node is looked at once."""

    def __init__(self) -> None:
        self._known: dict[Node, bool] = {}

    def joins(self, node: Node) -> bool:
        """Return whether a node adds a layer's output to its input."""
        if node not in self._known:
            self._known[node] = self._joins(node)
        return self._known[node]

    def _joins(self, node: Node) -> bool:
        if node in ADDS_AND_NORMALIZES:
            return True
        added = addends(node)
        return any(
            any(value in stream for value in _behind_layers(other))
            for value in added
            for stream in [near(value)]
            for other in added
            if other is not value
        )

    def returning(self, ends: Iterable[Node], begins: Iterable[Value]) -> Node | None:
        """The residual sum that the outputs of some layers are added in, None if there is none."""
        origin: set[Value] | None = None
        for node in below(ends, as_factors=False):
            added = addends(node)
            if len(added) < 2:
                continue
            origin = origin or set(upstream(begins, MAX_BEHIND))
            if any(not origin.isdisjoint(near(value)) for value in added):
                return node
        return None

    def leads_on(self, node: Node) -> bool:
        """Return whether a node carries a value into a residual sum before any layer reads it."""
        return any(self.joins(other) for other in chain([node], below([node])))


def near(value: Value) -> Collection[Value]:
    """A value, and its sources with neither a layer nor a sum of two values in between.

    Streams may be mixed by a product that keeps their channels apart, as in hyper-connections. A sum and its
    normalization by one operator are sources of each other.
    """

    def above(item: Value) -> Iterable[Value]:
        node = item.producer
        mixed = None if node is None else is_product(node)
        if node is None or (mixed is None and is_layer(node)):
            return ()
        if len(addends(node)) > 1:
            return node.results if node in ADDS_AND_NORMALIZES else ()
        if mixed is None:
            return contents(node)
        # Of a product, the operand that alone has the last axis of the output.
        owners = mixed.owners(mixed.out_axes[-1]) if mixed.out_axes else ()
        own = node.input(owners[0]) if len(owners) == 1 else None
        return [] if own is None or own.is_constant else [own]

    return frozenset(reachable([value], above, MAX_NEAR))


def below(nodes: Iterable[Node], as_factors: bool = True) -> Iterator[Node]:
    """Yield nodes downstream of some nodes, nearest first, down to the next contractions, which are excluded.

    Args:
        as_factors: whether to continue after products in which each number is a factor of many.
    """

    def ahead(node: Node) -> Iterator[Node]:
        for use in [
            use for value in node.results if value.elem_type not in CHOICES for use in value.consumers
        ]:
            if not is_layer(use.node) and use.node not in OBSERVES and (as_factors or not spreads(use)):
                yield use.node

    first = [other for node in nodes for other in ahead(node)]
    return reachable(first, ahead, MAX_BELOW)


def spreads(use: Use) -> bool:
    """Return whether a node multiplies each number of its input with many numbers of another value.

    A factor common to all channels is no gate: hyper-connections scale a branch for every stream.
    """
    node, shape, made = use.node, use.node.shape(use.input_index), use.node.out.shape
    others = [node.shape(index) for index in range(len(node.inputs)) if index != use.input_index]
    if not is_a(node, "Mul") or shape is None or made is None or len(others) != 1 or others[0] is None:
        return False
    axes = list(zip_longest(*(reversed(dims) for dims in (shape, others[0])), fillvalue=1))
    return any(own == 1 != other for own, other in axes) and all(
        own == 1 or other != 1 for own, other in axes
    )


def is_layer(node: Node) -> bool:
    """Return whether a node is a contraction other than a depthwise convolution, which keeps channels separate."""
    if not operand_indices(node):
        return False
    found = contraction_of(node)
    if found is not None:
        sizes: dict[str | None, set[int]] = {letter: set() for letter in found.contracted}
        for index in found.indices:
            for dim, letter in zip(node.shape(index) or (), found.axes_of(index), strict=False):
                sizes.setdefault(letter, set()).update([dim] if isinstance(dim, int) else [])
        # A sum over axes of size 1 adds nothing up. A single block of packed weights holds many rows.
        if all(sizes[letter] == {1} for letter in found.contracted):
            return False
    return node.out.shape is None or found is not None or is_grouped(node)


def is_grouped(node: Node) -> bool:
    """Return whether a node is a convolution in groups of several channels."""
    kernel = kernel_of(node)
    shape = None if kernel is None else node.shape(kernel)
    return shape is not None and node.attribute("group", 1) > 1 and len(shape) > 1 and shape[1] != 1


def addends(node: Node) -> list[Value]:
    """Return the computed terms of a sum, each value once.

    Sums with a single reader are merged: a parallel layer may add its parts to the stream one by one.
    """
    found: dict[Value, None] = {}
    stack = [node] if node in SUMS_VALUES else []
    while stack:
        current = stack.pop()
        terms = current.inputs[:2] if current in ADDS_AND_NORMALIZES else current.inputs
        for value in terms:
            if value is None or value.is_constant:
                continue
            if value.producer is not None and is_partial_sum(value, value.producer):
                stack.append(value.producer)
            else:
                found[value] = None
    return list(found)


def is_partial_sum(value: Value, node: Node) -> bool:
    """Return whether a value is a sum that only another sum reads."""
    readers = {use.node for use in value.consumers}
    return node in PLAIN_SUMS and len(readers) == 1 and not value.is_graph_output


def _behind_layers(value: Value) -> Iterator[Value]:
    """Return the contractions that a value is computed by, nearest first."""
    first = set(upstream([value], MAX_BEHIND, is_layer))
    layers = dict.fromkeys(item.producer for item in first if item.producer is not None)
    read = [item for node in layers if is_layer(node) for item in contents(node)]
    return upstream(read, MAX_BEHIND)


def upstream(
    values: Iterable[Value], most: int, ends: Callable[[Node], bool] | None = None
) -> Iterator[Value]:
    """Some values and their sources, nearest first."""

    def above(value: Value) -> Iterable[Value]:
        node = value.producer
        return () if node is None or (ends is not None and ends(node)) else contents(node)

    return reachable(values, above, most)


def contents(node: Node) -> Iterator[Value]:
    """Yield the computed inputs of a node, except shapes and conditions."""
    roles = node.roles
    for index, value in enumerate(node.inputs if node not in OBSERVES else ()):
        is_content = index not in roles.places if roles.contents is None else index in roles.contents
        if not is_content or value is None or value.is_constant or value.elem_type in CHOICES:
            continue
        # The scale of a dynamic quantization is one number.
        if not is_a(node, "Mul") or value.shape is None or any(dim != 1 for dim in value.shape):
            yield value
