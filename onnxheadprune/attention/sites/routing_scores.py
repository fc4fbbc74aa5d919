"""Scores of experts on their way: which operators leave their axis as it is, and what stands where an expert is out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.readers import carried
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.model.graph.facts import (
    ADDS,
    CARRIERS,
    CASTS,
    DIVIDES,
    EXPANDS,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    GATHERS_ROWS,
    JOINS,
    MULTIPLIES,
    SLICES,
    SPLITS,
    SUBTRACTS,
    SUMS,
    TILES,
    VANISHES,
    VIEWS,
)
from onnxheadprune.model.graph.view import Node

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
MOVES = VIEWS | FLATTENS | CASTS | EXPANDS | TILES | SLICES | SPLITS | JOINS
"""Operators behind which numbers of experts are the same numbers."""
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
    moved = live.renumbered({axis: axis + len(shape) - len(source) for axis in live.axes})
    half = Live.over(moved.axes, moved.array % 2 == 0)
    answer = ask(node, [half, *(FULL for _ in node.outputs[1:])], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(index) != Live.over(live.axes, live.array % 2 == 0):
        return None
    return moved


def is_moved(node: Node, named: Sequence[int]) -> bool:
    """Return whether numbers of experts are the same numbers behind a node that reads them at some inputs."""
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
