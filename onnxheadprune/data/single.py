"""Models that run on one sample at a time, whatever their inputs declare: measured on data, once per model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnxheadprune.errors import InferenceError
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, rows_of
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import Sample

ONE_AT_A_TIME = (
    "the original takes one sample at a time, whatever its inputs declare, so the data is run one by one"
)
Run = Callable[[Feed], Outputs]


def free_axes(sample: Sample, inputs: Sequence[Input]) -> dict[str, int]:
    """The batch axis of each input; empty where the batch is fixed, or a feed has several batch sizes."""
    rows = rows_of(sample.feed, inputs)
    batched = {item: axis for item in inputs if (axis := item.batch_axis) is not None}
    free = all(
        not isinstance(item.dims[axis], int) and sample.feed[item.name].shape[axis] == rows
        for item, axis in batched.items()
    )
    return {item.name: axis for item, axis in batched.items()} if free else {}


def part_of(sample: Sample, inputs: Sequence[Input], rows: Sequence[int]) -> Sample:
    """Some samples of a feed whose batch is free."""
    axes, chosen = free_axes(sample, inputs), np.array(rows, np.intp)
    feed = {
        item.name: sample.feed[item.name].take(chosen, axis=axes[item.name])
        if item.name in axes
        else sample.feed[item.name]
        for item in inputs
    }
    return Sample(feed, None if sample.labels is None else sample.labels[chosen], sample.source)


def one_by_one(sample: Sample, inputs: Sequence[Input]) -> Iterator[Sample]:
    """The samples of a feed, one per feed where the batch is free."""
    if not free_axes(sample, inputs):
        yield sample
        return
    for row in range(rows_of(sample.feed, inputs)):
        yield part_of(sample, inputs, [row])


def takes_one(sample: Sample, inputs: Sequence[Input], run: Run) -> bool:
    """Return whether a model runs on one sample only, or does not return two results for two samples."""
    if not free_axes(sample, inputs) or rows_of(sample.feed, inputs) < 2:
        return False
    alone, both = (_first_shape(run, part_of(sample, inputs, range(rows)).feed) for rows in (1, 2))
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
