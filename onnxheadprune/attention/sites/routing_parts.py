"""The values of one expert that is a network of its own: its router weights, its tokens, and its outputs for these.

Where a router keeps the expert out, its share is zero for every token, or its list of tokens is empty. Both travel
forward until what they are is added to what other experts give. There the expert ends: without it, the sum is what is
added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxheadprune.attention.sites.routing_scores import NOTHING, PICKS, UNCHANGED, Scores
from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.model.graph.facts import (
    ACTIVATES,
    ADDS,
    CHOOSES_ELEMENTS,
    DIVIDES,
    ELEMENTWISE,
    FINDS_NONZERO,
    GATHERS,
    JOINS,
    MULTIPLIES,
    NORMALIZES,
    QUANTIZERS,
    SLICES,
    SPLITS,
    SUMS,
    WRITES_INTO,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import uniform

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
