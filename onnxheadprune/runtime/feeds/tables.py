"""Bounds of inputs that follow from the weights: rows of the tables that integers index, widths of features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxheadprune.liveness.index_notation import contraction_of, kernel_of
from onnxheadprune.liveness.layouts import Heads, layout_of
from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.operator import (
    ELEMENTWISE,
    EXTREMES,
    VIEWS,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

MOVES = VIEWS | kind("Cast", "Slice", "Flatten", "Expand", "Tile", "Split", "Gather", "Concat")
"""The same elements, or some of them, in other places or under another type."""
_COMPUTES = EXTREMES | kind("Clip", "Mul", "Mod", "Add", "Sub", "Where")
"""Arithmetic after which a row number is one still; a comparison gives something else."""
_SHIFTS = kind("Add", "Sub")
_REPLACES = EXTREMES | kind("Clip", "Where")
_HANDS_ON = MOVES | _COMPUTES
_SAME_WIDTH = ELEMENTWISE | kind("CastLike")
MOST_SHIFTS = 4
"""Offsets with which one value is followed: as it is, and counted from the end of a table or two."""


def row_bound(value: Value) -> int | None:
    """The smallest number of rows of all tables that a value indexes, None if it indexes none.

    The value is followed through whatever hands integers on. Adding a constant moves the bound; one as large as the
    table is added to negative numbers only, which count from its end.
    """
    bounds: list[int] = []
    seen: dict[Value, set[int]] = {}
    queue = [(value, 0)]
    while queue:
        current, shift = queue.pop()
        known = seen.setdefault(current, set())
        if shift in known or len(known) == MOST_SHIFTS:
            continue
        known.add(shift)
        for use in current.consumers:
            rows = _rows_indexed(use)
            if rows is not None:
                bounds.append(rows - shift)
            else:
                queue += [(output, shift + _added(use)) for output in _handed_on(use)]
    return min((bound for bound in bounds if bound > 0), default=1) if bounds else None


def replaces_some(value: Value) -> bool:
    """Return whether a node takes other numbers for some of the integers in a value, followed as in `row_bound`."""
    return any(use.node in _REPLACES for item in reachable([value], _onward) for use in item.consumers)


def _onward(current: Value) -> Iterator[Value]:
    return (item for use in current.consumers if _rows_indexed(use) is None for item in _handed_on(use))


def tables_behind(value: Value) -> list[Value]:
    """The stored tables whose rows a value picks, followed as in `row_bound`."""
    uses = (use for item in reachable([value], _onward) for use in item.consumers)
    tables = (_table(use) for use in uses if _rows_indexed(use) is not None)
    return list(dict.fromkeys(table for table in tables if table is not None))


def _rows_indexed(use: Use) -> int | None:
    rows = _dim(_table(use), use.node.attribute("axis", use.node.attribute("gather_axis", 0)))
    return _places(use) if rows is None else rows


def _places(use: Use) -> int | None:
    """The number of places along the axis that a use counts along: places of several axes are joined before."""
    if not is_a(use.node, "Concat") or use.node.domain:
        return _extent(use, 0, 1)
    out = use.node.out
    if out.rank is None or use.node.attribute("axis", 0) not in (-1, out.rank - 1):
        return None
    parts = [_extent(reader, use.input_index, len(use.node.inputs)) for reader in out.consumers]
    return min((size for size in parts if size is not None), default=None)


def _extent(use: Use, component: int, components: int) -> int | None:
    """The size of one axis that a use picks places along, None if it picks none or has another number of components."""
    indices = use.node.input(use.input_index)
    target = use.node.roles.places_in.get(use.input_index)
    if target is None or _dim(indices, -1) != components:
        return None
    return _dim(use.node.input(target), component + use.node.attribute("batch_dims", 0))


def _table(use: Use) -> Value | None:
    """The table whose rows a use picks, None if it picks none."""
    rows = use.node.roles.rows
    return use.node.input(rows[use.input_index]) if use.input_index in rows else None


def _handed_on(use: Use) -> Iterator[Value]:
    node, roles = use.node, use.node.roles
    # The shape of a Reshape and the axes of a Slice are inputs too; they are no data.
    is_data = use.input_index not in roles.places
    is_data = is_data and (roles.contents is None or use.input_index in roles.contents)
    if node.domain == "" and node in _HANDS_ON and is_data:
        yield from node.results


def _added(use: Use) -> int:
    """The most that a node adds to the value (a constant offset of position tables)."""
    if use.node not in _SHIFTS:
        return 0
    other = use.node.literal(1 - use.input_index)
    if other is None or other.size == 0 or not np.issubdtype(other.dtype, np.integer):
        return 0
    return int(other.max()) if is_a(use.node, "Add") else -int(other.min())


def feature_width(value: Value, axis: int) -> int | None:
    """The size that weights dictate for one axis of an input, None if they do not.

    Channels of a convolution and the contracted axis of a product with weights count, and for a cache
    the heads that it is joined with: by a Concat, or by a fused attention operator.
    """
    if value.rank is None:
        return None
    asked: set[Node] = set()
    rank = value.rank

    def handed_on(item: Value) -> list[Value]:
        return [use.node.out for use in item.consumers if _keeps_width(use.node, axis, rank)]

    for item in reachable([value], handed_on):
        for use in item.consumers:
            found = _contracted(use.node, axis, value.rank) if use.input_index == 0 else None
            # A node may read one value thousands of times, and has thousands of others to look at each time.
            found = found or (None if use.node in asked else _joined(use.node, axis, value.rank))
            asked.add(use.node)
            found = found or _cached(use, axis, value.rank)
            if found is not None:
                return found
    return None


def least_capacity(value: Value) -> int:
    """The positions that a cache must have at least: those of a sliding window whose buffer it is, else none."""
    windows = [
        int(use.node.attribute("local_window_size", 0))
        for use in value.consumers
        if use.input_index in (use.node.roles.past_keys, use.node.roles.past_values)
        and use.node.attribute("sliding_window_cache", 0)
    ]
    return max(windows, default=0)


MOST_INDEXED = 4096
"""Constant indices from which on they bound no length: slices use huge ones for "to the end"."""


def least_lengths(view: GraphView) -> dict[str, int]:
    """The least number for each symbol of a shape that is along an axis which constant indices pick from."""
    found: dict[str, int] = {}
    for node in view.nodes:
        shape = node.shape(0) or ()
        for axis, least in _picked(node):
            dim = shape[axis] if -len(shape) <= axis < len(shape) else 0
            if not isinstance(dim, int) and least <= MOST_INDEXED:
                found[str(dim)] = max(least, found.get(str(dim), 0))
    return found


def _picked(node: Node) -> Iterator[tuple[int, int]]:
    """Yield the axes that a node picks from, each with the least size that its constant indices need."""
    if is_a(node, "Gather"):
        indices = node.literal(1)
        if indices is not None and indices.size:
            highest, lowest = int(indices.max()), int(indices.min())
            yield node.attribute("axis", 0), max(highest + 1, -lowest)
    if not is_a(node, "Slice"):
        return
    starts = node.int_list("starts", 1)
    axes = node.int_list("axes", 3) or list(range(len(starts or ())))
    steps = node.int_list("steps", 4) or [1] * len(axes)
    for start, axis, step in zip(starts or (), axes, steps, strict=False):
        if step > 0:
            yield axis, start + 1


def _keeps_width(node: Node, axis: int, rank: int) -> bool:
    """Return whether what a node gives is as wide along an axis as what it reads."""
    along_another = is_a(node, "Concat") and not node.domain and node.attribute("axis", 0) % rank != axis
    return node in _SAME_WIDTH or along_another


def _contracted(node: Node, axis: int, rank: int) -> int | None:
    weight = node.input(1)
    if weight is None or not weight.is_constant:
        return None
    groups = int(node.attribute("group", 1))
    if groups > 1:
        channels = _dim(weight, 1) if kernel_of(node) is not None and axis == 1 else None
        return None if channels is None else channels * groups
    found = contraction_of(node)
    if found is None or is_a(node, "com.microsoft.MatMulNBits") or len(found.axes_of(0)) != rank:
        return None
    letter = found.axes_of(0)[axis]
    if letter not in found.contracted or letter not in found.axes_of(1):
        return None
    return _dim(weight, found.axes_of(1).index(letter))


def _joined(node: Node, axis: int, rank: int) -> int | None:
    """All inputs of a Concat agree on every axis but one."""
    if not is_a(node, "Concat") or node.domain or node.attribute("axis", 0) % rank == axis:
        return None
    return next((size for value in node.inputs if (size := _dim(value, axis)) is not None), None)


def _cached(use: Use, axis: int, rank: int) -> int | None:
    """Heads and head size of the past of a fused attention operator; its last axes are `[heads, length, size]`."""
    layout = layout_of(use.node)
    if layout is None or rank < 4 or use.input_index not in layout.inputs:
        return None
    carrier = layout.inputs[use.input_index]
    if carrier.axis != rank - 3 or len(carrier.runs) != 1:
        return None
    if axis == carrier.axis:
        return layout.num_heads if carrier.runs[0].heads is Heads.QUERY else layout.kv_num_heads
    return layout.head_size if axis == rank - 1 and layout.head_size == layout.v_head_size else None


def _dim(value: Value | None, axis: int) -> int | None:
    return None if value is None else known_size(value.shape, axis)
