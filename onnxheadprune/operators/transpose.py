"""Transpose, Unsqueeze and Squeeze: axes change places, come and go."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.elements import Elements, elements_of
from onnxheadprune.model.graph.facts import SQUEEZES, TRANSPOSES
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, number_function, shape_function
from onnxheadprune.model.graph.view import Node

declare("Transpose", kinds=(TRANSPOSES,))
declare("Unsqueeze", "Squeeze", kinds=(SQUEEZES,), roles=Roles(places=(1,)))


@shape_function("Transpose")
def _transpose_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    order = node.attribute("perm", list(reversed(range(len(shape)))))
    return [tuple(shape[axis] for axis in order)]


@number_function("Transpose")
def _transpose_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    return None if data is None else data.transpose(node.attribute("perm"))


@rule("Transpose", ragged=True, runs=True)
def _transpose(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
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


@shape_function("Unsqueeze")
def _unsqueeze_shape(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    inserted = {axis % rank for axis in axes}
    rest = iter(shape)
    return [tuple(1 if axis in inserted else next(rest) for axis in range(rank))]


@number_function("Unsqueeze")
def _unsqueeze_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    return data.reshape(1) if data is not None and data.ndim == 0 else None


@rule("Unsqueeze", ragged=True, runs=True)
def _unsqueeze(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
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


@shape_function("Squeeze")
def _squeeze_shape(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    dropped = {axis % len(shape) for axis in axes}
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in dropped)]


@number_function("Squeeze")
def _squeeze_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    return data.reshape(()) if data is not None and data.shape == (1,) else None


@rule("Squeeze", ragged=True, runs=True)
def _squeeze(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Dropped axes have size 1."""
    shape = node.shape(0)
    dropped = None if shape is None else _inserted(node, len(shape))
    if shape is None or dropped is None:
        return unknown_shape(node)
    old = [axis for axis in range(len(shape)) if axis not in dropped]
    return Answer({0: lives[0].renumbered({axis: old[axis] for axis in lives[0].axes})})
