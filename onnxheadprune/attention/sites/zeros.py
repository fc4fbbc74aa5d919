"""Values of a removed expert: its router score, its routing weight and its tokens.

Its score is minus infinity, so that it is never chosen and its weight is zero, or its list of tokens is empty. What is
computed from these alone is known, too, up to an addition: the sum is then the other operand.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import numpy as np

from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.model.graph.elements import number_of, uniform
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    CARRIERS,
    ELEMENTWISE,
    KEEPS_ZEROS,
    NORMALIZES,
    QUANTIZERS,
    WRITES_INTO,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import Node, Value


class Rows(enum.Enum):
    """A list of tokens, or values computed for these, with nothing in it."""

    NONE = "no rows"


Number: TypeAlias = float | Literal[Rows.NONE] | None
"""The number that a value holds; None where that is not known."""
NOTHING, NEVER, EMPTY = 0.0, -np.inf, Rows.NONE
UNCHANGED: Final = CARRIERS | kind("Flatten", "Expand", "Tile", "Slice", "Split", "Concat")
PICKS: Final = kind("Gather", "GatherElements", "GatherND")
BY_ELEMENT: Final = ELEMENTWISE | ACTIVATES | NORMALIZES | QUANTIZERS | UNCHANGED
"""Operators that give nothing for no tokens."""


def number_behind(node: Node, known: Mapping[int, Number]) -> Number:
    """The number in the first output of a node.

    Args:
        known: the numbers that some of its inputs hold.
    """
    if node in WRITES_INTO and known == {1: EMPTY, 2: EMPTY}:
        return uniform(node.input(0))
    if EMPTY in known.values():
        return EMPTY if _is_empty(node, known) else None
    product, first = contraction_of(node), known.get(0)
    if product is not None:
        bias = None if node.roles.bias is None else node.input(node.roles.bias)
        is_nothing = any(known.get(index) == NOTHING for index in product.indices)
        return NOTHING if is_nothing and (bias is None or uniform(bias) == NOTHING) else None
    if is_a(node, "NonZero"):
        return EMPTY if first == NOTHING else None
    if (is_a(node, "Mul") and NOTHING in known.values()) or (is_a(node, "Div") and first == NOTHING):
        return NOTHING
    if (is_a(node, "Add") and NEVER in known.values()) or (is_a(node, "Sub") and known == {0: NEVER}):
        return NEVER
    every = [known[index] if index in known else uniform(value) for index, value in enumerate(node.inputs)]
    numbers = [number for number in every if number is not EMPTY]
    if is_a(node, "Concat"):
        return numbers[0] if len(set(numbers)) == 1 else None
    if node in UNCHANGED | PICKS:
        return first
    if node in KEEPS_ZEROS | kind("CumSum") or node.choice is not None:
        return NOTHING if first == NOTHING else None
    return number_of(node, numbers)


def _is_empty(node: Node, known: Mapping[int, Number]) -> bool:
    """Return whether a node outputs nothing for no tokens."""
    empty = {index for index, number in known.items() if number is EMPTY}
    if node in PICKS:
        return True
    if empty != known.keys():
        return False
    product = contraction_of(node)
    if product is not None:
        # It has a row for each token: what it sums over is no list of tokens.
        index = min(empty)
        shape = node.shape(index)
        if len(empty) > 1 or index not in product.indices or not shape:
            return False
        letters = zip(shape, product.axes_of(index), strict=True)
        return all(isinstance(dim, int) and dim > 0 for dim, one in letters if one in product.contracted)
    if is_a(node, "Concat"):
        return len(empty) == len(node.inputs)
    return node in BY_ELEMENT and (node not in UNCHANGED or 0 in empty)


def follows(node: Node, known: Mapping[int, Number]) -> bool:
    """Return whether a node computes what it outputs of some inputs and of stored numbers alone, for each token."""
    others = [value for index, value in enumerate(node.inputs) if index not in known and value is not None]
    computes = contraction_of(node) is not None or node in BY_ELEMENT
    return computes and all(value.is_constant for value in others)


def kept_by(node: Node, known: Mapping[int, Number]) -> Value | None:
    """The input that a sum is equal to, since everything that is added to it is nothing; None for other nodes."""
    if is_a(node, "Add") and len(known) == 1 and NOTHING in known.values():
        kept = node.inputs[1 - min(known)]
        return kept if kept is not None and kept.shape == node.out.shape else None
    if node in WRITES_INTO and known == {1: EMPTY, 2: EMPTY}:
        kept, added = node.input(0), all(is_a(use.node, "Add") for use in node.out.consumers)
        return None if uniform(kept) == NOTHING and added else kept
    return None
