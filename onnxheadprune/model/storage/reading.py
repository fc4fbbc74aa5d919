"""The files that tensors refer to, and the bytes of a tensor in them, cut as planned.

Files are regular, inside the model's folder, and the same from first to last read. Large tensors are read part by part,
so that none is ever in memory as a whole.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.tensors import (
    BITS,
    Span,
    cuts_of,
    dims_before,
    forget,
    hold,
    is_outside,
    span_of,
    tensors_of,
)
from onnxheadprune.model.storage.wire import BINARY, read_at
from onnxheadprune.model.tensors import Selection, cut, read_ranges


@dataclass(frozen=True)
class Source:
    """A file with weights, as it was when the model was opened."""

    path: Path  # where it is
    size: int  # bytes in it
    # device, inode and time of change; a file that is replaced while it is read is noticed
    identity: tuple[int, ...]

    @classmethod
    def at(cls, path: Path, found: os.stat_result | None = None) -> Source:
        """A file as it is now, or as `found` of its open handle."""
        found = path.stat() if found is None else found
        return Source(path, found.st_size, identity_of(found))

    def open(self) -> int:
        """A handle for reading."""
        try:
            handle = open_at_once(self.path)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if identity_of(os.fstat(handle)) != self.identity:
            os.close(handle)
            raise ModelError(f"{self.path} was modified while being read")
        return handle


Sources: TypeAlias = Mapping[str, Source]
"""The files of one model by their `location`."""


def open_at_once(path: Path) -> int:
    """A handle for reading, also of a FIFO that took the place of a file: that one would let its reader wait."""
    return os.open(path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0))


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size and time of change."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def inside(folder: Path, location: str, model: str, *, follow_links: bool = False) -> Source:
    """The file that `location` names, if it is a regular file in the model's folder or below."""
    shown = repr(location[:200])
    if "\0" in location or len(location) > 4096:
        raise ModelError(f"{model} keeps weights in {shown}, which is no name of a file")
    pure = (PurePosixPath(location), PureWindowsPath(location))
    if any(path.is_absolute() or path.anchor or ".." in path.parts for path in pure):
        raise ModelError(
            f"{model} keeps weights in {shown}, which is outside of its folder; nothing there is read"
        )
    path = folder / location
    try:
        resolved, home = path.resolve(strict=True), folder.resolve()
        found = resolved.stat()
    except (OSError, RuntimeError):
        raise ModelError(
            f"{model} keeps weights in {location[:200]}, and there is no such file beside it; put both into one"
            " folder"
        ) from None
    if not follow_links and not resolved.is_relative_to(home):
        raise ModelError(
            f"{model} keeps weights in {shown}, a link to {resolved}, which is outside of its folder; nothing"
            " there is read (put real files into one folder; prune, inspect, score, bench and validate read through"
            f" links with `follow_links`)"
        )
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{model} keeps weights in {shown}, which is not a regular file")
    return Source.at(resolved)


Part: TypeAlias = bytes | Span
"""Bytes, or where to copy them from."""
Bytes: TypeAlias = npt.NDArray[np.uint8]
Positions: TypeAlias = npt.NDArray[np.int64]
BLOCK = 2**20
"""Bytes that are cut at a time."""
MANY_RUNS = 64
"""More runs of bytes than this are picked column by column."""
WORTH_A_COPY = 2**15
"""Runs of bytes from this length on are copied by the system, shorter ones pass through memory."""


class Opened:
    """Files that stay open while several of their parts are read."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.handles: dict[str, int] = {}

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles.values():
            os.close(handle)
        self.handles.clear()

    def handle(self, location: str) -> int:
        """An open handle of the file that `location` names."""
        if location not in self.handles:
            if location not in self.sources:
                raise ModelError(f"the weights in {location!r} are not loaded; pass the model as a path")
            self.handles[location] = self.sources[location].open()
        return self.handles[location]

    def read(self, span: Span) -> bytes:
        """The bytes of a span."""
        handle, start, stop = self.handle(span.location), span.offset, span.offset + span.length
        pieces = []
        while start < stop:
            piece = read_at(handle, min(stop - start, 2**30), start)
            if not piece:
                raise ModelError(f"{self.sources[span.location].path} ends before its weights do")
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def in_memory(tensor: TensorProto, sources: Sources) -> TensorProto:
    """A copy of a tensor that holds its data, all cuts made."""
    copy = copied(tensor)
    if is_outside(copy):
        hold(copy, tensor_bytes(tensor, sources))
    return copy


def tensor_bytes(tensor: TensorProto, sources: Sources) -> bytes:
    """The raw data of a tensor, all cuts made."""
    if not is_outside(tensor):
        return bytes(tensor.raw_data)
    with Opened(sources) as opened:
        return b"".join(
            part if isinstance(part, bytes) else opened.read(part) for part in parts(tensor, opened)
        )


def parts(tensor: TensorProto, opened: Opened) -> Iterator[Part]:
    """The raw data of an external tensor in order, all cuts made, a block at a time."""
    span, cuts = span_of(tensor), cuts_of(tensor)
    if not cuts:
        yield span
    elif len(cuts) == 1 and BITS[tensor.data_type] >= 8 and len(cuts[0].axes) == 1:
        yield from _cut_axis(span, dims_before(tensor), BITS[tensor.data_type] // 8, cuts[0], opened)
    else:
        yield from _cut_blocks(tensor, span, cuts, opened)


def _cut_axis(
    span: Span, dims: Sequence[int], width: int, selection: Selection, opened: Opened
) -> Iterator[Part]:
    """One axis: runs that are long enough are copied as they lie, others cut block by block."""
    axis = selection.axes[0]
    outer, size = math.prod(dims[:axis]), dims[axis]
    inner = math.prod(dims[axis + 1 :]) * width
    live = read_ranges(selection.live)
    if not live.size or not inner:
        return
    starts, lengths = _runs(live)
    if int(lengths.min()) * inner >= WORTH_A_COPY:
        for block in range(outer):
            base = span.offset + block * size * inner
            for start, length in zip(starts, lengths, strict=True):
                yield Span(span.location, base + int(start) * inner, int(length) * inner)
        return
    if outer == 1:
        yield from _gather_rows(span, inner, live, opened)
        return
    rows = max(1, BLOCK // (size * inner))
    for first in range(0, outer, rows):
        count = min(rows, outer - first)
        data = opened.read(Span(span.location, span.offset + first * size * inner, count * size * inner))
        cells = np.frombuffer(data, dtype=np.uint8).reshape(count, size * inner)
        yield _kept(cells, starts * inner, lengths * inner)


def _kept(cells: Bytes, starts: Positions, lengths: Positions) -> bytes:
    """Runs of columns. Where they are many, elements are picked one by one instead of copied run by run."""
    if len(starts) <= MANY_RUNS:
        runs = [cells[:, start : start + length] for start, length in zip(starts, lengths, strict=True)]
        kept = runs[0] if len(runs) == 1 else np.concatenate(runs, axis=1)
        return kept.tobytes()
    columns = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    return cells[:, columns].tobytes()


def _gather_rows(span: Span, inner: int, live: Positions, opened: Opened) -> Iterator[Part]:
    """Short rows of one long column, the stretch around a block of them read at a time."""
    first = 0
    while first < live.size:
        stop = int(np.searchsorted(live, live[first] + max(1, BLOCK // inner)))
        low, high = int(live[first]), int(live[stop - 1]) + 1
        data = opened.read(Span(span.location, span.offset + low * inner, (high - low) * inner))
        cells = np.frombuffer(data, dtype=np.dtype((np.void, inner)))
        yield cells[live[first:stop] - low].tobytes()
        first = stop


def _cut_blocks(tensor: TensorProto, span: Span, cuts: Sequence[Selection], opened: Opened) -> Iterator[Part]:
    """Any cuts: the axes before the first one that is cut are passed block by block."""
    dims = dims_before(tensor)
    free = min(axis for selection in cuts for axis in selection.axes)
    inner = math.prod(dims[free:])
    bits = BITS[tensor.data_type]
    outer = math.prod(dims[:free])
    rows = max(1, BLOCK * 8 // max(1, inner * bits))
    if (rows * inner * bits) % 8 or bits < 8:
        # Elements share bytes, and packing starts anew only with the tensor.
        rows = outer
    for first in range(0, outer, rows):
        count = min(rows, outer - first)
        place = Span(
            span.location,
            span.offset + first * inner * bits // 8,
            (count * inner * bits + 7) // 8,
        )
        block = TensorProto(
            data_type=tensor.data_type, dims=(count, *dims[free:]), raw_data=opened.read(place)
        )
        for selection in cuts:
            axes = tuple(axis - free + 1 for axis in selection.axes)
            cut(block, Selection(axes, selection.sizes, selection.kept, selection.live))
        yield bytes(block.raw_data)


def _runs(live: Positions) -> tuple[Positions, Positions]:
    """Starts and lengths of the runs of consecutive positions."""
    breaks = np.flatnonzero(np.diff(live) != 1)
    starts = np.concatenate([[0], breaks + 1])
    stops = np.concatenate([breaks + 1, [live.size]])
    return live[starts], stops - starts


def hydrated(model: ModelProto, sources: Sources) -> ModelProto:
    """A copy with all weights in memory and no reference left; the model itself where it has none."""
    touched = [item for item in tensors_of(model) if item.tensor.external_data]
    if not touched:
        return model
    copy = copied(model)
    for stored in tensors_of(copy):
        if is_outside(stored.tensor):
            hold(stored.tensor, tensor_bytes(stored.tensor, sources))
        else:
            forget(stored.tensor)
    return copy


def blocks(tensor: TensorProto, opened: Opened) -> Iterator[bytes]:
    """Non-empty blocks of a tensor's raw data."""
    if not is_outside(tensor):
        if tensor.raw_data:
            yield bytes(tensor.raw_data)
        return
    for part in parts(tensor, opened):
        if isinstance(part, bytes):
            if part:
                yield part
            continue
        for start in range(0, part.length, BLOCK):
            yield opened.read(Span(part.location, part.offset + start, min(BLOCK, part.length - start)))
