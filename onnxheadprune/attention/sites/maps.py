"""Maps with weights: products of one activation and one stored operand, and what they sum over."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from onnxheadprune.liveness.contraction import Contraction, contraction_of, operands
from onnxheadprune.model.graph.facts import ADDS, SUMS
from onnxheadprune.model.graph.view import Node, Value

MAX_CONTRACTED = 2**20
"""Positions of a summed axis; the widest transformers have some ten thousand."""


class Summed(NamedTuple):
    """The axes that a linear layer sums over.

    Attributes:
        node: the map.
        value: what it reads.
        activation: the index of that input, and its summed axes.
        weight: the index of the weight, and its summed axes in the same order.
        sizes: their lengths.
    """

    node: Node
    value: Value
    activation: tuple[int, tuple[int, ...]]
    weight: tuple[int, tuple[int, ...]]
    sizes: tuple[int, ...]


def _stored(value: Value) -> bool:
    return value.is_constant


def weight_contraction(
    node: Node, weighs: Callable[[Value], bool] = _stored
) -> tuple[Contraction, int, int] | None:
    """A product of one activation and one weight, with their input indices."""
    found = contraction_of(node)
    if found is None or len(found.terms) != 2:
        return None
    first, second = found.indices
    constant = [weighs(value) for value in operands(node, found)]
    if constant == [False, True]:
        return found, first, second
    return (found, second, first) if constant == [True, False] else None


def summed(node: Node, weighs: Callable[[Value], bool] = _stored, afterwards: bool = False) -> Summed | None:
    """Return what a map with weights sums over, None for other nodes and where lengths are unknown or beyond belief.

    Args:
        node: any node.
        weighs: what counts as a weight.
        afterwards: whether to count the axes, too, along which each position has a map of its own and the next node
            adds up what these make: `(context @ W_o).sum(1)` with `W_o` of [heads, head_size, width].
    """
    found = weight_contraction(node, weighs)
    if found is None:
        return None
    contraction, activation, weight = found
    value = node.inputs[activation]
    assert value is not None
    over = contraction.contracted | (_added_up(node, contraction) if afterwards else frozenset())
    letters = [letter for letter in contraction.axes_of(activation) if letter in over]
    on_activation = tuple(contraction.axes_of(activation).index(letter) for letter in letters)
    on_weight = tuple(contraction.axes_of(weight).index(letter) for letter in letters)
    sizes = _sizes(value, on_activation)
    if sizes is None:
        return None
    return Summed(node, value, (activation, on_activation), (weight, on_weight), sizes)


def _added_up(node: Node, contraction: Contraction) -> frozenset[str]:
    """The batch letters that the only reader of a product sums over."""
    readers = [use.node for use in node.out.consumers]
    if len(readers) != 1 or readers[0] not in SUMS or node.out.is_graph_output or not contraction.contracted:
        return frozenset()
    axes, letters = readers[0].int_list("axes", 1) or (), contraction.out_axes
    return contraction.batch & {letters[axis % len(letters)] for axis in axes}


def _sizes(value: Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes of summed axes, None unless all are known, credible, and there is something to tell apart."""
    if value.shape is None:
        return None
    found = [dim for axis in axes if isinstance(dim := value.shape[axis], int)]
    return tuple(found) if len(found) == len(axes) and 1 < math.prod(found) <= MAX_CONTRACTED else None


def is_residual(node: Node) -> bool:
    """Adding two computed values: the way back into the residual stream, behind which all layers lie."""
    return node in ADDS and len(node.computed) > 1
