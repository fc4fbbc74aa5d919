"""Layouts, which index of an attention product runs along which axis of a value, followed through views.

An attention core is `[b, h, s, t] x [b, h, t, d]`. Exporters bring queries, keys, values and contexts there through
reshapes and transposes of all kinds. A layout spells every axis of a value as a product of named atoms, slowest first,
so `[batch, sequence, 768]` is `(b)(s)(h d)`, and each view operator has one rule. Sizes of one are left out everywhere:
an axis of size one holds no atom, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from onnxheadprune.liveness.axes import align
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import scalar_of
from onnxheadprune.model.graph.operator import OBSERVES, REREADS, is_a, kind
from onnxheadprune.model.graph.view import Node, Value


@dataclass(frozen=True)
class Atom:
    """One index. Atoms are equal by name; the size is what one value calls it."""

    # the role, "b" (batch), "h" (head), "s" (query position), "t" (key position), "k" (query and key feature)
    # or "d" (value feature), then numbers: "b1" is a second batch index, "h.0" a factor of "h"
    name: str
    size: Dim = field(compare=False)  # how far the index runs

    @property
    def role(self) -> str:
        """The first letter."""
        return self.name[0]


Axis: TypeAlias = tuple[Atom, ...]
Layout: TypeAlias = tuple[Axis, ...]


def axis_of(*atoms: Atom) -> Axis:
    """An axis of these atoms, those of size one left out."""
    return tuple(atom for atom in atoms if atom.size != 1)


def flat(layout: Iterable[Axis]) -> Axis:
    """All atoms in row-major order."""
    return tuple(atom for axis in layout for atom in axis)


def size_of(axis: Axis) -> Dim:
    """The length of an axis."""
    return dims.product(atom.size for atom in axis)


def transposed(layout: Layout, perm: Iterable[int]) -> Layout:
    """The layout after a Transpose with `perm`."""
    return tuple(layout[axis] for axis in perm)


def untransposed(layout: Layout, perm: Iterable[int]) -> Layout:
    """The layout before a Transpose with `perm`."""
    before: list[Axis] = [()] * len(layout)
    for axis, source in enumerate(perm):
        before[source] = layout[axis]
    return tuple(before)


def reshaped(layout: Layout, shape: Shape, other: Shape) -> Layout | None:
    """The layout of a value of shape `other` that holds the elements of one of shape `shape` in the same order.

    An atom that falls on two axes is split into factors ("h" into "h.0" and "h.1"). None where sizes do not
    tell how the atoms fall.
    """
    result: list[Axis] = [()] * len(other)
    for group in align(shape, other):
        atoms = list(flat(layout[group.in_start : group.in_stop]))
        for axis in range(group.out_start, group.out_stop):
            taken = _take(atoms, other[axis])
            if taken is None:
                return None
            result[axis] = taken
        if atoms:
            return None
    return tuple(result)


def _take(atoms: list[Atom], size: Dim) -> Axis | None:
    """Take leading atoms that fill an axis of `size`, splitting the last one if need be."""
    taken: list[Atom] = []
    missing: Dim = size
    while missing != 1:
        if not atoms:
            return None
        atom = atoms.pop(0)
        rest = dims.divide(missing, atom.size)
        if rest is None:
            other = dims.divide(atom.size, missing)
            if other is None:
                return None
            head, tail = (
                Atom(f"{atom.name}.{part}", part_size) for part, part_size in ((0, missing), (1, other))
            )
            atoms.insert(0, tail)
            taken.append(head)
            break
        taken.append(atom)
        missing = rest
    return tuple(taken)


def unexpanded(layout: Layout, shape: Shape, before: Shape) -> Layout | None:
    """The layout of the input (of shape `before`) of an Expand; a repeated axis holds no atom there."""
    offset = len(shape) - len(before)
    result: list[Axis] = []
    for axis, dim in enumerate(before):
        if dim == shape[axis + offset]:
            result.append(layout[axis + offset])
        elif dim == 1:
            result.append(())
        else:
            return None
    return tuple(result)


def leaves_of(axis: Axis, layout: Layout) -> Axis:
    """An axis in the terms of a layout further along: atoms that the layout splits are spelled by their factors."""
    atoms = {atom.name: atom for atom in flat(layout)}
    result: list[Atom] = []
    for atom in axis:
        factors = sorted(name for name in atoms if name.startswith(f"{atom.name}."))
        # An atom that is gone (repeated by an Expand) stays unchanged.
        result += [atoms[name] for name in factors] or [atoms.get(atom.name, atom)]
    return tuple(result)


MAX_STEPS = 24
BUFFER_VIEWS = REREADS | kind("Flatten")
SCALES = kind("Mul", "Div")


@dataclass(frozen=True, eq=False)
class Place:
    """A value that holds an operand of an attention, up to views, repetition and a factor."""

    value: Value
    layout: Layout  # what its axes enumerate
    factor: float  # the operand is this many times the value
    # the original atoms ("h") as the factors that views on the way split them into ("h.0", "h.1")
    leaves: dict[str, Axis]


def upstream(value: Value, layout: Layout) -> list[Place]:
    """The value itself and those it is a view of, nearest first. Stops where something is computed."""
    leaves: dict[str, Axis] = {atom.name: (atom,) for axis in layout for atom in axis}
    return _along(Place(value, layout, 1.0, leaves), _above)


def _above(place: Place) -> Place | None:
    node = place.value.producer
    if node is None or node.domain or place.value.is_constant:
        return None
    if node in SCALES:
        found = unscaled(node, len(place.layout))
        return None if found is None else replace(place, value=found[0], factor=place.factor * found[1])
    source = node.input(0)
    if source is None or source.shape is None or place.value.shape is None:
        return None
    layout = layout_above(node, place.layout)
    if layout is None:
        return None
    leaves = {name: leaves_of(axis, layout) for name, axis in place.leaves.items()}
    return Place(source, layout, place.factor, leaves)


def _is_same(node: Node) -> bool:
    """Return whether the first output of a node is its first input: of dropouts, and of casts to the same type."""
    if is_a(node, "Cast"):
        source = node.input(0)
        return source is not None and node.attribute("to") == source.elem_type
    if is_a(node, "Dropout"):
        training = node.input(2)
        return training is None or scalar_of(training) == 0
    return is_a(node, "Identity")


def layout_above(node: Node, layout: Layout) -> Layout | None:
    """The layout of the first input of a view node whose output has `layout`; None for any other node."""
    shape, source = node.out.shape, node.shape(0)
    if shape is None or source is None or len(shape) != len(layout):
        return None
    if _is_same(node):
        return layout
    if node in BUFFER_VIEWS:
        return reshaped(layout, shape, source)
    if is_a(node, "Transpose"):
        return untransposed(layout, _perm(node, len(layout)))
    if is_a(node, "Expand"):
        return unexpanded(layout, shape, source)
    return None


def unscaled(node: Node, rank: int) -> tuple[Value, float] | None:
    """Return the input that a node scales by a constant, and the factor; None if it is no scaling."""
    for index in (0, 1) if is_a(node, "Mul") else (0,):
        source, number = node.input(index), scalar_of(node.input(1 - index))
        if source is not None and number and source.rank == rank:
            return source, number if is_a(node, "Mul") else 1 / number
    return None


def _perm(node: Node, rank: int) -> list[int]:
    return [int(axis) for axis in node.attribute("perm", list(reversed(range(rank))))]


def downstream(value: Value, layout: Layout) -> list[Place]:
    """The value itself and the views of it that everything else is computed from, nearest first.

    Nodes that only look at a shape do not count: what they see can be had from the sizes.
    """
    return _along(Place(value, layout, 1.0, {}), _below)


def _along(place: Place, step: Callable[[Place], Place | None]) -> list[Place]:
    """The place and those that steps lead to from it."""
    found = [place]
    while len(found) <= MAX_STEPS and (following := step(found[-1])) is not None:
        found.append(following)
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
    elif is_a(node, "Transpose"):
        layout = transposed(place.layout, _perm(node, len(place.layout)))
    return None if layout is None else Place(node.out, layout, 1.0, {})
