"""Arrays of `.npz` files. Those of a large file stay there, and rows of them are read when they are wanted.

The sizes in an archive are checked before anything is unpacked.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from onnxheadprune.errors import UsageError, heed
from onnxheadprune.model.documents import regular_file
from onnxheadprune.model.storage.wire import read_at
from onnxheadprune.model.tensors import Array

MAX_UNPACKED = 2**28
"""Bytes that any archive may unpack to."""
MAX_RATIO = 32
"""The largest compression ratio of an archive beyond that size; token ids reach about ten."""
MAX_ARRAYS = 4096
WHOLE = 2**24
"""Bytes of an archive that is read whole."""
BLOCK = 2**20
LOCAL_HEADER = 30
"""Bytes of a member's header before its name, the lengths of name and extra field last."""


class _Opened:
    """A file that is closed when the last array in it is gone."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        weakref.finalize(self, stream.close)


class Stored:
    """An array in a file, of which rows are read when they are wanted.

    Attributes:
        shape: its shape.
        ndim: its number of axes.
    """

    def __init__(
        self, file: _Opened, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], source: str
    ) -> None:
        """Take the place of the numbers."""
        self.shape, self.ndim = shape, len(shape)
        self._file, self._offset, self._dtype, self._source = file, offset, dtype, source

    def take(self, rows: npt.NDArray[np.int64], axis: int) -> Array:
        """Some rows along an axis, as of an array in memory."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        outer, inner = math.prod(self.shape[:axis]), math.prod(self.shape[axis + 1 :])
        parts = [
            self._read((slab * self.shape[axis] + int(run[0])) * inner, len(run) * inner)
            for slab in range(outer)
            for run in runs
        ]
        return np.concatenate(parts).reshape(*self.shape[:axis], len(rows), *self.shape[axis + 1 :])

    def whole(self) -> Array:
        """All of it."""
        return self._read(0, math.prod(self.shape)).reshape(self.shape)

    def _read(self, first: int, count: int) -> Array:
        start, size = self._offset + first * self._dtype.itemsize, count * self._dtype.itemsize
        content = bytearray()
        while len(content) < size:
            piece = read_at(self._file.stream.fileno(), size - len(content), start + len(content))
            if not piece:
                raise UsageError(f"{self._source} was modified while being read")
            content += piece
        return np.frombuffer(content, self._dtype)


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a file by their names."""
    return {name: item.whole() if isinstance(item, Stored) else item for name, item in open_npz(path).items()}


def open_npz(path: str | os.PathLike[str]) -> dict[str, Array | Stored]:
    """The same, of which those of a large file stay there, or if they are compressed in a temporary one."""
    file = regular_file(path, "the data")
    if not zipfile.is_zipfile(file):
        from onnxheadprune.model.storage.file_magic import in_place_of

        raise UsageError(f"{path} is no .npz file{in_place_of(file) or '; write one with numpy.savez'}")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total = _checked_size(members, file.stat().st_size, str(path))
            if total <= WHOLE:
                return {_name(member): _array(archive, member) for member in members}
            return _stored(archive, members, file)
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
        heed(error)
        raise UsageError(f"{path} cannot be read as an .npz file of plain arrays: {error!s:.300}") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _checked_size(members: Sequence[zipfile.ZipInfo], stored: int, path: str) -> int:
    """Bytes of all members."""
    total, limit = sum(member.file_size for member in members), max(MAX_UNPACKED, MAX_RATIO * stored)
    if total > limit or len(members) > MAX_ARRAYS:
        raise UsageError(
            f"{path} holds {len(members):,} arrays of {total:,} bytes in a file of {stored:,}; up to"
            f" {MAX_ARRAYS:,} arrays and {limit:,} bytes are unpacked, so write it with numpy.savez, which does not"
            " compress, or take fewer samples"
        )
    return total


def _header(stream: IO[bytes], member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it lies in Fortran's order, and type of an array."""
    version = npy.read_magic(stream)
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if stream.tell() + math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} is shorter than its header says")
    return shape, fortran, dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        _header(stream, member)
    with archive.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _stored(
    archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], file: Path
) -> dict[str, Array | Stored]:
    """The arrays where they lie. All of them are read once, so that damage is told before any work."""
    own, unpacked = _Opened(file.open("rb")), _Opened(tempfile.TemporaryFile())  # noqa: SIM115
    found: dict[str, Array | Stored] = {}
    for member in members:
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream, member)
            if fortran and len(shape) > 1:
                found[_name(member)] = _array(archive, member)
                continue
            place = own
            offset = _start(own.stream, member) + stream.tell()
            if member.compress_type != zipfile.ZIP_STORED:
                place, offset = unpacked, unpacked.stream.tell()
            while block := stream.read(BLOCK):
                if place is unpacked:
                    unpacked.stream.write(block)
        found[_name(member)] = Stored(place, offset, shape, dtype, str(file))
    unpacked.stream.flush()
    return found


def _start(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """The offset of a member's content; the module `zipfile` has compared its header with the directory."""
    stream.seek(member.header_offset)
    name, extra = struct.unpack("<HH", stream.read(LOCAL_HEADER)[-4:])
    return member.header_offset + LOCAL_HEADER + int(name) + int(extra)
