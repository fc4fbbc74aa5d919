"""Gather, Scatter and their relatives: a node reads or writes some indices of an axis.

Gathers *select*: what they read is asked for precisely, and when their input keeps more or is renumbered, their
indices move instead of a gather being inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import dtype_of, place, ranks_within
from onnxheadprune.liveness.index_notation import Notation, numbered, rule_in_letters, shape_in_letters
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph.elements import MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import WRITES_INTO, Roles, Shapes
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import Array
from onnxheadprune.operators.record import operator


def _gather_shape(node: Node) -> Shapes:
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not data:
        return [None]
    axis = node.attribute("axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _block_shape(node: Node) -> Shapes:
    """Rows of a table whose last axis packs several numbers in a byte."""
    data, indices, table = node.shape(0), node.shape(1), node.input(0)
    if data is None or indices is None or not data or table is None or not isinstance(data[-1], int):
        return [None]
    packed = 8 // node.attribute("bits", 4) if table.elem_type == TensorProto.UINT8 else 1
    axis = node.attribute("gather_axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 : -1], data[-1] * packed)]


def _gather_numbers(node: Node) -> Elements | None:
    data, index = elements_of(node, 0), node.literal(1)
    if data is None or index is None or data.ndim != 1:
        return None
    if index.size > MAX_ELEMENTS or np.any(index >= data.size) or np.any(index < -data.size):
        return None
    return np.asarray(data[index], dtype=object) if index.ndim else boxed([data[int(index)]], ())


def _gather(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Literal indices are followed one by one; computed ones leave the gathered axis whole."""
    data, index_shape, live = node.shape(0), node.shape(1), lives[0]
    if data is None or index_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(data)
    width = len(index_shape)
    on_index = [a for a in live.axes if axis <= a < axis + width]
    mapping = {a: a if a < axis else a - width + 1 for a in live.axes if a not in on_index}
    literal, dim = node.literal(1), data[axis]
    if literal is None or not isinstance(dim, int) or width > 1:
        if on_index and literal is not None:
            return inexpressible(node)
        through = live.only(mapping)
        inputs = {0: through.renumbered({a: mapping[a] for a in through.axes})}
        along = live.only(on_index)
        inputs[1] = along.renumbered({a: a - axis for a in along.axes})
        return Answer(inputs) if live.is_product or not on_index else inexpressible(node)
    return _by_numbers(node, live, axis, width, literal, dim)


def _by_numbers(node: Node, live: Live, axis: int, width: int, literal: Array, dim: int) -> Answer | Refusal:
    """Pick from `axis`, of size `dim`, at known positions that fill `width` axes of the output (one or none)."""
    on_index = [a for a in live.axes if axis <= a < axis + width]
    mapping = {a: a if a < axis else a - width + 1 for a in live.axes if a not in on_index}
    chosen = literal.reshape(-1).astype(np.int64) % dim
    if width == 0:
        mapped = live.renumbered(mapping)
        back = place(mapped, {axis: (chosen, dim)})
        survivors = chosen
    else:
        back = place(live, {axis: (chosen, dim)})
        mask = live.only(on_index).mask
        survivors = chosen[mask] if on_index else chosen
        if on_index and not live.is_product:
            return inexpressible(node)

    def renumbered(have: Live) -> Array | None:
        if axis not in have.axes:
            return survivors
        numbering = ranks_within(Live.over((axis,), np.isin(np.arange(dim), survivors)), have, axis)
        used = np.unique(survivors)
        if len(numbering) != len(used):
            return None
        return np.asarray(numbering[np.searchsorted(used, survivors)])

    def rewrite(kept: Mapping[int, Live]) -> Sequence[Edit]:
        indices = renumbered(kept[0])
        assert indices is not None
        if np.array_equal(indices, literal.reshape(-1) if axis in kept[0].axes else chosen):
            return []
        name = f"{node.out.name}/{MARK}_indices"
        numbers = tuple(int(item) for item in indices)
        nested = tuple((item,) for item in numbers) if literal.ndim > width else numbers
        scalar = width == 0
        dtype = dtype_of(node, 1)
        return [AddConstant(node.scope.ref, name, nested, scalar, dtype), SetInput(node.ref, 1, name)]

    box = place(FULL, {axis: (survivors, dim)})

    def accepts(have: Live) -> bool:
        return (have & box) == back.as_mask() and renumbered(have) is not None

    return Answer({0: back}, rewrite, selects=frozenset({0}), accepts=accepts)


def _gather_elements(node: Node) -> Notation | None:
    """Data and indices run in parallel on every axis but the gathered one, where any of the data may be picked."""
    found = _parallel(node, 0, 1)
    if found is None:
        return None
    letters, axis = found.out_axes, node.attribute("axis", 0)
    data = [None if letter == letters[axis] else letter for letter in letters]
    return replace(found, terms=((0, tuple(data)), (1, letters)), whole=found.whole - {letters[axis]})


def _scatter_elements(node: Node) -> Notation | None:
    """Data, indices and updates run in parallel on every axis but the scattered one."""
    found = _parallel(node, 0, 1, 2)
    axis = node.attribute("axis", 0)
    return None if found is None else replace(found, whole=found.whole | {found.out_axes[axis]})


def _parallel(node: Node, *indices: int) -> Notation | None:
    """Some inputs run in parallel; along axes where their sizes differ, only some of their positions."""
    shapes = [node.shape(index) for index in indices]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    letters = numbered(len(known[0]))
    unlike = [letter for letter, *sizes in zip(letters, *known, strict=True) if len(set(sizes)) > 1]
    return Notation(tuple((index, letters) for index in indices), letters, whole=frozenset(unlike))


def _nd_letters(node: Node) -> Notation | None:
    """Batch axes are parallel; axes of the data after the indexed ones pass through."""
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not isinstance(indices[-1], int):
        return None
    batch, letters = node.attribute("batch_dims", 0), numbered(len(indices) - 1 + len(data))
    places, indexed = letters[: len(indices) - 1], (None,) * indices[-1]
    rest = letters[len(places) : len(letters) - batch - len(indexed)]
    read = (*places[:batch], *indexed, *rest)
    return Notation(((0, read), (1, (*places, None))), (*places, *rest))


def _gather_nd(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A list of numbers is a Gather."""
    data, literal = node.shape(0), node.literal(1)
    listed = literal is not None and literal.shape[1:] == (1,) and not node.attribute("batch_dims", 0)
    if listed and literal is not None and data is not None and isinstance(data[0], int):
        return _by_numbers(node, lives[0], 0, 1, literal, data[0])
    return rule_in_letters(_nd_letters, node, lives)


def _scatter_nd(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Axes of the data after the indexed ones are axes of the updates too."""
    data, indices, live = node.shape(0), node.shape(1), lives[0]
    if data is None or indices is None or not isinstance(indices[-1], int):
        return unknown_shape(node)
    depth = indices[-1]
    if all(axis >= depth for axis in live.axes):
        return Answer({0: live, 2: live.renumbered({a: a - depth + len(indices) - 1 for a in live.axes})})
    places, sizes = node.literal(1), [size for size in data[:depth] if isinstance(size, int)]
    if (
        places is not None
        and len(sizes) == depth
        and node.attribute("reduction", "none") in ("none", b"none")
    ):
        return _known_places(node, live, places, sizes)
    return _slice_assignment(node, live)


def _known_places(node: Node, live: Live, places: Array, sizes: Sequence[int]) -> Answer | Refusal:
    """`data[1, 0] = updates`, the keys of one layer in the cache of all: each row may have heads of its own.

    Nobody reads what is written over. It is narrowed like the rest all the same, since it lies in one tensor with it.
    """
    depth = len(sizes)
    own = [axis for axis in live.axes if axis >= depth]
    axes = [*range(depth), *own]
    rows = live.aligned(axes, [*sizes, *(live.period(axis) for axis in own)])
    written = rows[tuple(np.moveaxis(places, -1, 0))]
    leading = places.ndim - 1
    updates = Live.over([*range(leading), *(axis - depth + leading for axis in own)], written)
    if live.is_mask:
        if not rows.any(axis=tuple(range(depth, rows.ndim))).all():
            return inexpressible(node)
        return Answer({0: live, 2: updates})
    rows = rows.copy()
    rows[tuple(np.moveaxis(places, -1, 0))] = 0
    return Answer({0: Live.over(axes, rows), 2: updates})


def _slice_assignment(node: Node, live: Live) -> Answer | Refusal:
    """`data[:, :, :, j] = updates`, as TorchScript writes it: every element is addressed, on whole axes by counting.

    What is left of such an axis is counted again from zero, so the indices keep their first entries.
    """
    data, updates, indices = node.shape(0), node.shape(2), node.input(1)
    if live.is_mask and not live.is_product:
        return inexpressible(node)
    if data is None or updates is None or indices is None or len(updates) != len(data):
        return unknown_shape(node)
    for axis in live.axes:
        if data[axis] != updates[axis] or not _counts_along(indices, axis, len(data)):
            return inexpressible(node)
    if not live.is_mask:
        return Answer({0: live, 2: live})
    first = FULL
    for axis in live.axes:
        count, whole = live.extent(axis)
        first = first & Live.over((axis,), np.arange(whole) < count)
    return Answer({0: live, 1: first, 2: live})


def _counts_along(indices: Value, axis: int, rank: int) -> bool:
    """Return whether component `axis` of the indices is the position along that axis of the updates."""
    concat = indices.producer
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != rank:
        return False
    if concat.attribute("axis") not in (-1, rank):
        return False
    value = concat.inputs[axis]
    for op_type in ("Unsqueeze", "Expand"):
        if value is None or value.producer is None or value.producer.op_type != op_type:
            return False
        value = value.producer.inputs[0]
    elements = None if value is None else value.elements
    if elements is None or elements.ndim > rank:
        return False
    shape = [1] * elements.ndim
    offset = rank - elements.ndim
    if axis < offset:
        return False
    shape[axis - offset] = elements.shape[axis - offset]
    return list(elements.shape) == shape and list(elements.reshape(-1)) == list(range(elements.size))


operator(
    "Gather",
    roles=Roles(contents=(0,), rows={1: 0}),
    shape=_gather_shape,
    elements=_gather_numbers,
    rule=_gather,
    ragged=True,
    repeats=True,
)
operator(
    "GatherND",
    roles=Roles(contents=(0,), places_in={1: 0}),
    shape=partial(shape_in_letters, _nd_letters),
    rule=_gather_nd,
    ragged=True,
)
operator(
    "GatherElements",
    roles=Roles(contents=(0,), rows={1: 0}),
    axes=_gather_elements,
    shape=lambda node: [node.shape(1)],
)
operator(
    "com.microsoft.GatherBlockQuantized",
    roles=Roles(rows={1: 0}, alike=(2,), weight_scale=2, weight_zero=3),
    shape=_block_shape,
)
operator(
    "ScatterND",
    kinds=(WRITES_INTO,),
    roles=Roles(contents=(0, 2), places_in={1: 0}),
    shape=lambda node: [node.shape(0)],
    rule=_scatter_nd,
    ragged=True,
)
operator(
    "ScatterElements",
    kinds=(WRITES_INTO,),
    roles=Roles(contents=(0, 2), rows={1: 0}),
    axes=_scatter_elements,
    shape=lambda node: [node.shape(0)],
)
