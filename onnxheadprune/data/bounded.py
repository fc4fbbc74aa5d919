"""Feeds whose outputs fit into memory: a batch is divided before it runs.

A model with 150,000 words outputs 0.6 MB for every token, whatever its own size: 32 lines of 127 words are 2.5 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxheadprune.data.single import free_axes, part_of, rows_of
from onnxheadprune.model.graph.dims import Dim, Symbolic
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.tensors import BITS
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.runtime.mapped import OUTPUT_BYTES

WIDEST = 64
"""Bits of the widest element."""


def bounded(sample: Sample, view: GraphView, inputs: Sequence[Input]) -> Iterator[Sample]:
    """Yield a feed in parts of equally many samples, none with an output of more than `OUTPUT_BYTES`."""
    rows = rows_of(sample.feed, inputs)
    parts = min(-(-output_bytes(view, sample) // OUTPUT_BYTES), rows)
    if parts <= 1 or not free_axes(sample, inputs):
        yield sample
        return
    for some in np.array_split(np.arange(rows), parts):
        yield part_of(sample, inputs, some.tolist())


def output_bytes(view: GraphView, sample: Sample) -> int:
    """Return the estimated size of the model's largest output for a feed."""
    sizes = dict(_sizes(view, sample))
    unknown = max((max(array.shape) for array in sample.feed.values() if array.ndim == 2), default=1)
    found = [0]
    for info in view.model.graph.output:
        value = view.main.lookup(info.name)
        if value is not None and value.shape is not None:
            elements = math.prod(_number(dim, sizes, unknown) for dim in value.shape)
            found.append(elements * BITS.get(value.elem_type, WIDEST) // 8)
    return max(found)


def _sizes(view: GraphView, sample: Sample) -> Iterator[tuple[str, int]]:
    """The names of dimensions of the inputs, with their sizes in a feed."""
    for name, array in sample.feed.items():
        value = view.main.values.get(name)
        if value is not None and value.shape is not None and len(value.shape) == array.ndim:
            yield from (
                (str(dim), size) for dim, size in zip(value.shape, array.shape, strict=True) if _is_name(dim)
            )


def _is_name(dim: Dim) -> bool:
    return isinstance(dim, Symbolic) and len(dim.terms) == 1 and len(dim.terms[0][0]) == 1


def _number(dim: Dim, sizes: Mapping[str, int], unknown: int) -> int:
    """The size of a dimension; a name that no input has is taken for the length of a text."""
    if isinstance(dim, int):
        return dim
    terms = (factor * math.prod(sizes.get(name, unknown) for name in names) for names, factor in dim.terms)
    return max(sum(terms), 1)
