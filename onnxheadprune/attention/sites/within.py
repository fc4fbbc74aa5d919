"""Labels where weights mix values within heads, before a later projection sums over the heads."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Set

import numpy as np

from onnxheadprune.attention.sites.evidence import without_blind
from onnxheadprune.attention.sites.products import is_weight
from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.contraction import Contraction, contraction_of
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.model.graph.view import Node

Classes = Mapping[int, frozenset[int]]
"""For each new label the old ones that it stands for."""
MAX_POSITIONS = 2**20
"""Positions of one head axis and one summed axis; more are no heads."""


def within_heads(
    node: Node, index: int, live: Live, shared: Container[int] = ()
) -> tuple[Live, Classes] | None:
    """How labels go on where weights mix values within heads, None if that is not what the node does.

    Latent attention lifts each head's context by weights of its own before the output projection: of the
    labelled axes some enumerate heads in both operands, others lie in the weights alone. The summed axis
    takes the place of those. So it does where one layer serves all heads: these lie along axes that the weights lack.

    Args:
        node: a contraction.
        index: of the input that labels go on to.
        live: the labels of its output.
        shared: axes of that input along which heads lie that the node treats alike.
    """
    found, source = contraction_of(node), node.input(index)
    if found is None or source is None or source.shape is None or len(found.terms) != 2:
        return None
    own = [other for other in found.indices if other != index]
    stored = len(own) == 1 and (value := node.input(own[0])) is not None and is_weight(value)
    if not stored:
        return None
    # Positions that are cut off tell nothing; of heads with weights of their own the one that is left does.
    live = without_blind(live, [axis for axis in live.axes if found.out_axes[axis] not in found.batch])
    letters, labelled = found.axes_of(index), {found.out_axes[axis] for axis in live.axes}
    if not _lies_along(found, labelled, index, shared):
        return None
    summed = {axis: source.shape[axis] for axis, letter in enumerate(letters) if letter in found.contracted}
    heads = _label_sets(node, index, live)
    sizes = {axis: heads.period(axis) for axis in heads.axes}
    sizes |= {axis: size for axis, size in summed.items() if isinstance(size, int)}
    if not summed.keys() <= sizes.keys() or math.prod(sizes.values()) > MAX_POSITIONS:
        return None
    axes = sorted(sizes)
    # Heads first, wherever they lie: of two axes they are the slower one.
    order = sorted(axes, key=lambda axis: axis in summed)
    alike = (
        heads.aligned(axes, [sizes[axis] for axis in axes])
        .transpose([axes.index(axis) for axis in order])
        .reshape(-1)
    )
    fresh = np.arange(1, alike.size + 1).reshape([sizes[axis] for axis in order])
    told = {int(bits): _members(int(bits)) for bits in heads.array.reshape(-1)}
    classes = {label: told[int(bits)] for label, bits in enumerate(alike, start=1)}
    return Live.over(order, fresh), classes


def _lies_along(found: Contraction, labelled: Set[str], index: int, shared: Container[int]) -> bool:
    """Return whether the labelled letters enumerate heads, also where only the weights have them."""
    alone = {letter for letter in labelled - found.batch if index in found.owners(letter)}
    if not shared:
        # Tokens that share their weights (a feed-forward block before a classifier of all tokens) are no heads.
        return bool(labelled & found.batch) and not alone
    axes = {letter: axis for axis, letter in enumerate(found.axes_of(index))}
    return not alone or any(axes[letter] in shared for letter in alone)


def _label_sets(node: Node, index: int, live: Live) -> Live:
    """What the law makes of labels that are sets: label `n` is bit `n - 1`, no label is the empty set."""
    bits = np.array([_bit(int(label)) for label in live.array.reshape(-1)], dtype=object)
    answer = ask(node, [Live.over(live.axes, bits.reshape(live.array.shape), live.runs)], Labels())
    found = FULL if isinstance(answer, Refusal) else answer.inputs.get(index, FULL)
    # What lies in the weights alone says of all of the other operand that everybody reads it.
    return Live((), np.asarray(np.bitwise_or.reduce(bits), dtype=object)) if found.is_mask else found


def _bit(label: int) -> int:
    return 0 if label == 0 else 1 << (label - 1)


def _members(bits: int) -> frozenset[int]:
    return frozenset(label for label in range(1, bits.bit_length() + 1) if bits & _bit(label))
