"""Concat and Split: pieces of one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import (
    MARK,
    AddConstant,
    DropInputs,
    DropOutputs,
    Edit,
    SetAttribute,
    SetDim,
    SetInput,
)
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import rows
from onnxheadprune.liveness.live import Live, fits
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.target_shapes import scaled
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, simplicity
from onnxheadprune.model.graph.elements import MAX_ELEMENTS, Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import OBSERVES, ROUNDS_ACTIVATIONS, Roles, Shapes
from onnxheadprune.model.graph.view import Node, Value, named
from onnxheadprune.operators.record import operator


def _pieces(node: Node) -> range:
    """The inputs that are joined: all, or those of triples with scale and zero point, behind two of the output."""
    return range(2, len(node.inputs), 3) if node.domain else range(len(node.inputs))


def _concat_shape(node: Node) -> Shapes:
    shapes = [node.shape(index) for index in _pieces(node)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known or len({len(shape) for shape in known}) != 1:
        return [None]
    axis = node.attribute("axis", 0) % len(known[0])
    total: Dim = 0
    for shape in known:
        total = dims.add(total, shape[axis])
    rest = [min((shape[i] for shape in known), key=simplicity) for i in range(len(known[0]))]
    rest[axis] = total
    return [tuple(rest)]


def _concat_numbers(node: Node) -> Elements | None:
    parts = [_part(node, index) for index in range(len(node.inputs))]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    if sum(part.size for part in parts if part is not None) > MAX_ELEMENTS:
        return None
    joined = np.concatenate([part for part in parts if part is not None])
    return None if all(item is None for item in joined) else joined


def _part(node: Node, index: int) -> Elements | None:
    """The elements of one piece of a vector; of unknown ones at least how many they are."""
    known, shape = elements_of(node, index), node.shape(index)
    if known is not None or shape is None or len(shape) != 1:
        return known
    count = shape[0]
    return boxed([None] * count, (count,)) if isinstance(count, int) and count <= MAX_ELEMENTS else None


def _concat(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Each input is its part of the output; an input of which nothing is live is dropped."""
    live, out_shape = lives[0], node.out.shape
    if out_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(out_shape)
    inputs: dict[int, Live] = {}
    copies = _copies(node, live, axis)
    if copies is not None:
        live = copies
    start = 0
    for index in _pieces(node):
        shape = node.shape(index)
        if shape is None:
            return unknown_shape(node)
        size = shape[axis]
        piece = live
        if axis in live.axes:
            count = dims.divide(size, live.repeat(axis))
            if not isinstance(count, int) or start + count > live.period(axis):
                return inexpressible(node)
            array = live.array.take(range(start, start + count), axis=live.axes.index(axis))
            piece = Live.over(live.axes, array, live.repeats)
            start += count
        if size == 0 and out_shape[axis] != 0:
            # It adds nothing, and need not follow what becomes of the others.
            piece = Live((), np.zeros((), live.array.dtype))
        if not fits(piece, shape):
            return unknown_shape(node)
        inputs[index] = piece
    if not live.is_product and len({rows(piece, axis) for piece in inputs.values() if not piece.is_dead}) > 1:
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        dead = [index for index, piece in inputs.items() if piece.is_dead]
        width = _pieces(node).step
        return [DropInputs(node.ref, tuple(i + k for i in dead for k in range(width)))] if dead else []

    return Answer(inputs, rewrite)


def _copies(node: Node, live: Live, axis: int) -> Live | None:
    """A mask that keeps the first of equal pieces; None unless one value is stacked, and which copies stay differs.

    Query heads of each group may go at other places: any copy of the shared head serves those that are left.
    """
    first, shape = node.inputs[0], live.dense_shape()
    if live.is_product or not live.is_mask or shape is None or live.axes[-1] != axis:
        return None
    if first is None or first.shape is None or first.shape[axis] != 1:
        return None
    if not all(value is not None and _are_twins(first, value) for value in node.inputs):
        return None
    row = np.arange(live.period(axis)) < shape[-1]
    return Live.over(live.axes, live.mask.any(axis=-1, keepdims=True) & row, live.repeats)


def _are_twins(first: Value, second: Value) -> bool:
    """Return whether two values are one, or the same view of one: an exporter writes a node for every copy."""
    one, other = first.producer, second.producer
    if first is second or one is None or other is None:
        return first is second
    same = (one.domain, one.op_type) == (other.domain, other.op_type) == ("", "Unsqueeze")
    if not same or list(one.proto.attribute) != list(other.proto.attribute):
        return False
    return (
        one.inputs[0] is other.inputs[0] and one.int_list("axes", 1) == other.int_list("axes", 1) is not None
    )


operator("Concat", shape=_concat_shape, elements=_concat_numbers, rule=_concat, ragged=True, repeats=True)
operator(
    "com.microsoft.QLinearConcat",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(alike=(1, 2), output_zero=1),
    shape=_concat_shape,
    rule=_concat,
)


def _split_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None or not shape:
        return [None] * len(node.outputs)
    axis = node.attribute("axis", 0) % len(shape)
    sizes = _stated_sizes(node)
    if sizes is None:
        count, whole = len(node.outputs), shape[axis]
        equal = dims.divide(whole, count)
        if equal is not None:
            sizes = [equal] * count
        elif isinstance(whole, int):
            chunk = -(-whole // count)
            sizes = [min(chunk, whole - chunk * index) for index in range(count)]
        else:
            return [None] * count
    return [(*shape[:axis], named(size, node, axis), *shape[axis + 1 :]) for size in sizes]


def _stated_sizes(node: Node) -> Sequence[Dim | None] | None:
    """The sizes that a node states, None for each that is not known; None where it states none."""
    literal = node.int_list("split", 1)
    if literal is not None or node.input(1) is None:
        return literal
    elements = elements_of(node, 1)
    return [None] * len(node.outputs) if elements is None else list(elements.reshape(-1))


def _split_numbers(node: Node) -> list[Elements | None]:
    """The elements of every output of a Split of a shape vector."""
    data = elements_of(node, 0)
    sizes = [None if value is None or value.shape is None else value.shape[0] for value in node.outputs]
    if data is None or data.ndim != 1 or not all(isinstance(size, int) for size in sizes):
        return [None] * len(sizes)
    stops = np.cumsum([size for size in sizes if isinstance(size, int)])
    return list(np.split(data, stops[:-1]))


def _split(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The outputs' masks side by side are the input's mask; the sizes of the pieces follow."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(shape)
    run, sizes = _piece_sizes(node, lives, axis)
    if sizes is None:
        first = lives[0]
        agree = all(live == first for live in lives) and axis not in first.axes
        return Answer({0: first}) if agree else inexpressible(node)
    lives = _with_unread(node, lives, axis)
    alive = [live for live in lives if not live.is_dead]
    if any(axis in live.axes and live.repeat(axis) != run for live in alive):
        return inexpressible(node)
    if len({rows(live, axis) for live in alive}) > 1 or any(live.dense_shape() is None for live in alive):
        return inexpressible(node)
    joined = join(lives, sizes, axis, run)
    if alive and joined.is_dead:
        # Pieces without elements have a shape that must follow.
        return inexpressible(node)
    counts = [_count(live, size, axis) for live, size in zip(lives, sizes, strict=True)]
    unstated = run != 1 and counts != sizes and node.input(1) is None
    if unstated and (len({*counts} - {0}) > 1 or _is_dead_piece_observed(node, counts)):
        # Only equal pieces are spelled without sizes.
        return inexpressible(node)

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        if counts == sizes:
            return []
        if unstated:
            return _fewer_pieces(node, counts)
        stated = _new_sizes(node, counts) if run == 1 else _scaled_sizes(node, sizes, counts)
        return [*stated, *_empty(node, counts, axis)]

    return Answer({0: joined}, rewrite, kept=tuple(lives))


def _with_unread(node: Node, lives: Sequence[Live], axis: int) -> Sequence[Live]:
    """Pieces that nobody reads in the original keep what the others keep, unless heads lie along the split axis."""
    unread = [
        output is not None and not output.consumers and not output.is_graph_output for output in node.outputs
    ]
    read = [live for live, alone in zip(lives, unread, strict=True) if not alone]
    if not any(unread) or not read or axis in read[0].axes or any(live != read[0] for live in read):
        return lives
    if read[0].is_dead or not read[0].is_mask:
        return lives
    return [read[0] if alone else live for live, alone in zip(lives, unread, strict=True)]


def _piece_sizes(node: Node, lives: Sequence[Live], axis: int) -> tuple[Dim, list[int] | None]:
    """Return a length (1, or an unknown one) and how many times as long each piece is; None where none serves."""
    sizes: list[Dim] = []
    for output in node.outputs:
        if output is None or output.shape is None:
            return 1, None
        sizes.append(output.shape[axis])
    run: Dim = 1
    if any(not isinstance(size, int) for size in sizes):
        repeats = [live.repeat(axis) for live in lives if axis in live.axes]
        run = repeats[0] if repeats else sizes[0]
    numbers = [number for size in sizes if isinstance(number := dims.divide(size, run), int)]
    return run, numbers if len(numbers) == len(sizes) else None


def join(lives: Sequence[Live], sizes: Sequence[int], axis: int, run: Dim = 1) -> Live:
    """Masks of pieces of `axis`, of the given sizes in repeats of a length, as one mask of the whole."""
    axes = sorted({axis}.union(*(live.axes for live in lives)))
    periods = [int(np.lcm.reduce([live.period(other) for live in lives])) for other in axes]
    blocks = []
    for live, size in zip(lives, sizes, strict=True):
        periods[axes.index(axis)] = size
        blocks.append(live.aligned(axes, periods))
    repeats = {run for live in lives for run in live.repeats} | ({(axis, run)} if run != 1 else set())
    return Live.over(axes, np.concatenate(blocks, axis=axes.index(axis)), tuple(repeats))


def _is_dead_piece_observed(node: Node, counts: Sequence[int]) -> bool:
    dead = [output for output, count in zip(node.outputs, counts, strict=True) if not count]
    return any(use.node in OBSERVES for output in dead if output is not None for use in output.consumers)


def _fewer_pieces(node: Node, counts: Sequence[int]) -> Sequence[Edit]:
    """Edits that leave out the pieces of an equal division of which nothing is live."""
    dead = tuple(index for index, count in enumerate(counts) if not count)
    edits: list[Edit] = [DropOutputs(node.ref, dead)] if dead else []
    if dead and node.attribute("num_outputs") is not None:
        edits.append(SetAttribute(node.ref, "num_outputs", len(counts) - len(dead)))
    return edits


def _count(live: Live, size: int, axis: int) -> int:
    if live.is_dead:
        return 0
    return live.extent(axis)[0] if axis in live.axes else size


def _empty(node: Node, counts: Sequence[int], axis: int) -> Sequence[Edit]:
    """A piece of which nothing is live has width 0 and no reader; what is declared of it must say so."""
    return [
        SetDim(node.scope.ref, output.name, axis, 0)
        for output, count in zip(node.outputs, counts, strict=True)
        if count == 0 and output is not None
    ]


def _scaled_sizes(node: Node, sizes: Sequence[int], counts: Sequence[int]) -> Sequence[Edit]:
    """Edits that make pieces shorter whose sizes are computed."""
    source, name = node.inputs[1], f"{node.out.name}/{MARK}_split"
    assert source is not None
    periods = [size or 1 for size in sizes]  # An empty piece stays one.
    return [
        *scaled(node.ref, node.scope.ref, source.name, name, periods, counts),
        SetInput(node.ref, 1, name),
    ]


def _new_sizes(node: Node, counts: Sequence[int]) -> Sequence[Edit]:
    if node.opset < 13:
        return [SetAttribute(node.ref, "split", tuple(counts))]
    name = f"{node.out.name}/{MARK}_split"
    edits: list[Edit] = [AddConstant(node.scope.ref, name, tuple(counts)), SetInput(node.ref, 1, name)]
    if node.attribute("num_outputs") is not None:
        edits.append(SetAttribute(node.ref, "num_outputs", None))
    return edits


operator(
    "Split",
    roles=Roles(places=(1,)),
    shape=_split_shape,
    elements=_split_numbers,
    rule=_split,
    ragged=True,
    repeats=True,
)
