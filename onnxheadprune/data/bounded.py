"""Feeds whose outputs fit into memory: a batch is divided before it runs.

A model with 150,000 words outputs 0.6 MB for every token, whatever its own size: 32 lines of 127 words are 2.5 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from onnxheadprune.data.single import free_axes, part_of
from onnxheadprune.model.graph.dims import evaluated
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.tensors import BITS
from onnxheadprune.runtime.feeds.generate import rows_of
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.runtime.mapped import OUTPUT_BYTES, sizes_of

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
    sizes, found = sizes_of(view, sample.feed), [0]
    texts = [array for array in sample.feed.values() if array.ndim == 2]
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
