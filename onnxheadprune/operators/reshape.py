"""View operators: the same elements under other axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.axes import broadcast_back, reshape_back
from onnxheadprune.liveness.literals import target_literals
from onnxheadprune.liveness.live import FULL, Array, Live, unite
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.dims import product
from onnxheadprune.model.graph.view import Node


@rule("Reshape", ragged=True)
def reshape(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live indices are flattened and split anew inside each group of axes; the target gets literals."""
    live, in_shape, out_shape = lives[0], node.shape(0), node.out.shape
    if in_shape is None or out_shape is None:
        return unknown_shape(node)
    back = reshape_back(live, in_shape, out_shape)
    copied = None if back is None else _copied(node, back, live)
    if back is None or copied is None:
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, live, copied=copied)

    return Answer({0: back}, rewrite)


def _copied(node: Node, back: Live, live: Live) -> dict[int, int] | None:
    """Sizes that a 0 in the target takes from input axes that get narrower; None if one has no number.

    Where input and output axis get narrower alike (`batch * heads`), what is copied is right by itself.
    """
    target, in_shape, out_shape = node.input(1), node.shape(0), node.out.shape
    if target is None or target.elements is None or node.attribute("allowzero", 0):
        return {}
    assert in_shape is not None
    assert out_shape is not None
    copied: dict[int, int] = {}
    for axis, element in enumerate(target.elements.reshape(-1)):
        if element == 0 and axis in back.axes:
            size = live.narrow(out_shape[axis], axis)
            if isinstance(size, int):
                copied[axis] = size
            elif size != back.narrow(in_shape[axis], axis):
                return None
    return copied


@rule("Flatten", ragged=True)
def flatten(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A Reshape whose target is computed by the operator itself."""
    in_shape = node.shape(0)
    if in_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 1)
    axis = axis + len(in_shape) if axis < 0 else axis
    back = reshape_back(lives[0], in_shape, (product(in_shape[:axis]), product(in_shape[axis:])))
    return inexpressible(node) if back is None else Answer({0: back})


@rule("Transpose", ragged=True)
def transpose(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Axes move; a mask that is no product of axes keeps its meaning only if their order stays."""
    live, shape = lives[0], node.shape(0)
    if shape is None:
        return unknown_shape(node)
    order = node.attribute("perm", list(reversed(range(len(shape)))))
    sources = [order[axis] for axis in live.axes]
    if sources != sorted(sources) and not live.is_product:
        return inexpressible(node)
    return Answer({0: live.renumbered({axis: order[axis] for axis in live.axes})})


def _inserted(node: Node, rank: int) -> set[int] | None:
    axes = node.int_list("axes", 1)
    return None if axes is None else {axis % rank for axis in axes}


@rule("Unsqueeze", ragged=True)
def unsqueeze(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Inserted axes have size 1 and are never live."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    out_rank = len(node.out.shape or ())
    inserted = _inserted(node, out_rank)
    if inserted is None:
        return unknown_shape(node)
    old = [axis for axis in range(out_rank) if axis not in inserted]
    return Answer({0: lives[0].renumbered({axis: old.index(axis) for axis in lives[0].axes})})


@rule("Squeeze", ragged=True)
def squeeze(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Dropped axes have size 1."""
    shape = node.shape(0)
    dropped = None if shape is None else _inserted(node, len(shape))
    if shape is None or dropped is None:
        return unknown_shape(node)
    old = [axis for axis in range(len(shape)) if axis not in dropped]
    return Answer({0: lives[0].renumbered({axis: old[axis] for axis in lives[0].axes})})


@rule("Expand", ragged=True)
def expand(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A broadcast against a target shape: repeated axes just repeat less often."""
    live, in_shape, out_shape = lives[0], node.shape(0), node.out.shape
    if in_shape is None or out_shape is None:
        return unknown_shape(node)
    back = broadcast_back(live, in_shape, out_shape)
    if back is None:
        return unknown_shape(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, live)

    return Answer({0: back}, rewrite)


@rule("Tile", ragged=True)
def tile(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """An axis of size 1 repeats less often; of a longer one go whole repetitions, and what goes from all of them."""
    live, in_shape, repeats = lives[0], node.shape(0), node.literal(1)
    if in_shape is None:
        return unknown_shape(node)
    repeat = node.input(1)
    elements = None if repeat is None else repeat.elements
    once, kept, counts = live, live, dict[int, int]()
    for axis in live.axes:
        # A repeated axis passes if the mask repeats with it, as heads do in `batch * heads`.
        factor, size, period = None if elements is None else elements[axis], in_shape[axis], live.period(axis)
        if size == 1 or factor == 1 or size == period:
            continue
        if not (isinstance(factor, int) and isinstance(size, int) and size * factor == period):
            return inexpressible(node)
        if not live.is_product:
            return inexpressible(node)
        once, kept, count = _repetitions(once, kept, axis, factor)
        counts |= {axis: count} if count < factor else {}
    ones = [dim == 1 for dim in in_shape]
    if repeats is None and any(ones[axis] for axis in live.axes):
        return inexpressible(node)
    if not live.is_product and any(ones[axis] for axis in live.axes[:-1]):
        # Which repetitions survive differs between the rows of a later axis: a tile cannot follow that.
        return inexpressible(node)
    back = once.only([axis for axis in once.axes if not ones[axis]])

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 1, kept, [axis for axis in kept.axes if ones[axis]], counts)

    return Answer({0: back}, rewrite, kept=(kept,))


def _repetitions(once: Live, kept: Live, axis: int, factor: int) -> tuple[Live, Live, int]:
    """What one repetition needs, what all of them then have, and how many are needed.

    Args:
        once: what is live, up to this axis told for one repetition.
        kept: what the output keeps, up to this axis.
        axis: the repeated axis.
        factor: how often it is repeated.
    """
    if axis not in once.axes or axis not in kept.axes:
        return once, kept, factor
    rows = [_in_rows(live, axis, factor) for live in (once, kept)]
    alive = np.any(rows[1] != 0, axis=tuple(range(1, rows[1].ndim)))
    united = [unite(array, 0) for array in rows]
    repeated = np.stack([united[1] if row else np.zeros_like(united[1]) for row in alive])
    position = kept.axes.index(axis)
    repeated = np.moveaxis(repeated, 0, position).reshape(kept.array.shape)
    return Live.over(once.axes, united[0]), Live.over(kept.axes, repeated), int(alive.sum())


def _in_rows(live: Live, axis: int, factor: int) -> Array:
    """The array with the repetitions of `axis` as its first dimension."""
    position, shape = live.axes.index(axis), live.array.shape
    split = (*shape[:position], factor, shape[position] // factor, *shape[position + 1 :])
    return np.moveaxis(live.array.reshape(split), position, 0)


@rule("ConstantOfShape")
def constant_of_shape(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A constant fill of any size."""
    live = lives[0]

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return target_literals(node, 0, live)

    return Answer({0: FULL}, rewrite) if node.out.shape is not None else unknown_shape(node)
