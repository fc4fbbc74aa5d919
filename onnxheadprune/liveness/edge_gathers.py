"""Edge gathers: a consumer gets fewer indices than the value keeps. Always exact, never free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, EdgeGather, Edit, SetInput, SetOutput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.axes import ranks_within
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.dims import Shape, Symbolic, multiply
from onnxheadprune.model.graph.view import Scope, Use, Value


def edge_gather(use: Use, value: Value, have: Live, wanted: Live, reason: str) -> list[Edit]:
    """Edits that narrow one edge from the kept part of `value` to the part that its consumer needs.

    A `Gather` per axis where the axes are independent, else a `Gather` on the flattened axes.
    """
    node = use.node
    place = _Place(node.scope, node.ref, f"{value.name}/{MARK}_edge_{use.name}")
    known = _numbers(place, value, wanted)
    if known is not None:
        return [known, SetInput(node.ref, use.input_index, known.name)]
    record = EdgeGather(node.ref, use.input_index, value.name, reason, _elements(value))
    edits, result = _narrowing(place, value, value.name, have, wanted)
    return [record, *edits, SetInput(node.ref, use.input_index, result)]


def _numbers(place: _Place, value: Value, wanted: Live) -> AddConstant | None:
    """The wanted part of a value with known numbers, as a constant instead of a gather."""
    literal = None if value.elements is None or value.elem_type not in (6, 7) else value.literal()
    if literal is None or not literal.ndim or wanted.dense_shape() is None:
        return None
    if any(literal.shape[axis] != wanted.period(axis) for axis in wanted.axes):
        return None
    shape = list(literal.shape)
    for axis, size in zip(wanted.axes, wanted.dense_shape() or (), strict=True):
        shape[axis] = size
    mask = wanted.aligned(range(literal.ndim), literal.shape) != 0
    part = literal[mask].reshape(shape)
    dtype = np.int64 if value.elem_type == TensorProto.INT64 else np.int32
    return AddConstant.of(place.scope.ref, f"{place.name}_numbers", part.astype(dtype))


def output_gather(value: Value, have: Live, wanted: Live, reason: str) -> list[Edit]:
    """Gather an output of an `If` branch: the value is renamed, and the gather takes over its name."""
    producer = value.producer
    assert producer is not None
    scope, raw = value.scope, f"{value.name}/{MARK}_raw"
    place = _Place(scope, f"{scope.ref}[{len(scope.nodes)}]", f"{value.name}/{MARK}_out")
    record = EdgeGather(producer.ref, -1, value.name, reason, _elements(value))
    edits, result = _narrowing(place, value, raw, have, wanted)
    readers = [SetInput(use.node.ref, use.input_index, raw) for use in value.consumers]
    named = nodes.new(place.before, "Identity", (result,), value.name)
    return [record, SetOutput(producer.ref, value.output_index, raw), *readers, *edits, named]


@dataclass(frozen=True)
class _Place:
    """The position of new nodes, and the names of their values."""

    scope: Scope
    before: str
    name: str


def _elements(value: Value) -> int | None:
    assert value.shape is not None
    size = math.prod(dim for dim in value.shape if isinstance(dim, int))
    return None if any(isinstance(dim, Symbolic) for dim in value.shape) else size


def _narrowing(place: _Place, value: Value, source: str, have: Live, wanted: Live) -> tuple[list[Edit], str]:
    """Edits that make the wanted part of `source`, and the name of the result."""
    assert value.shape is not None
    concrete = all(isinstance(value.shape[axis], int) for axis in {*wanted.axes, *have.axes})
    if concrete and wanted.is_product and have.is_product:
        return _per_axis(place, source, have, wanted)
    axes = sorted({*wanted.axes, *have.axes})
    unknown = [axis for axis in axes if isinstance(value.shape[axis], Symbolic)]
    apart = wanted.is_product and have.is_product
    # How a ragged mask is packed hangs on the order of its axes, and one of unknown size has to come first.
    if len(unknown) > 1 or (unknown and unknown[0] != axes[0] and not apart):
        raise RefusedError(
            f"axis {unknown[-1]} of {value.name} has no fixed size, so that nothing can be picked from it"
        )
    order = _together(value.shape, axes, unknown)
    if order == list(range(len(value.shape))):
        return _flattened(place, value.shape, source, have, wanted)
    # What is picked from lies apart: it is brought together, and back afterwards.
    shape = tuple(value.shape[axis] for axis in order)
    turned, back = f"{place.name}_turned", f"{place.name}_back"
    places = {axis: position for position, axis in enumerate(order)}
    edits, picked = _flattened(place, shape, turned, have.renumbered(places), wanted.renumbered(places))
    returned = tuple(places[axis] for axis in range(len(order)))
    first = nodes.new(place.before, "Transpose", (source,), turned, perm=tuple(order))
    return [first, *edits, nodes.new(place.before, "Transpose", (picked,), back, perm=returned)], back


def _together(shape: Shape, axes: Sequence[int], unknown: Sequence[int]) -> list[int]:
    """An order of axes in which some are adjacent, one of unknown size first."""
    known = [axis for axis in axes if axis not in unknown]
    if not any(isinstance(shape[axis], Symbolic) for axis in range(axes[0] + 1, axes[-1] + 1)):
        return list(range(len(shape)))
    between = [axis for axis in range(axes[0], axes[-1] + 1) if axis not in axes]
    return [*range(axes[0]), *between, *unknown, *known, *range(axes[-1] + 1, len(shape))]


def _per_axis(place: _Place, source: str, have: Live, wanted: Live) -> tuple[list[Edit], str]:
    edits: list[Edit] = []
    for axis in sorted({*wanted.axes, *have.axes}):
        ranks = ranks_within(wanted.only([axis]), have.only([axis]), axis)
        if axis not in wanted.axes or (axis in have.axes and len(ranks) == have.extent(axis)[0]):
            continue
        target = f"{place.name}_{axis}"
        edits += [
            AddConstant(place.scope.ref, f"{target}_indices", tuple(int(rank) for rank in ranks)),
            nodes.new(place.before, "Gather", (source, f"{target}_indices"), target, axis=axis),
        ]
        source = target
    return edits, source


def _flattened(place: _Place, of: Shape, source: str, have: Live, wanted: Live) -> tuple[list[Edit], str]:
    """Reshape the involved axes into (repetitions, period), pick, and reshape back; only the first may be unknown.

    Entries that are runs of positions make it (period, run). A size that is known is written: none can be inferred
    beside an axis without positions.
    """
    scope, before, rank, name = place.scope.ref, place.before, len(of), place.name
    axes = sorted({*wanted.axes, *have.axes})
    first, last = axes[0], axes[-1] + 1
    span = list(range(first, last))
    inferred = isinstance(of[first], Symbolic)
    if 0 in of and (inferred or len(span) != 2):
        # A target of 0 copies the size at the same place, where another axis may lie.
        raise RefusedError(f"{source} has an axis without positions, so that nothing can be picked from it")
    sizes = []
    for axis in span:
        dim = of[axis]
        if isinstance(dim, Symbolic):
            dim = max(have.period(axis), wanted.period(axis))
        sizes.append(dim)
    kinds = {live.repeats for live in (have, wanted) if live.axes}
    repeats = any(kinds)
    if repeats and (
        len(kinds) > 1 or [multiply(sizes[0], wanted.repeat(first))] != [of[axis] for axis in span]
    ):
        raise RefusedError(
            f"axis {first} of {source} has no fixed size, so that nothing can be picked from it"
        )
    asked = wanted.aligned(span, sizes) != 0
    kept = have.aligned(span, sizes) != 0
    ranks = (np.cumsum(kept.reshape(-1)) - 1)[asked.reshape(-1)]
    counts = _compacted(span, asked)
    edits: list[Edit] = []

    def constant(suffix: str, *numbers: int) -> str:
        edits.append(AddConstant(scope, f"{name}_{suffix}", numbers))
        return f"{name}_{suffix}"

    def cut_shape(suffix: str, start: int, end: int) -> str:
        part = f"{name}_{suffix}"
        edits.append(
            nodes.new(before, "Gather", (shape, constant(f"{suffix}_axes", *range(start, end))), part, axis=0)
        )
        return part

    shape, flat, rows, picked = (f"{name}_{suffix}" for suffix in ("shape", "flat", "rows", "picked"))
    target, result = f"{name}_target", f"{name}_narrowed"
    edits.append(nodes.new(before, "Shape", (source,), shape))
    head, tail = cut_shape("head", 0, first), cut_shape("tail", last, rank)
    repeated = -1 if inferred else 1
    whole = constant("period", *((int(kept.sum()), repeated) if repeats else (repeated, int(kept.sum()))))
    edits.append(nodes.new(before, "Concat", (head, whole, tail), flat, axis=0))
    edits.append(nodes.new(before, "Reshape", (source, flat), rows))
    indices = constant("indices", *(int(rank) for rank in ranks))
    edits.append(nodes.new(before, "Gather", (rows, indices), picked, axis=first + (not repeats)))
    sizes_left = constant("sizes", -1 if inferred else counts[0], *counts[1:])
    edits.append(nodes.new(before, "Concat", (head, sizes_left, tail), target, axis=0))
    edits.append(nodes.new(before, "Reshape", (picked, target), result))
    return edits, result


def _compacted(span: list[int], asked: np.ndarray) -> list[int]:
    """The size of every axis of the span once it holds `asked` alone, those without variation included."""
    live = Live.over(span, asked)
    shape = live.dense_shape()
    assert shape is not None
    return [
        shape[live.axes.index(axis)] if axis in live.axes else asked.shape[position]
        for position, axis in enumerate(span)
    ]
