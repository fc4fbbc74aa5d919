"""`.npz` files: an archive from anywhere, whose sizes are looked at before anything is unpacked."""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import regular_file
from onnxheadprune.model.storage.mistaken import in_place_of
from onnxheadprune.runtime.feeds.fill import Array

MAX_UNPACKED = 2**28
"""Bytes that any archive may unpack to."""
MAX_RATIO = 32
"""How many times its own size a larger archive may unpack to; token ids shrink some ten times."""
MAX_ARRAYS = 4096


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a file by their names.

    Raises:
        UsageError: if it is no archive of plain arrays, or would unpack to more than it may.
    """
    file = regular_file(path, "the data")
    if not zipfile.is_zipfile(file):
        raise UsageError(f"{path} is no .npz file{in_place_of(file) or '; write one with numpy.savez'}")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_sizes(members, file.stat().st_size, str(path))
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
        raise UsageError(f"{path} cannot be read as an .npz file of plain arrays: {error!s:.300}") from error


def _check_sizes(members: list[zipfile.ZipInfo], stored: int, path: str) -> None:
    total, limit = sum(member.file_size for member in members), max(MAX_UNPACKED, MAX_RATIO * stored)
    if total > limit or len(members) > MAX_ARRAYS:
        raise UsageError(
            f"{path} holds {len(members):,} arrays of {total:,} bytes in a file of {stored:,}; up to"
            f" {MAX_ARRAYS:,} arrays and {limit:,} bytes are unpacked, so write it with numpy.savez, which does not"
            " compress, or take fewer samples"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        # What the header says is allocated at once, so it has to be there.
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} is shorter than its header says")
    with archive.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))
