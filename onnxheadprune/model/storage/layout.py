"""The place of every tensor of an output, inside the model file or beside it, and how it is written there.

The system copies whole tensors from file to file; only cut data passes through this process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import ModelProto, TensorProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.reading import BLOCK, Opened, Part, parts
from onnxheadprune.model.storage.tensors import (
    PRIVATE,
    Role,
    Span,
    Stored,
    bytes_needed,
    cuts_of,
    forget,
    hold,
    is_outside,
    offset_outside,
    refer,
    span_of,
    tensors_of,
)
from onnxheadprune.model.storage.wire import (
    BIG,
    BYTES,
    MODEL,
    PATHS,
    TENSOR,
    WireReader,
    fields_of,
    spell_varint,
)

ExternalData: TypeAlias = Literal["auto", "always", "never"]
EXTERNAL_THRESHOLD = 1024
"""Smaller tensors are in the model: ONNX Runtime opens no file whose target shapes and axes are beside it."""
ALIGNMENT = 4096
"""Of new data files: a page, so that tensors can be mapped."""
LEAST_ALIGNMENT, MOST_ALIGNMENT = 64, 2**16


@dataclass(frozen=True)
class Placed:
    """Data that goes somewhere."""

    recipe: TensorProto  # the tensor as it was planned: data in memory, or a reference with its cuts
    offset: int  # where in the data file, -1 for data inside the model
    length: int  # bytes of it

    def parts(self, opened: Opened) -> Iterable[Part]:
        """The data in order."""
        if is_outside(self.recipe):
            return parts(self.recipe, opened)
        return (bytes(self.recipe.raw_data),)


@dataclass(frozen=True, eq=False)
class Layout:
    """A model with every tensor's place decided."""

    # the structure to be written: tensors outside refer to `location`, the data of tensors that is spliced in
    # is a token that begins with `prefix`
    model: ModelProto
    prefix: bytes  # of the tokens
    inside: tuple[Placed, ...]  # what is spliced into the model, by the index in the token
    outside: tuple[Placed, ...]  # what goes into the data file, in order

    @property
    def data_size(self) -> int:
        """Bytes of the data file."""
        return max((item.offset + item.length for item in self.outside), default=0)

    def point_to(self, old: str, new: str) -> None:
        """Rename the data file that the model refers to."""
        for stored in tensors_of(self.model):
            if is_outside(stored.tensor):
                span = span_of(stored.tensor)
                assert span.location == old
                refer(stored.tensor, Span(new, span.offset, span.length))

    def write_data(self, handle: int, opened: Opened) -> None:
        """Write the data file. Gaps that alignment leaves stay holes."""
        for placed in self.outside:
            os.lseek(handle, placed.offset, os.SEEK_SET)
            _write_tensor(handle, placed, opened)
        os.ftruncate(handle, self.data_size)

    def write_model(self, handle: int, opened: Opened) -> None:
        """Write the model file, with the data that is inside it."""
        for item in self.pieces():
            if isinstance(item, Placed):
                _write_tensor(handle, item, opened)
            else:
                write_all(handle, item)

    def pieces(self) -> Iterable[bytes | Placed]:
        """The model file as bytes and tensors between them."""
        serialized = self.model.SerializeToString(deterministic=True)
        sizes = [item.length for item in self.inside]
        for item in splice(serialized, self.prefix, sizes):
            yield item if isinstance(item, bytes) else self.inside[item.index]


def lay_out(
    model: ModelProto, own: str | None, location: str, external: ExternalData, limit: int
) -> tuple[Layout, int]:
    """Decide where the data of each tensor goes. The model is not changed.

    The layout, and the bytes of data that stay inside the model.

    Args:
        external: "auto" leaves every tensor where it was, but for small ones; "always" and "never" move them.
        limit: bytes that the model file can hold; beyond it, "auto" moves tensors out.
    """
    copy = copied(model)
    stored = list(tensors_of(copy))
    sizes = {position: _size(item) for position, item in enumerate(stored)}
    out = {position for position, item in enumerate(stored) if _goes_out(item, external, own)}
    inside = sum(size for position, size in sizes.items() if position not in out)
    if external == "auto" and inside > limit:
        out |= {position for position, item in enumerate(stored) if _goes_out(item, "always", own)}
        inside = sum(size for position, size in sizes.items() if position not in out)
    alignment = _alignment(stored, own)
    prefix = secrets.token_bytes(24)
    spliced: list[Placed] = []
    placed: list[Placed] = []
    shared: dict[object, Placed] = {}
    end = 0
    for position, (tensor, _) in enumerate(stored):
        if position in out:
            place = shared.get(key := _key(tensor))
            if place is None:
                offset = -(-end // alignment) * alignment
                place = Placed(copied(tensor), offset, sizes[position])
                placed.append(place)
                end = offset + place.length
                shared[key] = place
            refer(tensor, Span(location, place.offset, place.length))
        elif is_outside(tensor):
            spliced.append(Placed(copied(tensor), -1, sizes[position]))
            hold(tensor, token(prefix, len(spliced) - 1))
        elif _was_outside(tensor):
            hold(tensor, tensor.raw_data)
        forget(tensor)
    return Layout(copy, prefix, tuple(spliced), tuple(placed)), inside


def _size(stored: Stored) -> int:
    tensor = stored.tensor
    if is_outside(tensor) or tensor.HasField("raw_data"):
        return bytes_needed(tensor.data_type, tuple(tensor.dims))
    return int(tensor.ByteSize())


def _goes_out(stored: Stored, external: ExternalData, own: str | None) -> bool:
    tensor = stored.tensor
    if external == "never" or stored.role is Role.SPARSE or _size(stored) < EXTERNAL_THRESHOLD:
        return False
    if is_outside(tensor):
        location = span_of(tensor).location
        beside = _was_outside(tensor) if location.startswith(PRIVATE) else location != own
    elif tensor.HasField("raw_data"):
        beside = _was_outside(tensor)
    else:
        return False
    if external == "auto" or beside:
        return beside
    return stored.role is Role.INITIALIZER


def _alignment(stored: list[Stored], own: str | None) -> int:
    """The alignment that the data had, so that what could be mapped still can."""
    offsets = 0
    for item in stored:
        if is_outside(item.tensor) and _goes_out(item, "auto", own):
            offsets |= span_of(item.tensor).offset
        offsets |= offset_outside(item.tensor) or 0
    if not offsets:
        return ALIGNMENT
    return max(LEAST_ALIGNMENT, min(MOST_ALIGNMENT, offsets & -offsets))


def _key(tensor: TensorProto) -> object:
    """Tensors with equal keys have the same data and share it."""
    if is_outside(tensor):
        return span_of(tensor), cuts_of(tensor)
    return bytes(tensor.raw_data) if len(tensor.raw_data) < BIG else id(tensor)


@dataclass(frozen=True)
class Slot:
    """A place in a serialized model where the data of tensor `index` goes."""

    index: int


def splice(serialized: bytes, prefix: bytes, sizes: Sequence[int]) -> list[bytes | Slot]:
    """Replace raw data that is a token by slots, all lengths around it made right.

    Args:
        serialized: a `ModelProto` in which the raw data of tensor *i* is `token(prefix, i)`.
    """
    marks: list[int] = []
    position = serialized.find(prefix)
    while position >= 0:
        marks.append(position)
        position = serialized.find(prefix, position + len(prefix))
    assert len(marks) == len(sizes), "the prefix is not unique"
    pieces: list[bytes | Slot] = []
    _Splicer(serialized, prefix, sizes, pieces).message(0, len(serialized), MODEL, marks)
    return pieces


def token(prefix: bytes, index: int) -> bytes:
    """Stand for the data of tensor `index`; as long as its prefix and eight bytes."""
    return prefix + index.to_bytes(8, "little")


class _Splicer:
    def __init__(self, data: bytes, prefix: bytes, sizes: Sequence[int], pieces: list[bytes | Slot]) -> None:
        self.data, self.prefix, self.sizes, self.pieces = data, prefix, sizes, pieces

    def message(self, start: int, end: int, kind: str, marks: Sequence[int]) -> None:
        kept = start
        for field, at, payload, stop in self._fields(start, end):
            inside = marks[bisect_left(marks, at) : bisect_left(marks, stop)]
            if not inside:
                continue
            self.pieces.append(self.data[kept:at])
            kept = stop
            head = spell_varint(field << 3 | BYTES)
            if kind == TENSOR:
                index = int.from_bytes(self.data[payload + len(self.prefix) : stop], "little")
                self.pieces += [head + spell_varint(self.sizes[index]), Slot(index)]
                continue
            place = len(self.pieces)
            self.message(payload, stop, PATHS[kind][field], inside)
            inner = self.pieces[place:]
            size = sum(self.sizes[item.index] if isinstance(item, Slot) else len(item) for item in inner)
            self.pieces.insert(place, head + spell_varint(size))
        self.pieces.append(self.data[kept:end])

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        return fields_of(_Bytes(self.data), (start, end))


class _Bytes(WireReader):
    """The same reading from memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, len(data))
        self.window = data

    def count(self) -> None:
        """The size of data in memory."""


_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


def write_all(handle: int, data: bytes) -> None:
    """Write at the current position until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[: 2**30]) :]


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_START_WRITING = 2
"""SYNC_FILE_RANGE_WRITE."""


def _write_tensor(handle: int, placed: Placed, opened: Opened) -> None:
    written = 0
    for part in placed.parts(opened):
        if isinstance(part, bytes):
            write_all(handle, part)
            written += len(part)
        else:
            _copy_part(handle, part, opened)
            written += part.length
    if written != placed.length:
        raise ModelError(
            f"{written} bytes were written of tensor {placed.recipe.name!r} where its shape needs {placed.length}"
        )
    if _LIBC is not None and written >= BLOCK:
        # The disk is at work while the next tensor is copied, so that `fsync` has less to wait for.
        start = ctypes.c_int64(os.lseek(handle, 0, os.SEEK_CUR) - written)
        _LIBC.sync_file_range(handle, start, ctypes.c_int64(written), _START_WRITING)


def _copy_part(handle: int, span: Span, opened: Opened) -> None:
    source, offset, left = opened.handle(span.location), span.offset, span.length
    while left and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, handle, min(left, 2**30), offset)
        except OSError as error:
            if error.errno in _NOT_HERE:
                break
            raise
        if not count:
            # Some file systems give up quietly; a real end of the file is noticed by the reading below.
            break
        offset, left = offset + count, left - count
    while left:
        count = min(left, BLOCK)
        write_all(handle, opened.read(Span(span.location, offset, count)))
        offset, left = offset + count, left - count


def _was_outside(tensor: TensorProto) -> bool:
    """Return whether data that is in memory came from a file beside the model."""
    return offset_outside(tensor) is not None
