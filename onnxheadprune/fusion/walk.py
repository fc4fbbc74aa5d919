"""Following views: the values up or down the graph that hold the same elements in another layout."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.fusion.layout import (
    Axis,
    Layout,
    leaves_of,
    reshaped,
    transposed,
    unexpanded,
    untransposed,
)
from onnxheadprune.model.graph.facts import (
    CASTS,
    DIVIDES,
    DROPOUTS,
    EXPANDS,
    FLATTENS,
    IDENTITIES,
    MULTIPLIES,
    OBSERVES,
    REREADS,
    TRANSPOSES,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import scalar_of

MAX_STEPS = 24
BUFFER_VIEWS = REREADS | FLATTENS
SCALES = MULTIPLIES | DIVIDES


@dataclass(frozen=True, eq=False)
class Place:
    """A value that holds an operand of an attention, up to views, repetition and a factor.

    Attributes:
        value: the value.
        layout: what its axes enumerate.
        factor: the operand is this many times the value.
        leaves: the original atoms ("h") as the factors that views on the way split them into ("h.0", "h.1").
    """

    value: Value
    layout: Layout
    factor: float
    leaves: dict[str, Axis]


def upstream(value: Value, layout: Layout) -> list[Place]:
    """The value itself and those it is a view of, nearest first. Stops where something is computed."""
    place = Place(value, layout, 1.0, {atom.name: (atom,) for axis in layout for atom in axis})
    found = [place]
    for _ in range(MAX_STEPS):
        step = _above(place)
        if step is None:
            break
        place = step
        found.append(place)
    return found


def _above(place: Place) -> Place | None:
    node = place.value.producer
    if node is None or node.domain or place.value.is_constant:
        return None
    if node in SCALES:
        return _unscaled(place, node)
    source = node.input(0)
    if source is None or source.shape is None or place.value.shape is None:
        return None
    layout = layout_above(node, place.layout)
    if layout is None:
        return None
    leaves = {name: leaves_of(axis, layout) for name, axis in place.leaves.items()}
    return Place(source, layout, place.factor, leaves)


def _is_same(node: Node) -> bool:
    """Whether the first output of a node is its first input: no dropout in inference, no cast to another type."""
    if node in CASTS:
        source = node.input(0)
        return source is not None and node.attribute("to") == source.elem_type
    if node in DROPOUTS:
        training = node.input(2)
        return training is None or scalar_of(training) == 0
    return node in IDENTITIES


def layout_above(node: Node, layout: Layout) -> Layout | None:
    """The layout of the first input of a view node whose output has `layout`; None for any other node."""
    shape, source = node.out.shape, node.shape(0)
    if shape is None or source is None or len(shape) != len(layout):
        return None
    if _is_same(node):
        return layout
    if node in BUFFER_VIEWS:
        return reshaped(layout, shape, source)
    if node in TRANSPOSES:
        return untransposed(layout, _perm(node, len(layout)))
    if node in EXPANDS:
        return unexpanded(layout, shape, source)
    return None


def _unscaled(place: Place, node: Node) -> Place | None:
    """Through a multiplication or division by one number."""
    for index in (0, 1) if node in MULTIPLIES else (0,):
        source, number = node.input(index), scalar_of(node.input(1 - index))
        if source is None or not number or source.shape is None or len(source.shape) != len(place.layout):
            continue
        factor = number if node in MULTIPLIES else 1 / number
        return Place(source, place.layout, place.factor * factor, place.leaves)
    return None


def _perm(node: Node, rank: int) -> list[int]:
    return [int(axis) for axis in node.attribute("perm", list(reversed(range(rank))))]


def downstream(value: Value, layout: Layout) -> list[Place]:
    """The value itself and the views of it that everything else is computed from, nearest first.

    Nodes that only look at a shape do not count: what they see can be had from the sizes.
    """
    place = Place(value, layout, 1.0, {})
    found = [place]
    for _ in range(MAX_STEPS):
        step = _below(place)
        if step is None:
            break
        place = step
        found.append(place)
    return found


def _below(place: Place) -> Place | None:
    readers = [use for use in place.value.consumers if use.node not in OBSERVES]
    if place.value.is_graph_output or len(readers) != 1 or readers[0].input_index:
        return None
    node, shape = readers[0].node, place.value.shape
    if node.domain or node.scope is not place.value.scope or shape is None or node.out.shape is None:
        return None
    layout: Layout | None = None
    if _is_same(node):
        layout = place.layout
    elif node in BUFFER_VIEWS:
        layout = reshaped(place.layout, shape, node.out.shape)
    elif node in TRANSPOSES:
        layout = transposed(place.layout, _perm(node, len(place.layout)))
    return None if layout is None else Place(node.out, layout, 1.0, {})
