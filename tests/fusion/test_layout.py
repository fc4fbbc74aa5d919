"""The layout algebra against NumPy: a view of numbered elements must put every number where the layout says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxheadprune.fusion.emit import IMPOSSIBLE, view_cost, view_steps
from onnxheadprune.fusion.walk import (
    Atom,
    Layout,
    axis_of,
    flat,
    transposed,
    unexpanded,
    untransposed,
)

SIZES = {"b": 2, "h": 6, "s": 5, "k": 4}
ATOMS = {name: Atom(name, size) for name, size in SIZES.items()}


def layout(*axes: str) -> Layout:
    """`layout("b", "s", "h k")`."""
    return tuple(axis_of(*(ATOMS[name] for name in axis.split())) for axis in axes)


def shape_of(axes: Layout) -> tuple[int, ...]:
    return tuple(int(np.prod([atom.size for atom in axis], dtype=np.int64)) for axis in axes)


def numbered(axes: Layout) -> np.ndarray:
    """An array of a layout whose elements tell their index in the order b, h, s, k."""
    order = sorted(
        flat(axes), key=lambda atom: "bhsk".index(atom.role) * 10 + (1 if atom.name.endswith("1") else 0)
    )
    whole = np.arange(np.prod([atom.size for atom in order])).reshape([atom.size for atom in order])
    return whole.transpose([order.index(atom) for atom in flat(axes)]).reshape(shape_of(axes))


def test_an_expand_drops_what_it_repeats() -> None:
    found = unexpanded(layout("b", "h", "s", "k"), (2, 6, 5, 4), (2, 1, 5, 4))
    assert found == layout("b", "", "s", "k")
    assert unexpanded(layout("b", "h"), (2, 6), (2, 3)) is None


@pytest.mark.parametrize("order", list(itertools.permutations("bhsk"))[::5])
@pytest.mark.parametrize(
    "target",
    [("b", "s", "h k"), ("b", "h", "s", "k"), ("b s", "h k"), ("b h", "s", "k"), ("s", "b h", "", "k")],
)
@pytest.mark.parametrize("merge", [False, True])
def test_view_steps_do_what_they_say(order: tuple[str, ...], target: tuple[str, ...], merge: bool) -> None:
    start = layout(" ".join(order[:2]), *order[2:]) if merge else layout(*order)
    goal = layout(*target)
    array, current = numbered(start), start
    steps = view_steps(start, goal)
    assert steps is not None
    for perm, after in steps:
        array = array.reshape(shape_of(after)) if perm is None else array.transpose(perm)
        assert perm is None or transposed(current, perm) == after
        current = after
    assert current == goal
    np.testing.assert_array_equal(array, numbered(goal))


def test_a_transpose_and_its_inverse() -> None:
    start = layout("b", "h", "s", "k")
    assert untransposed(transposed(start, (0, 2, 1, 3)), (0, 2, 1, 3)) == start


def test_layouts_of_other_atoms_have_no_view() -> None:
    assert view_cost(layout("b", "s"), layout("b", "k")) == IMPOSSIBLE
    assert view_cost(layout("b", "s"), layout("b", "s")) == 0
