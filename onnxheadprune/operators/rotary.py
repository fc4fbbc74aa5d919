"""Rotary embeddings: they rotate within heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.live import Live, unite
from onnxheadprune.liveness.registry import Answer, Refusal, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.facts import STANDS_FOR_PATTERN
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("RotaryEmbedding", kinds=(STANDS_FOR_PATTERN,))
declare("RotaryEmbedding", "MRotaryEmbedding", domain="com.microsoft", roles=Roles(alike=(0,)))


@shape_function("RotaryEmbedding")
@shape_function("RotaryEmbedding", "MRotaryEmbedding", domain="com.microsoft")
def _rotary_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule("RotaryEmbedding")
def _rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Rotates within heads; cos, sin and positions are shared by all of them."""
    live, shape = lives[0], node.shape(0)
    if shape is None:
        return unknown_shape(node)
    heads = node.attribute("num_heads", 0)
    if len(shape) == 4:
        return Answer({0: live}) if live.axes in ((1,), ()) else inexpressible(node)
    width = shape[2]
    if live.axes != (2,) or not isinstance(width, int) or not heads or width % heads:
        return inexpressible(node)
    array = live.array.reshape(heads, width // heads)
    if np.any((array != 0) != (array[:, :1] != 0)):
        return inexpressible(node)
    count = int(np.count_nonzero(unite(array, 1)))
    changed: list[Edit] = [] if count == heads else [SetAttribute(node.ref, "num_heads", count)]
    return Answer({0: live}, lambda _: changed)


@rule("RotaryEmbedding", "MRotaryEmbedding", domain="com.microsoft")
def _microsoft_rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's spelling, also with positions in several directions."""
    if node.attribute("num_heads", 0) or len(node.shape(0) or ()) == 4:
        return _rotary(node, lives)
    size = node.shape(2)
    shape = node.shape(0)
    if size is None or shape is None or not isinstance(size[-1], int) or lives[0].axes != (2,):
        return inexpressible(node)
    # Without num_heads the head size is twice the width of the cosine table.
    array = lives[0].array.reshape(-1, 2 * size[-1])
    whole = not np.any((array != 0) != (array[:, :1] != 0))
    return Answer({0: lives[0]}) if whole else inexpressible(node)
