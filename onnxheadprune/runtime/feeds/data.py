"""The user's own inputs: `.npz` files, folders of them, generators. Checked before anything runs.

The sizes in an archive are checked before anything is unpacked.
"""

from __future__ import annotations

import inspect
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.lib import format as npy

from onnxheadprune.display.spelling import first_few, many
from onnxheadprune.errors import UsageError, heed
from onnxheadprune.model.documents import kind_of, regular_file, require_there
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.generate import Feed, is_finite
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.prefill import completed
from onnxheadprune.runtime.foreign import import_function, users_code

LABELS = "labels"
BATCH = 32
MAX_FEEDS = 10_000
MAX_BYTES = 2**28
"""Of all feeds that a generator may yield, since it may not end; any archive may unpack to as many."""
MAX_RATIO = 32
"""The largest compression ratio of an archive beyond that size; token ids reach about ten."""
MAX_ARRAYS = 4096
MAX_ARCHIVE = 2**32 - 1
"""Bytes of an archive in memory."""
DataSource: TypeAlias = (
    "str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Iterable[Sample]"
)
"""The one form in which users and callers give data; `data.py` reads it."""
IGNORED_LABEL = -100
"""PyTorch's convention for positions that have no label."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The data that a figure is of.

    Attributes:
        measured_on: the data in words, with the refits and trainings that used it.
        seen_by: the step that has used the same samples: "choice", "refit", "training", "quantization"; None without.
        held_out: whether the samples were held out from those that a step used.
    """

    measured_on: str = "your data, all of it"
    seen_by: str | None = None
    held_out: bool = False

    def note(self, number: int, noun: str = "sample") -> str:
        """The number of samples or labels of a figure: "16 held-out labels", "450 labels"."""
        if self.measured_on == RANDOM_INPUTS.measured_on:
            return self.measured_on
        told = many(number, f"held-out {noun}" if self.held_out else noun)
        return told if self.seen_by is None else f"{told} that the {self.seen_by} has seen"


USERS_DATA = Basis()
"""The data of a measurement for which nothing was held out."""
RANDOM_INPUTS = Basis(measured_on="random inputs")


@dataclass(frozen=True)
class Sample:
    """One feed of user data."""

    feed: Feed  # an array per graph input
    labels: Array | None  # what `labels` held for these samples, None without labels
    source: str  # the file or entry it came from


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
        return _batched(source, inputs, "the data")
    if not isinstance(source, (str, os.PathLike)):
        return _feeds(source, "the data")
    if stat.S_ISDIR(kind_of(source) or 0):
        files = sorted(Path(source).glob("*.npz"))
        return len(files), lambda number: _sample_of(read_npz(files[number]), str(files[number]))
    if not require_data(source):
        return _feeds(_call(str(source)), str(source))
    return _batched(read_npz(source), inputs, str(source))


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a file by their names."""
    file = regular_file(path, "the data")
    if not zipfile.is_zipfile(file):
        from onnxheadprune.model.storage.file_magic import in_place_of

        raise UsageError(f"{path} is no .npz file{in_place_of(file) or '; write one with numpy.savez'}")
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(archive.infolist(), file.stat().st_size, str(path))
            return {
                member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()
            }
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
        heed(error)
        raise UsageError(f"{path} cannot be read as an .npz file of plain arrays: {error!s:.300}") from error


def _check_size(members: Sequence[zipfile.ZipInfo], stored: int, path: str) -> None:
    total, limit = sum(member.file_size for member in members), max(MAX_BYTES, MAX_RATIO * stored)
    if total > min(limit, MAX_ARCHIVE) or len(members) > MAX_ARRAYS:
        remedy = (
            "give larger data as a folder of .npz files"
            if limit > MAX_ARCHIVE
            else "write it with numpy.savez, which does not compress, or take fewer samples"
        )
        raise UsageError(
            f"{path} holds {len(members):,} arrays of {total:,} bytes in a file of {stored:,}; up to"
            f" {MAX_ARRAYS:,} arrays and {min(limit, MAX_ARCHIVE):,} bytes are unpacked, so {remedy}"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        _check_header(stream, member)
    with archive.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _check_header(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    version = npy.read_magic(stream)
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if stream.tell() + math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} is shorter than its header says")


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


def _batched(
    arrays: Mapping[str, Any], inputs: Sequence[Input], source: str
) -> tuple[int, Callable[[int], Sample]]:
    """Arrays that hold many samples, cut along the axis that counts them; a last batch of fixed size is filled up."""
    whole = _sample_of(arrays, source)
    named = {item.name: item.batch_axis for item in inputs}
    axes = {
        name: axis
        for name, value in whole.feed.items()
        if (axis := named.get(name)) is not None and value.ndim > axis
    }
    counts = {name: whole.feed[name].shape[axis] for name, axis in axes.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"the arrays of {source} have different numbers of samples: {listed}")
    count, labels = next(iter(counts.values()), 0), whole.labels
    has_inputs = any(item.name in whole.feed for item in inputs)
    if has_inputs and labels is not None and (labels.ndim == 0 or labels.shape[0] != count):
        raise UsageError(f"{source} holds {count} samples, but {LABELS} has shape {list(labels.shape)}")
    if not count:
        return 1, lambda _: whole
    fixed = fixed_batch(inputs)
    size = fixed or BATCH

    def batch(number: int) -> Sample:
        start = number * size
        rows = np.arange(start, start + size if fixed else min(start + size, count))
        feed = {
            name: value.take(rows % count, axis=axes[name]) if name in axes else value
            for name, value in whole.feed.items()
            if name != LABELS or name in axes
        }
        if labels is None:
            return Sample(feed, None, source)
        own = labels.take(rows % count, axis=0)
        own[rows >= count] = IGNORED_LABEL
        return Sample(feed, own, source)

    return math.ceil(count / size), batch


def fixed_batch(inputs: Iterable[Input]) -> int | None:
    """The number of samples that a model takes, None where that is open."""
    sizes = (item.dims[axis] for item in inputs if (axis := item.batch_axis) is not None)
    return next((size for size in sizes if isinstance(size, int)), None)


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
