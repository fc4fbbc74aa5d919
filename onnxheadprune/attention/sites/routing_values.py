"""Values that a router's choice runs through: the scores of all experts, and the values of single experts.

A single expert that is a network of its own has router weights, tokens, and outputs for these.

Where a router keeps the expert out, its share is zero for every token, or its list of tokens is empty. Both travel
forward until what they are is added to what other experts give. There the expert ends: without it, the sum is what is
added to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.liveness.carriers import carried, moved_axes, on_all_outputs
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    CARRIERS,
    ELEMENTWISE,
    KEEPS_ZEROS,
    NORMALIZES,
    QUANTIZERS,
    VIEWS,
    WRITES_INTO,
    is_a,
    kind,
)
from onnxheadprune.model.graph.scalars import uniform
from onnxheadprune.model.graph.view import Node, Value

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
MOVES = VIEWS | kind("Flatten", "Cast", "Expand", "Tile", "Slice", "Split", "Concat")
"""Operators after which numbers of experts are the same numbers."""
UNCHANGED = CARRIERS | kind("Flatten", "Expand", "Tile", "Slice", "Split", "Concat")
PICKS = kind("Gather", "GatherElements", "GatherND")
MATRIX = 2
"""Axes of a matrix; experts of matrices have one more."""
NOTHING, NEVER = 0.0, -np.inf
"""The values at an expert that is out: of router weights, and of the scores that are compared."""


@dataclass(frozen=True)
class ExpertScores:
    """A value with an axis of experts."""

    # per position the number of its expert, from 1 on; larger numbers for positions that always stay
    live: Live
    out: float | None  # what stands at an expert whose score is minus infinity, None where that is not known


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
    if node in CARRIERS | kind("Flatten") and index == 0:
        return carried(node, live)
    moved = moved_axes(node, index)
    if not moved.keys() >= set(live.axes):
        return None
    found = live.renumbered(moved)
    half, wanted = (Live.over(item.axes, item.array % 2 == 0) for item in (found, live))
    answer = ask(node, on_all_outputs(node, half), MASKS)
    # A Slice of another axis reads a part of that.
    read = FULL if isinstance(answer, Refusal) else answer.inputs.get(index, FULL)
    return found if read.only(live.axes) == wanted else None


def is_moved(node: Node, named: Sequence[int]) -> bool:
    """Return whether numbers of experts are the same numbers after a node that reads them at some inputs."""
    if node not in MOVES:
        return is_a(node, "Gather", "GatherElements") and list(named) == [0]
    if is_a(node, "Cast") and node.out.elem_type not in INTEGERS:
        return False
    return len(named) == len(node.inputs) if is_a(node, "Concat") else list(named) == [0]


def number_behind(node: Node, known: Mapping[int, float | None]) -> float | None:
    """The first output of a node at an expert that is out.

    Args:
        known: the numbers that some of its inputs hold there, None where that is not known.
    """
    product = contraction_of(node)
    if is_a(node, "Mul") or product is not None:
        if not any(
            known.get(index) == NOTHING for index in (product.indices if product is not None else known)
        ):
            return None if product is not None else _computed(node, known)
        bias = node.roles.bias
        return (
            NOTHING if bias is None or uniform(node.input(bias)) == NOTHING or not node.input(bias) else None
        )
    if is_a(node, "Div") and known.get(0) == NOTHING:
        return NOTHING
    if (is_a(node, "Add") and NEVER in known.values()) or (is_a(node, "Sub") and known == {0: NEVER}):
        return NEVER
    if is_a(node, "Concat"):
        numbers = set(_numbers(node, known))
        return numbers.pop() if len(numbers) == 1 else None
    if node in UNCHANGED | PICKS:
        return known.get(0)
    if node in KEEPS_ZEROS | kind("CumSum") or node.choice is not None:
        return NOTHING if known.get(0) == NOTHING else None
    return _computed(node, known)


def _numbers(node: Node, known: Mapping[int, float | None]) -> list[float | None]:
    return [known[index] if index in known else uniform(value) for index, value in enumerate(node.inputs)]


def _computed(node: Node, known: Mapping[int, float | None]) -> float | None:
    function, numbers = node.operator.number, _numbers(node, known)
    try:
        number = None if function is None else function(node, numbers)
    except (ArithmeticError, ValueError):
        return None
    return None if number is None or math.isnan(number) else number


BY_ELEMENT = ELEMENTWISE | ACTIVATES | NORMALIZES | QUANTIZERS | UNCHANGED
"""Operators that give nothing for no tokens."""


@dataclass(frozen=True)
class Part:
    """A value of one expert, or the sum of those of several."""

    experts: frozenset[int]  # their numbers
    rows: bool = False  # whether it is empty where they are out
    out: float | None = NOTHING  # else the number that it holds there; None where that is some constant


@dataclass(frozen=True, eq=False)
class End:
    """A node that adds what an expert, or the sum of several, gives to something else."""

    experts: frozenset[int]  # their numbers
    node: Node
    indices: tuple[int, ...]  # inputs that are theirs
    kept: Value  # what the sum is without them


def picked_apart(node: Node, scores: ExpertScores) -> dict[Value, int] | None:
    """The outputs of a node that picks from an axis of experts, each with its only expert; None if that is not so."""
    if not is_a(node, "Gather", "Slice", "Split") or scores.out != NOTHING or len(scores.live.axes) != 1:
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


def onward(node: Node, parts: Mapping[int, Part]) -> tuple[Part | None, Sequence[End]] | None:
    """Follow values of experts, by input index, through a node.

    What its outputs are, and where experts end; None where that is not known.
    """
    sets = {part.experts for part in parts.values()}
    if len(sets) > 1:
        return _of_several(node, parts)
    is_list = any(part.rows for part in parts.values())
    made = (_of_rows if is_list else _of_share)(node, sets.pop(), parts)
    if made is None:
        return None
    return (made, ()) if isinstance(made, Part) else (None, made)


def _of_share(node: Node, experts: frozenset[int], parts: Mapping[int, Part]) -> Part | list[End] | None:
    """Follow router weights that are zero where the experts are out, and what is computed from them."""
    numbers = {index: part.out for index, part in parts.items()}
    is_nothing = set(numbers.values()) == {NOTHING}
    if is_a(node, "NonZero"):
        return Part(experts, rows=True) if is_nothing else None
    if is_a(node, "Add") and len(parts) == 1 and is_nothing:
        return _added(node, experts, min(parts))
    out = None if node.choice is not None else number_behind(node, numbers)
    if out is not None:
        return Part(experts, out=out)
    others = [value for index, value in enumerate(node.inputs) if index not in parts and value is not None]
    computes = contraction_of(node) is not None or node in BY_ELEMENT
    return Part(experts, out=None) if computes and all(value.is_constant for value in others) else None


def _added(node: Node, experts: frozenset[int], index: int) -> Part | list[End] | None:
    kept = node.inputs[1 - index]
    if kept is not None and kept.shape == node.out.shape:
        return [End(experts, node, (index,), kept)]
    if uniform(kept) == NOTHING:
        return Part(experts)
    return Part(experts, out=None) if kept is not None and kept.is_constant else None


def _of_several(node: Node, parts: Mapping[int, Part]) -> tuple[Part, list[End]] | None:
    """Follow what several experts give through their sum: each of both is what is left without the other."""
    values = node.inputs
    if (
        not is_a(node, "Add")
        or len(parts) != 2
        or any(part.rows or part.out != NOTHING for part in parts.values())
    ):
        return None
    if any(value is None or value.shape != node.out.shape for value in values):
        return None
    ends = [
        End(part.experts, node, (index,), value)
        for index, part in parts.items()
        if (value := values[1 - index]) is not None
    ]
    return Part(frozenset().union(*(part.experts for part in parts.values()))), ends


def _of_rows(node: Node, experts: frozenset[int], parts: Mapping[int, Part]) -> Part | list[End] | None:
    """Follow a list of tokens that is empty where the experts are out, or values computed for these tokens."""
    indices = {index for index, part in parts.items() if part.rows}
    if node in PICKS:
        return Part(experts, rows=True)
    if indices != parts.keys():
        return None
    if node in WRITES_INTO:
        kept = node.input(0)
        if kept is None or indices != {1, 2}:
            return None
        added = all(is_a(use.node, "Add") for use in node.out.consumers)
        return Part(experts) if uniform(kept) == NOTHING and added else [End(experts, node, (1, 2), kept)]
    if contraction_of(node) is not None:
        return Part(experts, rows=True) if _keeps_rows(node, indices) else None
    # Pieces that are joined are empty where all are, and views where what they read is.
    whole = (
        len(indices) < len(node.inputs) if is_a(node, "Concat") else node in UNCHANGED and 0 not in indices
    )
    return Part(experts, rows=True) if node in BY_ELEMENT and not whole else None


def _keeps_rows(node: Node, indices: set[int]) -> bool:
    """Return whether a product has a row for each token: what it sums over is no list of tokens."""
    product = contraction_of(node)
    if product is None or len(indices) > 1 or not indices <= set(product.indices):
        return False
    index = next(iter(indices))
    shape, letters = node.shape(index) or (), product.axes_of(index)
    summed = [dim for dim, letter in zip(shape, letters, strict=True) if letter in product.contracted]
    return bool(shape) and all(isinstance(dim, int) and dim > 0 for dim in summed)
