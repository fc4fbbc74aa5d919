"""Places of a graph that mean token ids: values whose elements are ids, and axes with an element per token.

Two places mean the same where an operator relates them: a lookup relates its indices to an axis of its table, a tied
layer relates that axis to the last axis of logits, a comparison relates the ids on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.domain import Masks
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask_about
from onnxheadprune.model.graph.facts import (
    CASTS,
    CHOOSES,
    CHOOSES_ELEMENTS,
    CLIPS,
    COMPARES,
    EXPANDS,
    EXTREMES,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    GATHERS_ROWS,
    JOINS,
    MARKS_NUMBERS,
    PADS,
    PICKS_LABELLED,
    SLICES,
    SPLITS,
    TILES,
    VIEWS,
    WEIGHS,
    WRITES_INTO,
)
from onnxheadprune.model.graph.tables import choice_of, roles_of
from onnxheadprune.model.graph.view import Node, Use, Value

MOVES = (
    VIEWS | CASTS | SLICES | FLATTENS | EXPANDS | TILES | SPLITS | GATHERS | JOINS | CHOOSES_ELEMENTS | PADS
)
"""The same ids in other places; JOINS, CHOOSES_ELEMENTS and PADS may add stored ones."""
PADDING = 2
"""The input of a Pad with the number that it fills up with, 0 without one."""
INTEGERS = (TensorProto.INT32, TensorProto.INT64)
HANDS_ON = MOVES | GATHERS_ELEMENTS | GATHERS_ROWS | WRITES_INTO | EXTREMES | CLIPS
"""Each output element is an element of an input, or a bound."""


@dataclass(frozen=True)
class Place:
    """The elements of a value, or one of its axes."""

    value: Value
    axis: int | None = None  # the axis whose indices are meant; None for the elements

    @property
    def size(self) -> int:
        """The number of indices of an axis, 0 where it is unknown."""
        shape = self.value.shape
        size = None if self.axis is None or shape is None or self.axis >= len(shape) else shape[self.axis]
        return size if isinstance(size, int) else 0


def contents(node: Node) -> Collection[int]:
    """Inputs whose contents a node passes on."""
    roles = roles_of(node)
    if roles.contents is not None:
        return roles.contents
    if node in PADS and node.attribute("mode", "constant") == "constant":
        return (0, PADDING)
    return range(len(node.inputs)) if node in JOINS | EXTREMES else (0,)


def dtype_of(value: Value) -> np.dtype[np.generic]:
    """The type of the ids in a value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.elem_type or TensorProto.INT64))


def alike(place: Place) -> Iterator[Place]:
    """Yield the places that mean the same as a place and that an operator relates to it."""
    node = place.value.producer
    if node is not None:
        yield from _before(place, node)
    for use in place.value.consumers:
        yield from behind(place, use)
    yield from _through_branches(place)


def _before(place: Place, node: Node) -> Iterator[Place]:
    """Places that the producer of a value relates to it."""
    if place.axis is not None:
        yield from _read_by(place.value, place.axis)
        if node in MARKS_NUMBERS and place.axis == _marked(node):
            yield from _elements(node.input(0))
        if node in WRITES_INTO | GATHERS_ELEMENTS:
            yield from _indices(node, place.axis)
        return
    choice, read = choice_of(node), node.input(0)
    if choice is not None:
        # A TopK outputs values, too.
        if read is not None and place.value is node.results[-1]:
            yield Place(read, choice.axis)
    elif node in HANDS_ON:
        # Of several values that are mixed, not all need be ids.
        mixed = [value for index in contents(node) if (value := node.input(index)) is not None]
        computed = [value for value in mixed if not value.is_constant]
        if len(computed) == 1:
            yield from _elements(computed[0])


def behind(place: Place, use: Use) -> Iterator[Place]:
    """Yield the places that one reader of a value relates to it."""
    node = use.node
    if place.axis is not None:
        yield from _axes_behind(place, node, use.input_index)
        return
    if node in COMPARES:
        yield from _elements(node.input(1 - use.input_index))
    elif node in HANDS_ON and use.input_index in contents(node):
        for value in node.results:
            yield from _elements(value)
    rows = roles_of(node).rows
    if use.input_index in rows:
        table = node.input(rows[use.input_index])
        if table is not None and table.rank:
            axis = node.attribute("axis", node.attribute("gather_axis", 0)) % table.rank
            yield Place(table, axis)
            if node in WRITES_INTO:
                yield Place(node.out, axis)
    if node in MARKS_NUMBERS and use.input_index == 0 and node.out.rank:
        yield Place(node.out, _marked(node))
    if node in PICKS_LABELLED and use.input_index == 1 and (scores := node.input(0)) is not None:
        yield Place(scores, 1)


def _axes_behind(place: Place, node: Node, index: int) -> Iterator[Place]:
    assert place.axis is not None
    contraction = contraction_of(node)
    if contraction is not None and index in contraction.indices:
        letter = contraction.axes_of(index)[place.axis]
        if letter is not None and letter not in contraction.out_axes:
            for other, axes in contraction.terms:
                value = node.input(other)
                if value is not None and letter in axes and other != index:
                    yield Place(value, axes.index(letter))
            return
    if index == 0 and (node in GATHERS | GATHERS_ELEMENTS | WRITES_INTO):
        yield from _indices(node, place.axis)
    if node in PICKS_LABELLED and index == 0 and place.axis == 1:
        yield from _elements(node.input(1))
    choice = choice_of(node)
    if choice is not None and index == 0 and choice.axis == place.axis:
        yield from _elements(next(reversed(node.results), None))
        return
    for value in node.results:
        for axis in _as_long(value, place, node):
            if place in _read_by(value, axis):
                yield Place(value, axis)


def _as_long(value: Value, place: Place, node: Node) -> Iterator[int]:
    """Axes of an output that a place may be: as long as it, or cut and padded at the end."""
    for axis, size in enumerate(value.shape or ()):
        if isinstance(size, int) and (size == place.size or node in SLICES | PADS | JOINS):
            yield axis


def _read_by(value: Value, axis: int) -> list[Place]:
    """Places of the inputs of the producer of a value that its axis runs along."""
    node = value.producer
    size = Place(value, axis).size
    if node is None or size < 2:
        return []
    if node in WEIGHS or (node in WRITES_INTO and _is_scattered(node, axis)):
        return _same_axis(node, axis)
    first = node.input(0)
    if node in SLICES | PADS | JOINS and first is not None and first.rank == value.rank:
        begins = _begins_at(node, axis, first.rank or 0)
        if begins is not None:
            return [Place(first, axis)] if begins == 0 else []
    mask = np.zeros(size, np.bool_)
    mask[0] = True
    answer = ask_about(value, Live.over((axis,), mask), Masks("tokens"))
    if isinstance(answer, Refusal):
        return []
    read = [*((node.input(index), live) for index, live in answer.inputs.items()), *answer.bodies.items()]
    return [
        Place(source, live.axes[0])
        for source, live in read
        if source is not None and len(live.axes) == 1 and np.array_equal(live.mask, mask)
    ]


def _same_axis(node: Node, axis: int) -> list[Place]:
    source = node.input(0)
    return [] if source is None or source.rank != node.out.rank else [Place(source, axis)]


def _is_scattered(node: Node, axis: int) -> bool:
    """Return whether a node writes to indices of one axis of its first input, as a ScatterElements does."""
    return bool(roles_of(node).rows) and node.attribute("axis", 0) % (node.out.rank or 1) == axis


def _begins_at(node: Node, axis: int, rank: int) -> int | None:
    """Return the position along an axis at which the first input begins in the output, None for other axes."""
    if node in JOINS:
        return 0 if node.attribute("axis", 0) % rank == axis else None
    axes = node.int_list("axes", 3)
    if node in PADS:
        pads = node.int_list("pads", 1)
        listed = list(range(rank)) if axes is None else [item % rank for item in axes]
        if pads is None or axis not in listed:
            return None
        place = listed.index(axis)
        return pads[place] if pads[place] or pads[place + len(listed)] else None
    starts = node.int_list("starts", 1)
    listed = list(range(len(starts or ()))) if axes is None else [item % rank for item in axes]
    if starts is None or axis not in listed:
        return None
    steps = node.literal(4)
    step = 1 if steps is None else int(steps.reshape(-1)[listed.index(axis)])
    return starts[listed.index(axis)] if step == 1 else -1


def _indices(node: Node, axis: int) -> Iterator[Place]:
    """The indices along an axis of the first input that a node reads or writes."""
    value, rows = node.input(0), roles_of(node).rows
    if value is not None and value.rank and 1 in rows and node.attribute("axis", 0) % value.rank == axis:
        yield from _elements(node.input(1))


def picked(node: Node) -> Iterator[tuple[Place, Value]]:
    """Yield the axis of a computed value that a node picks from, with the integers that pick."""
    source, rows = node.input(0), roles_of(node).rows
    index = node.input(1)
    if source is None or index is None or source.is_constant or index.is_constant or not source.rank:
        return
    if node in PICKS_LABELLED:
        yield Place(source, 1), index
    elif rows.get(1) == 0 and node not in WRITES_INTO:
        yield Place(source, node.attribute("axis", 0) % source.rank), index


def _marked(node: Node) -> int:
    """The axis on which a node marks numbers."""
    return int(node.attribute("axis", -1) % (node.out.rank or 1))


def _elements(value: Value | None) -> Iterator[Place]:
    if value is not None and value.elem_type in (*INTEGERS, TensorProto.UNDEFINED):
        yield Place(value)


def _through_branches(place: Place) -> Iterator[Place]:
    """Yield the same place outside of a branch, and in both branches of a choice."""
    value = place.value
    owner, outputs = value.scope.owner, value.scope.proto.output
    if owner is not None and owner in CHOOSES and value.is_graph_output:
        for index, info in enumerate(outputs):
            if info.name == value.name and index < len(owner.outputs) and owner.outputs[index] is not None:
                yield Place(owner.outputs[index], place.axis)  # type: ignore[arg-type]
    node = value.producer
    if node is not None and node in CHOOSES:
        for body in node.bodies.values():
            inner = body.lookup(body.proto.output[value.output_index].name)
            if inner is not None:
                yield Place(inner, place.axis)
