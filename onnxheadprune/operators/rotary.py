"""Rotary embeddings: they rotate within heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.edit.gradients import Constant, Step, decomposition
from onnxheadprune.edit.terms import Term
from onnxheadprune.liveness.live import Live, unite
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.facts import STANDS_FOR_PATTERN
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, shape_function
from onnxheadprune.model.graph.view import Node

STANDS_FOR_PATTERN.add("RotaryEmbedding")
ROLES.add(("RotaryEmbedding", "MRotaryEmbedding"), "com.microsoft", Roles(alike=(0,)))


@shape_function("RotaryEmbedding")
@shape_function("RotaryEmbedding", "MRotaryEmbedding", domain="com.microsoft")
def _rotary_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule("RotaryEmbedding")
def rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
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
def microsoft_rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's spelling, also with positions in several directions."""
    if node.attribute("num_heads", 0) or len(node.shape(0) or ()) == 4:
        return rotary(node, lives)
    size = node.shape(2)
    shape = node.shape(0)
    if size is None or shape is None or not isinstance(size[-1], int) or lives[0].axes != (2,):
        return inexpressible(node)
    # Without num_heads the head size is twice the width of the cosine table.
    array = lives[0].array.reshape(-1, 2 * size[-1])
    whole = not np.any((array != 0) != (array[:, :1] != 0))
    return Answer({0: lives[0]}) if whole else inexpressible(node)


@dataclass(frozen=True)
class Rotation:
    """By which angles features are turned.

    Attributes:
        cos, sin: one row per position, or per token if `positions` is None.
        positions: of the tokens, [B, S] or [1, S].
        interleaved: whether neighbours are turned together, else halves.
        size: how many features are turned; None for twice the width of the rows.
    """

    cos: Term
    sin: Term
    positions: Term | None
    interleaved: bool
    size: int | None = None


def rotated(x: Term, rotation: Rotation) -> Term:
    """Queries or keys [B, H, S, D], turned."""
    rows = (rotation.cos, rotation.sin)
    if rotation.positions is not None:
        rows = (
            rows[0].op("Gather", rotation.positions, axis=0),
            rows[1].op("Gather", rotation.positions, axis=0),
        )
    cos, sin = (row.unsqueeze([1]) for row in rows)
    half, size = cos.dim(3), cos.dim(3) * 2
    zero, end, last = (x.writer.integers([number]) for number in (0, 2**62, 3))
    turned = x.op("Slice", zero, size, last)
    if rotation.interleaved:
        pairs = turned.reshape(
            x.writer.joined([x.shape().op("Slice", zero, last), half, x.writer.integers([2])])
        )
        first, second = (pairs.op("Gather", x.writer.number(i, TensorProto.INT64), axis=-1) for i in (0, 1))
        parts = [first * cos - second * sin, first * sin + second * cos]
        whole = x.writer.joined([part.unsqueeze([4]) for part in parts], axis=4).reshape(turned.shape())
    else:
        first, second = turned.op("Slice", zero, half, last), turned.op("Slice", half, end, last)
        whole = x.writer.joined([first * cos - second * sin, first * sin + second * cos], axis=3)
    return (
        whole if rotation.size is None else x.writer.joined([whole, x.op("Slice", size, end, last)], axis=3)
    )


@decomposition("RotaryEmbedding")
def rotary_parts(step: Step) -> list[Term | None] | Constant:
    """The standard operator: without positions the rows belong to the tokens."""
    return _parts(
        step, Rotation(step.input(1), step.input(2), step.given(3), _interleaved(step), _part(step))
    )


@decomposition("RotaryEmbedding", domain="com.microsoft")
def microsoft_rotary_parts(step: Step) -> list[Term | None] | Constant:
    """ONNX Runtime's spelling; one position is that of the first token."""
    if step.node.attribute("is_packed_batching", 0) or step.node.attribute("scale", 1.0) != 1.0:
        return Constant("rotates packed or scaled")
    ids, shape = step.input(1), step.shape(0)
    if len(step.shape(1)) == 1:
        length = step.input(0).dim(2 if len(shape) == 4 else 1).squeeze([0])
        number = step.writer.number
        steps = number(0, TensorProto.INT64).op("Range", length, number(1, TensorProto.INT64))
        ids = (ids + steps).unsqueeze([0])
    return _parts(step, Rotation(step.input(2), step.input(3), ids, _interleaved(step), _part(step)))


def _interleaved(step: Step) -> bool:
    return bool(step.node.attribute("interleaved", 0))


def _part(step: Step) -> int | None:
    return step.node.attribute("rotary_embedding_dim", 0) or None


def _parts(step: Step, rotation: Rotation) -> list[Term | None]:
    x, shape = step.input(0), step.shape(0)
    if len(shape) == 4:
        return [rotated(x, rotation)]
    heads = int(step.node.attribute("num_heads", 0))
    if not heads:
        width = rotation.cos.dim(len(step.shape(1 if step.node.domain == "" else 2)) - 1) * 2
        target = x.writer.joined([x.writer.integers([0, 0, -1]), width])
        return [heads_back(rotated(x.reshape(target).transpose([0, 2, 1, 3]), rotation), x)]
    return [heads_back(rotated(x.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]), rotation), x)]


def heads_back(term: Term, like: Term) -> Term:
    """[B, H, S, D] in the shape of [B, S, H * D]."""
    return term.transpose([0, 2, 1, 3]).reshape(like.shape())
