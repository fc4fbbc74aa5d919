"""Layouts: which index of an attention product runs along which axis of a value.

An attention core is `[b, h, s, t] x [b, h, t, d]`. Exporters bring queries, keys, values and contexts there
through reshapes and transposes of all kinds. A layout spells every axis of a value as a product of named
atoms, slowest first, so `[batch, sequence, 768]` is `(b)(s)(h d)`, and each view operator has one law.
Sizes of one are left out everywhere: an axis of size one holds no atom, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxheadprune.liveness.axes import align
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape


@dataclass(frozen=True)
class Atom:
    """One index. Atoms are equal by name; the size is what one value calls it.

    Attributes:
        name: the role, "b" (batch), "h" (head), "s" (query position), "t" (key position), "k" (query and key
            feature) or "d" (value feature), then numbers: "b1" is a second batch index, "h.0" a factor of "h".
        size: how far the index runs.
    """

    name: str
    size: Dim = field(compare=False)

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
    """Takes leading atoms that fill an axis of `size`, splitting the last one if need be."""
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
        # An atom that is gone (repeated by an Expand) stays as it was.
        result += [atoms[name] for name in factors] or [atoms.get(atom.name, atom)]
    return tuple(result)
