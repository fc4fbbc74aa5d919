"""Values that a router's choice runs through: the scores of all experts, and the values of single experts.

A single expert that is a network of its own has router weights, tokens, and outputs for these.

Where a router keeps the expert out, its share is zero for every token, or its list of tokens is empty. Both travel
forward until what they are is added to what other experts give. There the expert ends: without it, the sum is what is
added to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.readers import carried, moved_axes
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS,
    CARRIERS,
    CASTS,
    CHOOSES_ELEMENTS,
    DIVIDES,
    ELEMENTWISE,
    EXPANDS,
    FINDS_NONZERO,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    GATHERS_ROWS,
    JOINS,
    MULTIPLIES,
    NORMALIZES,
    QUANTIZERS,
    SLICES,
    SPLITS,
    SUBTRACTS,
    SUMS,
    TILES,
    VANISHES,
    VIEWS,
    WRITES_INTO,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import uniform

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
MOVES = VIEWS | FLATTENS | CASTS | EXPANDS | TILES | SLICES | SPLITS | JOINS
"""Operators after which numbers of experts are the same numbers."""
UNCHANGED = CARRIERS | EXPANDS | TILES | SLICES | SPLITS | JOINS
PICKS = GATHERS | GATHERS_ELEMENTS | GATHERS_ROWS
MATRIX = 2
"""Axes of a matrix; experts of matrices have one more."""
NOTHING, NEVER = 0.0, -np.inf
"""The values at an expert that is out: of router weights, and of the scores that are compared."""


@dataclass(frozen=True)
class Scores:
    """A value with an axis of experts.

    Attributes:
        live: per position the number of its expert, from 1 on; larger numbers for positions that always stay.
        out: what stands at an expert whose score is minus infinity, None where that is not known.
    """

    live: Live
    out: float | None


def axis_of(node: Node, rank: int, default: int = 0) -> int:
    """The axis that a node works along."""
    return int(node.attribute("axis", default)) % max(rank, 1)


def in_order(live: Live, experts: int) -> bool:
    """Return whether positions are numbered as experts are."""
    return np.array_equal(live.array, np.arange(1, experts + 1))


def behind(node: Node, index: int, live: Live) -> Live | None:
    """The labels of a node's output, as far as its rule lets the axis of experts through."""
    shape, source = node.out.shape, node.shape(index)
    if shape is None or source is None:
        return None
    if node in CARRIERS and index == 0:
        return carried(node, live)
    moved = moved_axes(node, index)
    if not moved.keys() >= set(live.axes):
        return None
    found = live.renumbered(moved)
    half, wanted = (Live.over(item.axes, item.array % 2 == 0) for item in (found, live))
    answer = ask(node, [half, *(FULL for _ in node.outputs[1:])], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(index) != wanted:
        return None
    return found


def is_moved(node: Node, named: Sequence[int]) -> bool:
    """Return whether numbers of experts are the same numbers after a node that reads them at some inputs."""
    if node not in MOVES:
        return node in GATHERS | GATHERS_ELEMENTS and list(named) == [0]
    if node in CASTS and node.out.elem_type not in INTEGERS:
        return False
    return len(named) == len(node.inputs) if node in JOINS else list(named) == [0]


def out_behind(node: Node, scored: Mapping[int, Scores]) -> float | None:
    """The output of a node at an expert that is out."""
    known = [item.out for item in scored.values()]
    if len(known) > 1:
        is_nothing = NOTHING in known if node in MULTIPLIES else node in ADDS and {*known} == {NOTHING}
        return NOTHING if is_nothing else None
    first, number = next(iter(scored)), known[0]
    if node in VANISHES:
        return NOTHING if number == NEVER else None
    if node in MULTIPLIES | SUMS or (node in DIVIDES and first == 0):
        return number if number == NOTHING else None
    if node in ADDS | SUBTRACTS:
        return number if first == 0 and number == NEVER else None
    return number if node in UNCHANGED else None


BY_ELEMENT = ELEMENTWISE | ACTIVATES | NORMALIZES | QUANTIZERS | UNCHANGED
"""Operators that give nothing for no tokens."""


@dataclass(frozen=True)
class Part:
    """A value of one expert.

    Attributes:
        expert: its number.
        rows: whether it is empty where the expert is out; else it is zero.
    """

    expert: int
    rows: bool = False


@dataclass(frozen=True, eq=False)
class End:
    """A node that adds what an expert gives to something else.

    Attributes:
        expert: its number.
        node: the node.
        indices: inputs that are the expert's.
        kept: what the sum is without it.
    """

    expert: int
    node: Node
    indices: tuple[int, ...]
    kept: Value


def picked_apart(node: Node, scores: Scores) -> dict[Value, int] | None:
    """The outputs of a node that picks from an axis of experts, each with its only expert; None if that is not so."""
    if node not in GATHERS | SLICES | SPLITS or scores.out != NOTHING or len(scores.live.axes) != 1:
        return None
    (axis,), found = scores.live.axes, dict[Value, int]()
    for value in node.outputs:
        if value is None or not value.is_read:
            continue
        answer = ask(node, [FULL if other is value else DEAD for other in node.outputs], MASKS)
        picked = None if isinstance(answer, Refusal) else answer.inputs.get(0, FULL)
        if picked is None or picked.axes != (axis,):
            return None
        labels = scores.live.array[picked.mask]
        if len(labels) != 1:
            return None
        found[value] = int(labels[0]) - 1
    return found


def onward(node: Node, parts: Mapping[int, Part]) -> Part | End | None:
    """Follow an expert's values, by input index, through a node; None where the output is not known."""
    experts = {part.expert for part in parts.values()}
    if len(experts) > 1:
        return None
    expert = experts.pop()
    if any(part.rows for part in parts.values()):
        return _of_rows(node, expert, parts)
    return _of_share(node, expert, set(parts))


def _of_share(node: Node, expert: int, indices: set[int]) -> Part | End | None:
    """Follow router weights that are zero where the expert is out."""
    if node in FINDS_NONZERO:
        return Part(expert, rows=True)
    if node in ADDS:
        return _added(node, expert, indices)
    product = contraction_of(node)
    bias = roles_of(node).bias
    vanishes = (
        node in MULTIPLIES
        or (node in DIVIDES and indices == {0})
        or (node in CHOOSES_ELEMENTS and _chooses_nothing(node, indices))
        or (node in UNCHANGED | SUMS and _reads_all(node, indices))
        or (
            product is not None
            and bool(indices & set(product.indices))
            and (bias is None or not node.input(bias))
        )
    )
    return Part(expert) if vanishes else None


def _added(node: Node, expert: int, indices: set[int]) -> Part | End | None:
    others = [value for index, value in enumerate(node.inputs) if index not in indices]
    if not others:
        return Part(expert)
    kept = others[0]
    return None if kept is None or kept.shape != node.out.shape else End(expert, node, tuple(indices), kept)


def _chooses_nothing(node: Node, indices: set[int]) -> bool:
    """Return whether an element that is chosen by zeros, or among zeros, is zero."""
    nothing = [index in indices or uniform(node.input(index)) == NOTHING for index in (1, 2)]
    return nothing[1] if 0 in indices else all(nothing)


def _reads_all(node: Node, indices: set[int]) -> bool:
    return len(indices) == len(node.inputs) if node in JOINS else indices == {0}


def _of_rows(node: Node, expert: int, parts: Mapping[int, Part]) -> Part | End | None:
    """Follow a list of tokens that is empty where the expert is out, or values computed for these tokens."""
    indices = {index for index, part in parts.items() if part.rows}
    if indices != set(parts):
        return None
    if node in WRITES_INTO:
        kept = node.input(0)
        if kept is None or indices != {1, 2}:
            return None
        added = all(use.node in ADDS for use in node.out.consumers)
        if uniform(kept) == NOTHING and added:
            return Part(expert)
        return End(expert, node, (1, 2), kept)
    if node in PICKS:
        return Part(expert, rows=True)
    product = contraction_of(node)
    if product is not None:
        return Part(expert, rows=True) if _keeps_rows(node, indices) else None
    whole = node in UNCHANGED and not _reads_all(node, indices)
    return Part(expert, rows=True) if node in BY_ELEMENT and not whole else None


def _keeps_rows(node: Node, indices: set[int]) -> bool:
    """Return whether a product has a row for each token: what it sums over is no list of tokens."""
    product = contraction_of(node)
    if product is None or len(indices) > 1 or not indices <= set(product.indices):
        return False
    index = next(iter(indices))
    shape, letters = node.shape(index) or (), product.axes_of(index)
    summed = [dim for dim, letter in zip(shape, letters, strict=True) if letter in product.contracted]
    return bool(shape) and all(isinstance(dim, int) and dim > 0 for dim in summed)
