"""The user's own inputs: `.npz` files, folders of them, generators. Checked before anything runs."""

from __future__ import annotations

import inspect
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import kind_of, require_there
from onnxheadprune.model.spelling import first_few
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.arrays import Stored, open_npz, read_npz
from onnxheadprune.runtime.feeds.generate import Feed, is_finite
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.prefill import completed
from onnxheadprune.runtime.feeds.samples import IGNORED_LABEL, DataSource, Sample
from onnxheadprune.runtime.foreign import import_function, users_code

LABELS = "labels"
BATCH = 32
MAX_FEEDS = 10_000
MAX_BYTES = 2**28
"""Of all feeds that a generator may yield; nobody knows whether it ends."""


def load_data(source: DataSource, inputs: Sequence[Input]) -> Iterator[Sample]:
    """Feeds from user data, checked against the model's inputs.

    Args:
        source: an `.npz` file (arrays named as the inputs, first axis the samples), a folder of `.npz`
            files (one feed each), "module:function" that yields feeds, a mapping like an `.npz` file, or
            feeds, read already or not. An entry `labels` is kept for accuracy, other extra entries are ignored.
            Decoders with caches need neither these nor what follows from tokens: positions, lengths, flags.
    """
    count, read = parts_of(source, inputs)
    if not count:
        named = source if isinstance(source, (str, os.PathLike)) else "given"
        raise UsageError(f"the data {named} holds no feed")
    yield from (_checked(read(number), inputs) for number in range(count))


def parts_of(source: DataSource, inputs: Sequence[Input]) -> tuple[int, Callable[[int], Sample]]:
    """The number of parts that data has, and a function that reads one of them, also several times.

    Nothing is checked or completed yet.
    """
    if isinstance(source, Mapping):
        arrays = Batched(source, inputs, "the data")
    elif not isinstance(source, (str, os.PathLike)):
        return _feeds(source, "the data")
    elif stat.S_ISDIR(kind_of(source) or 0):
        files = sorted(Path(source).glob("*.npz"))
        return len(files), lambda number: _sample_of(read_npz(files[number]), str(files[number]))
    elif not require_data(source):
        return _feeds(_call(str(source)), str(source))
    else:
        arrays = Batched(open_npz(source), inputs, str(source))
    return arrays.batches, arrays.batch


def require_data(source: str | os.PathLike[str]) -> bool:
    """Return whether data is a file or a folder, and not "module:function"."""
    if kind_of(source) is None and ":" in str(source) and not str(source).endswith(".npz"):
        return False
    require_there(source, "the data ")
    return True


def _call(spec: str) -> Iterable[object]:
    """Return what the user's generator returns."""
    function = import_function(spec, "the data function")
    if _asks_for_arguments(function):
        raise UsageError(f"the data function {spec} must be callable without arguments")
    return _guarded(function, spec)


def _asks_for_arguments(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(item.default is item.empty and item.kind in positional for item in parameters)


def _guarded(function: Callable[[], object], spec: str) -> Iterator[object]:
    """Yield what the user's function yields; what it raises is the user's to read."""
    with users_code(f"the data function {spec}"):
        feeds = function()
        if not isinstance(feeds, Iterable):
            raise UsageError(f"{spec} gives no feeds, but a {type(feeds).__name__}")
        yield from feeds


def _feeds(feeds: Iterable[object], source: str) -> tuple[int, Callable[[int], Sample]]:
    """Feeds of a sequence when they are asked for; those of a generator once it has ended, within bounds."""
    if isinstance(feeds, Sequence):
        given = feeds
        return len(given), lambda position: _of_feed(given[position], position, source)
    samples = (_of_feed(feed, position, source) for position, feed in enumerate(feeds))
    kept = list(samples) if isinstance(feeds, Sized) else _ended(samples, source)
    return len(kept), kept.__getitem__


def _ended(samples: Iterable[Sample], source: str) -> list[Sample]:
    """All samples of a generator, which may be one that never ends."""
    kept: list[Sample] = []
    held = 0
    for sample in samples:
        kept.append(sample)
        held += sum(array.nbytes for array in sample.feed.values())
        if len(kept) > MAX_FEEDS or held > MAX_BYTES:
            raise UsageError(
                f"{source} yields more than {MAX_FEEDS:,} feeds or {MAX_BYTES:,} bytes; let it end earlier (a few"
                " hundred samples are enough), or give larger data as an .npz file"
            )
    return kept


def _of_feed(feed: object, position: int, source: str) -> Sample:
    if isinstance(feed, Sample):
        return feed
    if not isinstance(feed, Mapping):
        raise UsageError(f"feed {position} of {source} is no mapping of input names to arrays")
    return _sample_of(feed, f"{source}, feed {position}")


def _sample_of(arrays: Mapping[str, Any], source: str) -> Sample:
    """One feed, nothing of it checked."""
    with users_code(f"the data of {source}", "cannot be made arrays"):
        values = {str(name): np.asarray(value) for name, value in arrays.items()}
    return Sample(values, values.get(LABELS), source)


class Batched:
    """Arrays that hold many samples, cut along the axis that counts them.

    Attributes:
        batches: how many there are; where the model's batch is fixed, the last one is filled up.
    """

    def __init__(self, arrays: Mapping[str, Any], inputs: Sequence[Input], source: str) -> None:
        """Count the samples.

        Args:
            arrays: by the names of inputs, those that stay in their file among them.
        """
        stored = {name: item for name, item in arrays.items() if isinstance(item, Stored)}
        whole = _sample_of({name: item for name, item in arrays.items() if name not in stored}, source)
        self._arrays: Mapping[str, Array | Stored] = {**whole.feed, **stored}
        self._source, axes = source, {item.name: item.batch_axis for item in inputs}
        self._axes = {
            name: axis
            for name, value in self._arrays.items()
            if (axis := axes.get(name)) is not None and value.ndim > axis
        }
        counts = {name: self._arrays[name].shape[axis] for name, axis in self._axes.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UsageError(f"the arrays of {source} have different numbers of samples: {listed}")
        self._count = next(iter(counts.values()), 0)
        labels = self._arrays.get(LABELS)
        has_inputs = any(item.name in self._arrays for item in inputs)
        if has_inputs and labels is not None and (labels.ndim == 0 or labels.shape[0] != self._count):
            raise UsageError(
                f"{source} holds {self._count} samples, but {LABELS} has shape {list(labels.shape)}"
            )
        self._fixed = next((size for item in inputs if (size := _fixed_batch(item)) is not None), None)
        self.batches = math.ceil(self._count / (self._fixed or BATCH)) or 1

    def batch(self, number: int) -> Sample:
        """One of them; all there is where nothing counts samples."""
        if not self._count:
            return _sample_of({name: _whole(value) for name, value in self._arrays.items()}, self._source)
        size = self._fixed or BATCH
        start = number * size
        rows = np.arange(start, start + size if self._fixed else min(start + size, self._count))
        feed = {
            name: value.take(rows % self._count, axis=self._axes[name])
            if name in self._axes
            else _whole(value)
            for name, value in self._arrays.items()
            if name != LABELS or name in self._axes
        }
        if LABELS not in self._arrays:
            return Sample(feed, None, self._source)
        labels = self._arrays[LABELS].take(rows % self._count, axis=0)
        labels[rows >= self._count] = IGNORED_LABEL
        return Sample(feed, labels, self._source)


def _whole(value: Array | Stored) -> Array:
    return value.whole() if isinstance(value, Stored) else value


def _fixed_batch(item: Input) -> int | None:
    size = None if item.batch_axis is None else item.dims[item.batch_axis]
    return size if isinstance(size, int) else None


def _checked(sample: Sample, inputs: Sequence[Input]) -> Sample:
    given = sample.feed
    if any(item.name not in given for item in inputs):
        given = completed(given, inputs)
    require_all(given, inputs, sample.source)
    feed = {item.name: _accepted(given[item.name], item, f"a batch of {sample.source}") for item in inputs}
    return Sample(feed, sample.labels, sample.source)


def require_all(feed: Feed, inputs: Iterable[Input], source: str) -> None:
    """Check whether a feed has all inputs."""
    missing = [f"{item.name} ({item.describe()})" for item in inputs if item.name not in feed]
    if missing:
        held = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(feed.items())) or "nothing"
        raise UsageError(
            f"{source} lacks the input{'s' * (len(missing) > 1)} {first_few(missing)}; it holds {held}"
        )


def _accepted(array: Array, item: Input, source: str) -> Array:
    what = f"{item.name} of {source} is {array.dtype.name} {list(array.shape)}"
    wanted = f"the model's input is {item.describe()}"
    if not _same_kind(array.dtype, item.dtype):
        raise UsageError(f"{what}, but {wanted}; convert it first")
    if array.ndim != len(item.dims) or any(
        isinstance(dim, int) and dim != size for dim, size in zip(item.dims, array.shape, strict=True)
    ):
        raise UsageError(f"{what}, but {wanted}")
    if array.size == 0 and not item.is_cache:
        raise UsageError(f"{what}, which is empty")
    if not is_finite(array):
        raise UsageError(f"{what} and holds NaN or infinite values")
    if item.role is Role.IDS and item.rows is not None and array.size:
        wrong = array.max() if array.max() >= item.rows else array.min()
        if wrong >= item.rows or (wrong < -item.rows and not item.mends):
            raise UsageError(f"{what} and holds {wrong}, but the table it indexes has {item.rows} rows")
    converted = array.astype(item.dtype)
    if array.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise UsageError(f"{what} and holds numbers that {item.dtype.name} cannot; {wanted}")
    return converted


def _same_kind(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Integers may widen and floats may round; anything else is a mistake worth hearing about."""
    kinds = {"u": "integer", "i": "integer", "f": "float", "V": "float", "b": "bool"}
    return kinds.get(given.kind) == kinds.get(wanted.kind, "other")
