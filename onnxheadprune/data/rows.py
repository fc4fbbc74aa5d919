"""A sample is a row, which keeps its batch axis of 1. Batches are rows side by side, made when they run.

A feed of a fixed batch is one row, and shares a batch with no other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, overload

import numpy as np

from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.dims import Symbolic, evaluated
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.tensors import BITS
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, rows_of
from onnxheadprune.runtime.feeds.inputs import Input, SymbolicDim

BATCH = 32
"""Rows of a batch, where their outputs fit into memory."""
ONE_AT_A_TIME = (
    "the original takes one sample at a time, whatever its inputs declare, so the data is run one by one"
)
OUTPUT_BYTES = 2**26
"""Bytes of the largest output of a run; a batch is divided to stay below it."""
WIDEST = 64
"""Bits of the widest element."""
Run = Callable[[Feed], Outputs]
Item = TypeVar("Item", covariant=True)


class Lazily(Sequence[Item]):
    """Items that are made whenever one is asked for."""

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Item: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Item]: ...

    def __getitem__(self, number: int | slice) -> Item | Sequence[Item]:
        numbers = range(self._count)[number]
        return self._make(numbers) if isinstance(numbers, int) else [self._make(each) for each in numbers]


def _free_axes(feed: Feed, inputs: Sequence[Input]) -> dict[str, int]:
    """The batch axis of each input; empty where the batch is fixed, or a feed has several batch sizes."""
    rows = rows_of(feed, inputs)
    batched = {item: axis for item in inputs if (axis := item.batch_axis) is not None}
    free = all(
        not isinstance(item.dims[axis], int) and feed[item.name].shape[axis] == rows
        for item, axis in batched.items()
    )
    return {item.name: axis for item, axis in batched.items()} if free else {}


def rows_in(sample: Sample, inputs: Sequence[Input]) -> list[Sample]:
    """The rows of a batch, as views of its arrays."""
    axes, count = _free_axes(sample.feed, inputs), rows_of(sample.feed, inputs)
    if not axes or count < 2:
        return [sample]
    parts = {name: np.split(sample.feed[name], count, axis) for name, axis in axes.items()}
    labels = [None] * count if sample.labels is None else np.split(sample.labels, count)
    return [
        replace(sample, feed={**sample.feed, **{name: parts[name][row] for name in axes}}, labels=labels[row])
        for row in range(count)
    ]


def joined(rows: Sequence[Sample], inputs: Sequence[Input]) -> Sample:
    """Rows that may share a batch as one, padded with zeros to one length, or to the one that the model takes."""
    first, axes = rows[0], _free_axes(rows[0].feed, inputs)
    feed = {
        item.name: _side_by_side([row.feed[item.name] for row in rows], axes[item.name], item.dims)
        if item.name in axes
        else first.feed[item.name]
        for item in inputs
    }
    labels = [row.labels for row in rows if row.labels is not None]
    return replace(first, feed=feed, labels=np.concatenate(labels) if labels else None)


def _side_by_side(arrays: Sequence[Array], axis: int, dims: Sequence[SymbolicDim]) -> Array:
    shapes = [array.shape for array in arrays]
    sizes = [dim if isinstance(dim, int) else max(each) for dim, *each in zip(dims, *shapes, strict=True)]
    if all(shape == tuple(sizes) for shape in shapes):
        return np.concatenate(arrays, axis)
    sizes[axis] = len(arrays)
    found = np.zeros(sizes, arrays[0].dtype)
    for row, array in enumerate(arrays):
        place = [slice(size) for size in array.shape]
        place[axis] = slice(row, row + 1)
        found[tuple(place)] = array
    return found


def _alike(row: Sample, inputs: Sequence[Input], *, pads: bool = False) -> object:
    """A key that rows have in common which may share a batch.

    Args:
        pads: rows of different lengths may, too: a mask hides padding.
    """
    axes = _free_axes(row.feed, inputs)
    if not axes:
        return object()
    labels = None if row.labels is None else row.labels.shape
    # What all rows of a batch share must be the same.
    return labels, *(
        (array.ndim if pads else array.shape) if name in axes else (array.shape, array.tobytes())
        for name, array in row.feed.items()
    )


def in_batches(
    rows: Iterable[Sample], inputs: Sequence[Input], most: int, *, pads: bool = False
) -> list[list[Sample]]:
    """Rows in the batches that they run in: at most so many that are alike, in order."""
    found: dict[object, list[Sample]] = defaultdict(list)
    for row in rows:
        found[_alike(row, inputs, pads=pads)].append(row)
    return [group[start : start + most] for group in found.values() for start in range(0, len(group), most)]


def bounded(sample: Sample, view: GraphView, inputs: Sequence[Input]) -> Iterator[Sample]:
    """Yield a batch in parts, none of several rows with an output of more than `OUTPUT_BYTES`."""
    rows = rows_in(sample, inputs)
    for part in in_batches(rows, inputs, most_rows(output_bytes(view, rows[0].feed))):
        yield sample if len(part) == len(rows) else joined(part, inputs)


def most_rows(each: int, whole: int = OUTPUT_BYTES) -> int:
    """Rows with outputs of so many bytes that fit into a bound together, at least one.

    A model with 150,000 words outputs 0.6 MB for every token, whatever its own size: 32 lines of 127 words are 2.5 GB.
    """
    return max(whole // max(each, 1), 1)


def output_bytes(view: GraphView, feed: Feed) -> int:
    """Return the estimated size of the model's largest output for a feed."""
    found = [0]
    sizes = {
        str(dim): size
        for name, array in feed.items()
        if (value := view.main.values.get(name)) is not None
        for dim, size in zip(value.shape or (), array.shape, strict=False)
        if isinstance(dim, Symbolic)
    }
    texts = [array for array in feed.values() if array.ndim == 2]
    for info in view.model.graph.output:
        value = view.main.lookup(info.name)
        if value is None or value.shape is None:
            continue
        # A name that no input has is taken for the length of a text, or for all texts if nothing else counts them.
        whole = all(isinstance(dim, int) or evaluated(dim, sizes) is None for dim in value.shape)
        unknown = max((array.size if whole else max(array.shape) for array in texts), default=1)
        elements = math.prod(max(evaluated(dim, sizes, unknown) or 1, 1) for dim in value.shape)
        found.append(elements * BITS.get(value.elem_type, WIDEST) // 8)
    return max(found)


def takes_one(row: Sample, inputs: Sequence[Input], run: Run) -> bool:
    """Return whether a model does not run on two samples, but on one, or does not return two results for two."""
    alone, both = (_first_shape(run, joined([row] * count, inputs).feed) for count in (1, 2))
    if alone is None or both is None:
        return both is None and alone is not None
    return alone[:1] == (1,) and both[:1] != (2,)


def _first_shape(run: Run, feed: Feed) -> tuple[int, ...] | None:
    """The shape of the first output, None where the model does not run."""
    try:
        return next((value.shape for value in run(feed).values()), ())
    except InferenceError:
        return None


def fixed_to_one(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The inputs of a model that takes one sample at a time, as if they declared it."""
    return tuple(
        item
        if (axis := item.batch_axis) is None
        else replace(item, dims=(*item.dims[:axis], 1, *item.dims[axis + 1 :]))
        for item in inputs
    )
