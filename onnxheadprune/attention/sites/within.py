"""Labels where weights mix values within heads, before a later projection sums over the heads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from onnxheadprune.attention.sites.products import is_weight
from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.contraction import CONVOLUTIONS, contraction_of
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.graph.view import Node

Classes = Mapping[int, frozenset[int]]
"""For each new label the old ones that it stands for."""
MAX_POSITIONS = 2**20
"""Positions of one head axis and one summed axis; more are no heads."""


def within_heads(node: Node, index: int, live: Live) -> tuple[Live, Classes] | None:
    """How labels go on where weights mix values within heads, None if that is not what the node does.

    Latent attention lifts each head's context by weights of its own before the output projection: of the
    labelled axes some enumerate heads in both operands, others lie in the weights alone. The summed axis
    takes the place of those.
    """
    found, source = contraction_of(node), node.input(index)
    if found is None or source is None or source.shape is None or len(found.terms) != 2:
        return None
    own = [other for other in found.indices if other != index]
    stored = len(own) == 1 and (value := node.input(own[0])) is not None and is_weight(value)
    if not stored or CONVOLUTIONS.of(node) is not None:
        return None
    # Tokens that share their weights (a feed-forward block before a classifier of all tokens) are no heads.
    labelled = {found.out_axes[axis] for axis in live.axes}
    if not labelled & found.batch or any(index in found.owners(letter) for letter in labelled - found.batch):
        return None
    letters = found.axes_of(index)
    summed = {axis: source.shape[axis] for axis, letter in enumerate(letters) if letter in found.contracted}
    heads = _label_sets(node, index, live)
    sizes = {axis: heads.period(axis) for axis in heads.axes}
    sizes |= {axis: size for axis, size in summed.items() if isinstance(size, int)}
    if not summed.keys() <= sizes.keys() or math.prod(sizes.values()) > MAX_POSITIONS:
        return None
    axes = sorted(sizes)
    alike = heads.aligned(axes, [sizes[axis] for axis in axes]).reshape(-1)
    fresh = np.arange(1, alike.size + 1).reshape([sizes[axis] for axis in axes])
    told = {int(bits): _members(int(bits)) for bits in heads.array.reshape(-1)}
    classes = {label: told[int(bits)] for label, bits in enumerate(alike, start=1)}
    return Live.over(axes, fresh), classes


def _label_sets(node: Node, index: int, live: Live) -> Live:
    """What the law makes of labels that are sets: label `n` is bit `n - 1`, no label is the empty set."""
    bits = np.array([_bit(int(label)) for label in live.array.reshape(-1)], dtype=object)
    answer = ask(node, [Live.over(live.axes, bits.reshape(live.array.shape))], Labels())
    return FULL if isinstance(answer, Refusal) else answer.inputs[index]


def _bit(label: int) -> int:
    return 0 if label == 0 else 1 << (label - 1)


def _members(bits: int) -> frozenset[int]:
    return frozenset(label for label in range(1, bits.bit_length() + 1) if bits & _bit(label))
