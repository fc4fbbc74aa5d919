"""Writing the operands of a fused operator as edits: the value that fits it best, views, repetition, constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxheadprune.edit.edits import MARK, AddConstant, Attribute, Edit, InsertNode
from onnxheadprune.edit.nodes import numbered
from onnxheadprune.fusion.walk import Atom, Axis, Layout, Place, flat, size_of
from onnxheadprune.model.graph.view import GraphView, Node

IMPOSSIBLE = 99
AXES_ARE_INPUTS = {"ReduceMax": 18, "Squeeze": 13}
"""The opset since which axes are an input."""


@dataclass(frozen=True)
class Tensor:
    """A value by name, with its layout."""

    name: str
    layout: Layout


class Names:
    """Fresh names, and values that several sites share: one expanded mask serves all layers."""

    def __init__(self, view: GraphView) -> None:
        self._taken = {name for scope in view.scopes for name in scope.values}
        self.shared: dict[tuple[object, ...], Tensor] = {}

    def fresh(self, hint: str) -> str:
        """A name that no value of the model has."""
        name = numbered(hint, self._taken)
        self._taken.add(name)
        return name


class Emitter:
    """Collects the edits that put new nodes before one node."""

    def __init__(self, before: Node, names: Names) -> None:
        self.before = before
        self.names = names
        self.edits: list[Edit] = []
        self._prefix = f"{before.out.name}/{MARK}"

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        hint: str,
        *,
        domain: str = "",
        output: str = "",
        **attributes: Attribute,
    ) -> str:
        """A new node; returns the name of its output."""
        name = output or self.names.fresh(f"{self._prefix}_{hint}")
        named = tuple(attributes.items())
        self.edits.append(InsertNode(self.before.ref, op_type, tuple(inputs), (name,), named, domain))
        return name

    def integers(self, *values: int, scalar: bool = False) -> str:
        """A stored list of integers."""
        name = self.names.fresh(f"{self._prefix}_ints")
        self.edits.append(AddConstant(self.before.scope.ref, name, values, scalar))
        return name

    def number(self, value: float, dtype: str) -> str:
        """A stored number of a float type."""
        name = self.names.fresh(f"{self._prefix}_number")
        self.edits.append(AddConstant(self.before.scope.ref, name, (value,), True, dtype))
        return name

    def size(self, tensor: Tensor, axis: int) -> str:
        """A list of one integer: the length of an axis at run time."""
        shape = self.node("Shape", (tensor.name,), "shape")
        return self.node("Gather", (shape, self.integers(axis)), "size", axis=0)

    def along(self, op_type: str, name: str, axis: int, hint: str) -> str:
        """Write an operator over one axis, which is an input or, in older opsets, an attribute; return its output."""
        if self.before.scope.opset < AXES_ARE_INPUTS[op_type]:
            return self.node(op_type, (name,), hint, axes=(axis,))
        return self.node(op_type, (name, self.integers(axis)), hint)

    def view(self, tensor: Tensor, target: Layout, output: str = "") -> Tensor:
        """The same elements in another layout; the atoms must be the same."""
        steps = view_steps(tensor.layout, target)
        if steps is None:
            raise ValueError(f"no view leads from {tensor.layout} to {target}")
        for position, (perm, layout) in enumerate(steps):
            name = output if position == len(steps) - 1 else ""
            if perm is not None:
                made = self.node("Transpose", (tensor.name,), "transposed", perm=perm, output=name)
            else:
                goal = self._target(tensor, layout)
                made = self.node("Reshape", (tensor.name, goal), "reshaped", output=name)
            tensor = Tensor(made, layout)
        if output and tensor.name != output:
            tensor = Tensor(self.node("Identity", (tensor.name,), "same", output=output), target)
        return tensor

    def _target(self, tensor: Tensor, layout: Layout) -> str:
        """The target of a Reshape: literals, copied axes, at most one -1, and what is left at run time."""
        items: list[int | Axis] = []
        for position, axis in enumerate(layout):
            size = size_of(axis)
            if isinstance(size, int):
                items.append(size)
            elif position < len(tensor.layout) and tensor.layout[position] == axis:
                items.append(0)
            else:
                items.append(axis)
        open_axes = [item for item in items if not isinstance(item, int)]
        if len(open_axes) <= 1:
            return self.integers(*(item if isinstance(item, int) else -1 for item in items))
        parts = []
        free = (
            next(item for item in open_axes if item not in tensor.layout)
            if any(item not in tensor.layout for item in open_axes)
            else None
        )
        for item in items:
            if isinstance(item, int):
                parts.append(self.integers(item))
            elif item is free:
                parts.append(self.integers(-1))
            else:
                parts.append(self.size(tensor, tensor.layout.index(item)))
        return self.node("Concat", parts, "target", axis=0)

    def repeated(self, tensor: Tensor, target: Layout) -> Tensor:
        """A view in which atoms that the tensor lacks are repeated; their sizes must be numbers."""
        present = {atom.name for atom in flat(tensor.layout)}
        atoms = flat(target)
        missing = [atom for atom in atoms if atom.name not in present]
        if not missing:
            return self.view(tensor, target)
        if any(not isinstance(atom.size, int) for atom in missing):
            raise ValueError(f"the sizes of {missing} are not known")
        spelled = tuple((atom,) if atom.name in present else () for atom in atoms)
        tensor = self.view(tensor, spelled)
        goal = self.integers(*(1 if atom.name in present else _number(atom) for atom in atoms))
        name = self.node("Expand", (tensor.name, goal), "repeated")
        return self.view(Tensor(name, tuple((atom,) for atom in atoms)), target)


def _number(atom: Atom) -> int:
    assert isinstance(atom.size, int)
    return atom.size


ViewStep = tuple[tuple[int, ...] | None, Layout]


def view_steps(layout: Layout, target: Layout) -> list[ViewStep] | None:
    """The Transpose and Reshape nodes between two layouts of the same atoms, None if the atoms differ."""
    have, want = flat(layout), flat(target)
    if sorted(atom.name for atom in have) != sorted(atom.name for atom in want):
        return None
    if layout == target:
        return []
    if have == want:
        return [(None, target)]
    steps: list[ViewStep] = []
    if not all(_is_run(axis, want) for axis in layout):
        layout = tuple((atom,) for atom in have)
        steps.append((None, layout))
    order = {atom.name: position for position, atom in enumerate(want)}
    perm = _permutation(layout, target, order)
    moved = tuple(layout[axis] for axis in perm)
    steps.append((perm, moved))
    if moved != target:
        steps.append((None, target))
    return steps


def _is_run(axis: Axis, want: Axis) -> bool:
    if not axis:
        return True
    start = want.index(axis[0])
    return want[start : start + len(axis)] == axis


def _permutation(layout: Layout, target: Layout, order: dict[str, int]) -> tuple[int, ...]:
    """Axes in the order of their atoms; empty ones where the target has them, if the ranks agree."""
    filled = sorted(
        (axis for axis, atoms in enumerate(layout) if atoms), key=lambda axis: order[layout[axis][0].name]
    )
    empty = [axis for axis, atoms in enumerate(layout) if not atoms]
    if len(layout) != len(target):
        return (*filled, *empty)
    perm: list[int] = []
    for atoms in target:
        takes_empty = bool(empty) and not (atoms and filled)
        perm.append(empty.pop(0) if takes_empty else filled.pop(0))
    return tuple(perm)


def view_cost(layout: Layout, target: Layout) -> int:
    """Return how many nodes a view takes; moving elements counts more than naming them anew."""
    steps = view_steps(layout, target)
    return IMPOSSIBLE if steps is None else sum(1 if perm is None else 2 for perm, _ in steps)


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
    """A value to take an operand from."""

    place: Place  # the value
    target: Layout  # the layout it has to be brought to
    cost: int  # how many nodes that takes
    heads: Axis  # the head atoms in `target`


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
        share: whether heads that the place does not tell apart may be left out (key/value heads).
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
