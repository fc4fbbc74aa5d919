"""The grid: which sizes to measure, and feeds of exactly these sizes for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from onnxheadprune.benchmarking.result import GridPoint
from onnxheadprune.errors import InferenceError, UsageError
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker
from onnxheadprune.runtime.feeds.symbols import Sizes
from onnxheadprune.settings.measuring import Timing

BATCHES = (1, 8)
LENGTHS = (128, 64, 32, 16, 8, 4)
"""Lengths to try where the user names none: position tables of small models are short."""
PASTS = (128, 64, 16, 4)
EXTENTS = (224, 256, 128, 64, 32, 16, 384, 512, 1024, 3000, 16000)
"""Sides of images and lengths of sound to try where the user names none, the usual ones first."""


_SEQUENCE_WORDS = ("seq", "length", "token")
"""In names of dimensions of float inputs: embeddings come in as floats, as images do, and have a sequence."""

Runs = Callable[[GridPoint], InferenceError | None]
"""Tries the first model at a point."""


def make_grid(asked: Timing, maker: FeedMaker, runs: Runs) -> tuple[GridPoint, ...]:
    """The points to measure, each one tried on the first model.

    Raises:
        UsageError: if the model has no such axis, or it is fixed to another size.
        InferenceError: if the model does not run at a size that the user named, or at none at all.
    """
    _check(asked, maker)
    dims = dict(asked.dims)
    points: list[GridPoint] = []
    # Naming only one of the two asks for only that one.
    if asked.seq is not None or asked.past is None:
        points += _family(asked, maker, runs, decode=False, dims=dims)
    if asked.past is not None or (asked.seq is None and maker.symbols.past):
        points += _family(asked, maker, runs, decode=True, dims=dims)
    return tuple(points)


def _check(asked: Timing, maker: FeedMaker) -> None:
    found = maker.symbols
    unknown = sorted(set(asked.dims) - _symbols(maker))
    if unknown:
        listed = ", ".join(sorted(_symbols(maker))) or "none"
        raise UsageError(f"no input has a dimension {', '.join(unknown)}; open dimensions are: {listed}")
    fixed = _fixed_batch(maker)
    if asked.batch is not None and not found.batch and set(asked.batch) != {fixed}:
        raise UsageError(f"the batch of this model is fixed to {fixed}")
    if asked.seq is not None and not (found.length or _sequences(maker)):
        raise UsageError(
            "no input of this model has a sequence of open length; use --dim NAME=SIZE for others"
        )
    if asked.past is not None and not found.past:
        raise UsageError("this model has no cache of open length, so --past has no meaning")
    for name, sizes in (("batch", asked.batch), ("seq", asked.seq), ("past", asked.past)):
        if sizes is not None and (not sizes or min(sizes) < 1):
            raise UsageError(f"sizes of {name} are numbers from 1 up")


def _fixed_batch(maker: FeedMaker) -> int:
    return next((dim for item in maker.inputs if item.dims and isinstance(dim := item.dims[0], int)), 1)


def _family(
    asked: Timing, maker: FeedMaker, runs: Runs, *, decode: bool, dims: dict[str, int]
) -> Iterator[GridPoint]:
    """Points of whole sequences, or of decode steps."""
    found = maker.symbols
    batches = tuple(asked.batch or (BATCHES if found.batch else (_fixed_batch(maker),)))
    wanted = asked.past if decode else asked.seq
    usual = PASTS if decode else LENGTHS
    has_axis = bool(found.length) or bool(_sequences(maker)) or decode
    lengths: Sequence[int | None] = wanted or (usual if has_axis else (None,))
    extents: Sequence[int | None] = EXTENTS if set(found.extent) - {*dims, *_sequences(maker)} else (None,)

    def point(batch: int, length: int | None, extent: int | None) -> GridPoint:
        if decode:
            return GridPoint(batch, 1, length, extent, dims)
        return GridPoint(batch, length, 0 if found.past else None, extent, dims)

    first: InferenceError | None = None
    for extent, length in product(extents, lengths if wanted is None else lengths[:1]):
        error = runs(point(min(batches), length, extent))
        if error is None:
            chosen = lengths if wanted is not None else (length,)
            for batch, size in product(batches, chosen):
                made = point(batch, size, extent)
                error = runs(made)
                if error is not None and asked.batch is None and batch > min(batches):
                    # Many models are exported for one sample, whatever their inputs declare.
                    continue
                if error is not None:
                    raise InferenceError(f"at {made.label}: {error}")
                yield made
            return
        first = first or error
    if decode and asked.past is None:
        return
    assert first is not None
    raise first


def feed_for(maker: FeedMaker, point: GridPoint, like: Feed | None = None) -> Feed:
    """A feed of a point's sizes: ids below the vocabulary, masks of ones, positions and caches that fit together.

    Args:
        maker: of the model's feeds.
        point: the sizes.
        like: another model's feed; arrays of equal name, type and shape are taken from it, but for ids that the model
            does not have.
    """
    sizes = Sizes(point.batch, point.past or 0, point.seq or 1, point.extent or 1, distinct=False)
    known = dict.fromkeys(_sequences(maker), point.seq or 1)
    known |= {name: size for name, size in point.dims.items() if name in _symbols(maker)}
    feed = maker.sized(sizes, known, flag=bool(point.past))
    rows = {item.name: item.rows for item in maker.inputs if item.rows is not None}
    for name, array in (like or {}).items():
        own = feed.get(name)
        if name in rows and array.size and array.max() >= rows[name]:
            continue
        if own is not None and own.shape == array.shape and own.dtype == array.dtype:
            feed[name] = array
    return {name: np.ascontiguousarray(array) for name, array in feed.items()}


def _sequences(maker: FeedMaker) -> tuple[str, ...]:
    """Open dimensions of float inputs that are lengths of a sequence: by name, or as `[batch, length, 768]`."""
    embedded = {
        str(item.dims[1]) if isinstance(item.dims[1], int) else item.dims[1].text
        for item in maker.inputs
        if len(item.dims) == 3 and isinstance(item.dims[2], int)
    }
    return tuple(
        name
        for name in maker.symbols.extent
        if name in embedded or any(word in name.lower() for word in _SEQUENCE_WORDS)
    )


def _symbols(maker: FeedMaker) -> set[str]:
    found = maker.symbols
    return {*found.batch, *found.past, *found.total, *found.length, *found.extent}
