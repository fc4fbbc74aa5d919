"""Tensor sequences, which unoptimized exports use for `split` and `unbind`.

A sequence of chunks is treated as a tensor with one more, leading axis that numbers the chunks. Chunks of different
sizes are treated as padded to the largest of them; nobody needs the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axis_masks import dtype_of, place, rows
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Symbolic
from onnxheadprune.model.graph.operator import Shapes, is_a
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator
from onnxheadprune.operators.split import join


@dataclass(frozen=True)
class _Chunks:
    """The chunks that a SplitToSequence divides its input into."""

    axis: int  # the axis that is divided
    sizes: tuple[int, ...]  # how long each chunk is on it
    dropped: bool  # whether chunks of size 1 lose the axis
    # of what length `sizes` are multiples, where chunks are as long as a dimension that is not known
    run: Dim = 1

    def numbered(self, axis: int) -> int:
        """The number that an axis of the input has in the sequence, whose first axis numbers the chunks."""
        return axis if self.dropped and axis > self.axis else axis + 1

    def piece(self, live: Live, index: int) -> Live:
        """The live set of one chunk as a part of the input, from that of the sequence."""
        array, axes = live.array, list(live.axes)
        if axes[:1] == [0]:
            array, axes = array[index, ...], axes[1:]
        back = {
            self.numbered(axis): axis for axis in range(max(live.axes, default=0) + 1) if axis != self.axis
        }
        if not self.dropped:
            back[self.axis + 1] = self.axis
            if self.axis + 1 in axes:
                padded = axes.index(self.axis + 1)
                array = array.take(range(self.sizes[index]), axis=padded)
        return Live.over(
            [back[axis] for axis in axes], array, tuple((back[axis], run) for axis, run in live.repeats)
        )


def _chunks_of(node: Node | None) -> _Chunks | None:
    """The division of a node's input into a sequence; None if it makes none, or where numbers are not known."""
    shape = None if node is None or not is_a(node, "SplitToSequence") else node.shape(0)
    if node is None or not shape:
        return None
    axis = node.attribute("axis", 0) % len(shape)
    whole, size = shape[axis], node.input(1)
    if not isinstance(whole, int):
        known = None if size is None or size.elements is None or size.elements.ndim else size.elements.item()
        count = dims.divide(whole, known) if isinstance(known, Symbolic) else None
        return _Chunks(axis, (1,) * count, False, known or 1) if isinstance(count, int) else None
    if node.input(1) is None:
        return _Chunks(axis, (1,) * whole, not node.attribute("keepdims", 1))
    literal = node.literal(1)
    if literal is None:
        return None
    sizes = [int(size) for size in literal.reshape(-1)]
    if not literal.ndim and sizes[0] > 0:
        # The last chunk may be shorter.
        sizes = [min(sizes[0], whole - start) for start in range(0, whole, sizes[0])]
    return _Chunks(axis, tuple(sizes), False) if sum(sizes) == whole and min(sizes, default=0) >= 0 else None


def _sequence_shape(node: Node) -> Shapes:
    chunks, shape = _chunks_of(node), node.shape(0)
    if chunks is None or shape is None or not chunks.sizes:
        return [None]
    inside = () if chunks.dropped else (dims.multiply(chunks.run, max(chunks.sizes)),)
    return [(len(chunks.sizes), *shape[: chunks.axis], *inside, *shape[chunks.axis + 1 :])]


def _split_to_sequence(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The chunks' masks side by side are the mask of the input; chunks without live positions leave the sequence."""
    chunks = _chunks_of(node)
    if chunks is None or node.out.shape is None:
        return unknown_shape(node)
    if chunks.run != 1 and chunks.axis + 1 in lives[0].axes:
        return inexpressible(node)
    pieces = [chunks.piece(lives[0], index) for index in range(len(chunks.sizes))]
    alive = [piece for piece in pieces if not piece.is_dead]
    if len({rows(piece, chunks.axis) for piece in alive}) > 1:
        return inexpressible(node)
    joined = join(pieces, chunks.sizes, chunks.axis, chunks.run)
    if alive and joined.is_dead:
        return inexpressible(node)
    if any(piece.dense_shape() is None for piece in alive):
        return inexpressible(node)
    counts = [
        piece.extent(chunks.axis)[0] if chunks.axis in piece.axes else size
        for piece, size in zip(pieces, chunks.sizes, strict=True)
        if not piece.is_dead
    ]

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        if node.input(1) is None or chunks.run != 1 or counts == list(chunks.sizes):
            return []
        name = f"{node.out.name}/{MARK}_chunks"
        constant = AddConstant(node.scope.ref, name, tuple(counts), dtype=dtype_of(node, 1))
        return [constant, SetInput(node.ref, 1, name)]

    return Answer({0: joined}, rewrite)


def _source(node: Node) -> Node | None:
    """The node that makes the sequence that a node reads."""
    value = node.input(0)
    return None if value is None else value.producer


def _position(node: Node, count: int) -> int | None:
    """The index of the chunk that a node takes, None where it is computed."""
    literal = node.literal(1)
    if literal is None or not -count <= (number := int(literal.reshape(-1)[0])) < count:
        return None
    return number % count


def _at_shape(node: Node) -> Shapes:
    shape, chunks = node.shape(0), _chunks_of(_source(node))
    if shape is None or chunks is None:
        return [None]
    position = _position(node, len(chunks.sizes))
    sizes = set(chunks.sizes if position is None else chunks.sizes[position : position + 1])
    if len(sizes) > 1:
        return [None]
    inside = list(shape[1:])
    if not chunks.dropped:
        inside[chunks.axis] = dims.multiply(chunks.run, sizes.pop())
    return [tuple(inside)]


def _sequence_at(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """One chunk is one index of the leading axis; a position that is computed may be any of them."""
    shape, chunks = node.shape(0), _chunks_of(_source(node))
    if shape is None or chunks is None or node.out.shape is None:
        return unknown_shape(node)
    inside = lives[0].renumbered({axis: axis + 1 for axis in lives[0].axes})
    count = len(chunks.sizes)
    position = _position(node, count)
    if position is None:
        # The number is not known, so that no chunk may leave the sequence.
        return Answer({0: inside}, selects=frozenset({0}), accepts=lambda have: have == inside.as_mask())
    picked = {0: (np.array([position]), count)}
    if chunks.axis + 1 in inside.axes and not chunks.dropped and chunks.run == 1:
        # The padding of a chunk that is shorter than others.
        picked[chunks.axis + 1] = (np.arange(chunks.sizes[position]), max(chunks.sizes))
    back, others = place(inside, picked), place(FULL, {0: picked[0]})

    def rewrite(kept: Mapping[int, Live]) -> Sequence[Edit]:
        left = kept[0].only([0]).aligned([0], [count])
        rank = int(np.count_nonzero(left[:position]))
        if node.literal(1) in (rank, rank - np.count_nonzero(left)):
            return []
        name = f"{node.out.name}/{MARK}_position"
        constant = AddConstant(node.scope.ref, name, (rank,), scalar=True, dtype=dtype_of(node, 1))
        return [constant, SetInput(node.ref, 1, name)]

    return Answer(
        {0: back}, rewrite, selects=frozenset({0}), accepts=lambda have: (have & others) == back.as_mask()
    )


operator("SequenceAt", shape=_at_shape, rule=_sequence_at, ragged=True, repeats=True)
operator("SplitToSequence", shape=_sequence_shape, rule=_split_to_sequence, ragged=True, repeats=True)
