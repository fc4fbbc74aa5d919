"""Edge gathers: a consumer gets fewer indices than the value keeps. Always exact, never free."""

from __future__ import annotations

import math

import numpy as np

from onnxheadprune.edits import AddConstant, EdgeGather, Edit, InsertNode, SetInput
from onnxheadprune.errors import RefusedError
from onnxheadprune.graph.dims import Symbolic
from onnxheadprune.graph.view import Use, Value
from onnxheadprune.liveness.literals import MARK
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.rules.indexing import ranks_within

ROW_MAJOR_END = 2**63 - 1


def edge_gather(use: Use, value: Value, have: Live, wanted: Live, reason: str) -> list[Edit]:
    """Edits that narrow one edge from what `value` keeps to what its consumer wants.

    Args:
        use: the edge.
        value: the value on it.
        have: what the value keeps.
        wanted: what the consumer reads, a part of `have`.
        reason: why the value itself is not narrowed.

    Returns:
        A `Gather` per axis where the axes are independent, else a `Gather` on the flattened axes.
    """
    assert value.shape is not None
    if value.producer is not None and value.producer.op_type == "SplitToSequence":
        raise RefusedError(f"the chunks of {value.name} are needed differently by different nodes")
    node, name = use.node, f"{value.name}/{MARK}_edge{use.node.index}_{use.input_index}"
    size = math.prod(dim for dim in value.shape if isinstance(dim, int))
    elements = None if any(isinstance(dim, Symbolic) for dim in value.shape) else size
    edits: list[Edit] = [EdgeGather(node.ref, use.input_index, value.name, reason, elements)]
    concrete = all(isinstance(value.shape[axis], int) for axis in {*wanted.axes, *have.axes})
    if concrete and wanted.is_product and have.is_product:
        return edits + _per_axis(use, value, have, wanted, name)
    return edits + _flattened(use, value, have, wanted, name)


def _per_axis(use: Use, value: Value, have: Live, wanted: Live, name: str) -> list[Edit]:
    edits: list[Edit] = []
    source = value.name
    for axis in sorted({*wanted.axes, *have.axes}):
        ranks = ranks_within(wanted.only([axis]), have.only([axis]), axis)
        if axis not in wanted.axes or (axis in have.axes and len(ranks) == have.extent(axis)[0]):
            continue
        target = f"{name}_{axis}"
        edits += [
            AddConstant(use.node.scope.ref, f"{target}_indices", tuple(int(rank) for rank in ranks)),
            InsertNode(use.node.ref, "Gather", (source, f"{target}_indices"), (target,), (("axis", axis),)),
        ]
        source = target
    return [*edits, SetInput(use.node.ref, use.input_index, source)]


def _flattened(use: Use, value: Value, have: Live, wanted: Live, name: str) -> list[Edit]:
    """Reshape the involved axes into (repetitions, period), pick, and reshape back."""
    assert value.shape is not None
    scope, before, rank = use.node.scope.ref, use.node.ref, len(value.shape)
    axes = sorted({*wanted.axes, *have.axes})
    first, last = axes[0], axes[-1] + 1
    span = list(range(first, last))
    sizes = []
    for axis in span:
        dim = value.shape[axis]
        period = max(have.period(axis), wanted.period(axis))
        sizes.append(period if axis == first and isinstance(dim, Symbolic) else _number(dim))
    asked = wanted.aligned(span, sizes) != 0
    kept = have.aligned(span, sizes) != 0
    ranks = (np.cumsum(kept.reshape(-1)) - 1)[asked.reshape(-1)]
    dense = Live.over(span, asked).dense_shape() if asked.ndim > 1 else (int(asked.sum()),)
    counts = _spread_counts(span, asked, dense)

    def constant(suffix: str, *numbers: int) -> str:
        edits.append(AddConstant(scope, f"{name}_{suffix}", numbers))
        return f"{name}_{suffix}"

    def insert(op: str, suffix: str, *inputs: str, axis: int | None = None) -> str:
        attributes = () if axis is None else (("axis", axis),)
        edits.append(InsertNode(before, op, inputs, (f"{name}_{suffix}",), attributes))
        return f"{name}_{suffix}"

    def cut_shape(suffix: str, source: str, start: int, end: int) -> str:
        if use.node.scope.opset >= 10:
            return insert(
                "Slice", suffix, source, constant(f"{suffix}_start", start), constant(f"{suffix}_end", end)
            )
        bounds = (("starts", (start,)), ("ends", (end,)), ("axes", (0,)))
        edits.append(InsertNode(before, "Slice", (source,), (f"{name}_{suffix}",), bounds))
        return f"{name}_{suffix}"

    edits: list[Edit] = []
    shape = insert("Shape", "shape", value.name)
    head, tail = cut_shape("head", shape, 0, first), cut_shape("tail", shape, last, rank)
    flat = insert("Concat", "flat", head, constant("period", -1, int(kept.sum())), tail, axis=0)
    rows = insert("Reshape", "rows", value.name, flat)
    picked = insert(
        "Gather", "picked", rows, constant("indices", *(int(rank) for rank in ranks)), axis=first + 1
    )
    target = insert("Concat", "target", head, constant("sizes", -1, *counts[1:]), tail, axis=0)
    result = insert("Reshape", "narrowed", picked, target)
    return [*edits, SetInput(use.node.ref, use.input_index, result)]


def _spread_counts(span: list[int], asked: np.ndarray, dense: tuple[int, ...] | None) -> list[int]:
    """Compacted sizes for every axis of the span, those without variation included."""
    live = Live.over(span, asked)
    shape = live.dense_shape()
    assert shape is not None and dense is not None
    return [
        shape[live.axes.index(axis)] if axis in live.axes else asked.shape[position]
        for position, axis in enumerate(span)
    ]


def _number(dim: object) -> int:
    assert isinstance(dim, int)
    return dim
