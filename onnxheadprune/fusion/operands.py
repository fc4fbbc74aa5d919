"""Choosing where to tap the graph: the value on an operand's path that fits a fused operator best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxheadprune.fusion.emit import IMPOSSIBLE, view_cost
from onnxheadprune.fusion.layout import Atom, Axis, Layout, flat
from onnxheadprune.fusion.walk import Place

REPEAT_COST = 5
Form = Callable[[Axis, Axis, Axis, Axis], Layout]
"""From the batch, head, position and feature atoms to the layout an operator wants."""


def packed(batch: Axis, heads: Axis, positions: Axis, features: Axis) -> Layout:
    """`[B, S, H * D]`."""
    return batch, positions, (*heads, *features)


def spread(batch: Axis, heads: Axis, positions: Axis, features: Axis) -> Layout:
    """`[B, H, S, D]`."""
    return batch, heads, positions, features


@dataclass(frozen=True, eq=False)
class Tap:
    """A value to take an operand from.

    Attributes:
        place: the value.
        target: the layout it has to be brought to.
        cost: how many nodes that takes.
        heads: the head atoms in `target`.
    """

    place: Place
    target: Layout
    cost: int
    heads: Axis


def tap(
    places: Sequence[Place],
    form: Form,
    axes: tuple[Axis, Axis, Axis, Axis],
    *,
    share: bool = False,
    scaled: bool = True,
) -> Tap | None:
    """The best place for a form.

    Args:
        places: the operand's path, nearest to the attention first.
        form: the layout that is wanted.
        axes: its batch, head, position and feature atoms.
        share: whether heads that the place does not tell apart may be left out (key/value heads).
        scaled: whether the operand may be a multiple of the place.
    """
    best: Tap | None = None
    for place in places:
        if not scaled and place.factor != 1.0:
            break
        found = _tap(place, form, axes, share)
        # The further up, the more of the graph goes.
        if found is not None and (best is None or _rank(found) <= _rank(best)):
            best = found
    return best


def _rank(found: Tap) -> tuple[int, int]:
    return math.prod(atom.size for atom in found.heads if isinstance(atom.size, int)), found.cost


def _tap(place: Place, form: Form, axes: tuple[Axis, Axis, Axis, Axis], share: bool) -> Tap | None:
    batch, heads, positions, features = (_in_terms_of(place, axis) for axis in axes)
    present = {atom.name: atom for atom in flat(place.layout)}
    wanted = (*batch, *heads, *positions, *features)
    missing = [atom for atom in wanted if atom.name not in present]
    if share:
        kept = tuple(atom for atom in heads if atom.name in present)
        if heads[: len(kept)] != kept:
            # Heads that share a key are not neighbours: no fused operator repeats keys that way.
            return None
        missing = [atom for atom in missing if atom not in heads]
        heads = kept
    target = form(
        *(
            tuple(present.get(atom.name, atom) for atom in axis)
            for axis in (batch, heads, positions, features)
        )
    )
    if not missing:
        cost = view_cost(place.layout, target)
    elif any(not isinstance(atom.size, int) for atom in missing):
        return None
    else:
        filled = tuple(tuple(atom for atom in axis if atom not in missing) for axis in target)
        cost = view_cost(place.layout, filled) + REPEAT_COST
    return None if cost >= IMPOSSIBLE else Tap(place, target, cost, heads)


def _in_terms_of(place: Place, axis: Axis) -> Axis:
    """The atoms of an axis as the place's views split them, those of size one left out."""
    leaves: list[Atom] = []
    for atom in axis:
        leaves += place.leaves.get(atom.name, (atom,))
    return tuple(leaf for leaf in leaves if leaf.size != 1)
