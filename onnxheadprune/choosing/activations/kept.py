"""Arrays that are kept between two blocks: in memory up to a bound, beyond it in a file without a name."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxheadprune.runtime import Array

IN_MEMORY = 2**29
"""Bytes of kept arrays that stay in memory."""


class Room:
    """Memory that several stores share, and several threads.

    Attributes:
        left: bytes that are free.
    """

    def __init__(self, left: int | None = None) -> None:
        """All of it is free."""
        self.left = IN_MEMORY if left is None else left
        self._turn = threading.Lock()

    def takes(self, size: int) -> bool:
        """Take some bytes; whether there were so many."""
        with self._turn:
            fits = size <= self.left
            self.left -= size if fits else 0
            return fits

    def frees(self, size: int) -> None:
        """Give bytes back."""
        with self._turn:
            self.left += size


@dataclass(frozen=True, eq=False)
class _Place:
    """The place of an array in its file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class Shelf(MutableMapping[str, Array]):
    """Arrays by name, in memory up to a bound and beyond it in a file."""

    def __init__(self, room: Room) -> None:
        self._kept = Kept(room)
        self._names: dict[str, None] = {}

    def in_memory(self, name: str) -> bool:
        """Return whether an array is held in memory."""
        return self._kept.in_memory(name)

    def __getitem__(self, name: str) -> Array:
        """An array, read where it is not in memory."""
        if name not in self._names:
            raise KeyError(name)
        return self._kept.of(name)[name]

    def __setitem__(self, name: str, array: Array) -> None:
        """Put an array in the place of what has the name."""
        self._kept.drop(name)
        self._kept.put(name, {name: array})
        self._names[name] = None

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        self._kept.drop(name)

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they came."""
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Kept:
    """Named arrays for each of many keys (feeds). Several threads may use it, each another key at a time."""

    def __init__(self, room: Room) -> None:
        """An empty store."""
        self.room = room
        self._found: dict[Hashable, dict[str, Array | _Place]] = {}
        self._file: Any = None
        self._turn = threading.Lock()
        """Held by who moves in the file."""

    def __contains__(self, key: Hashable) -> bool:
        return key in self._found

    def in_memory(self, key: Hashable) -> bool:
        """Return whether all that is kept for a key is in memory."""
        return not any(isinstance(item, _Place) for item in self._found.get(key, {}).values())

    def put(self, key: Hashable, arrays: Mapping[str, Array]) -> None:
        """Keep arrays, beside what there is for the key."""
        entry = self._found.setdefault(key, {})
        for name, array in arrays.items():
            entry[name] = array if self.room.takes(array.nbytes) else self._written(array)

    def of(self, key: Hashable) -> dict[str, Array]:
        """Return what was kept for a key."""
        return {
            name: self._read(item) if isinstance(item, _Place) else item
            for name, item in self._found.get(key, {}).items()
        }

    def drop(self, key: Hashable, names: Collection[str] | None = None) -> None:
        """Forget arrays of a key: all, or the named ones."""
        entry = self._found.get(key, {})
        for name in list(entry) if names is None else [name for name in names if name in entry]:
            item = entry.pop(name)
            self.room.frees(0 if isinstance(item, _Place) else item.nbytes)
        if names is None:
            self._found.pop(key, None)

    def close(self) -> None:
        """Forget everything."""
        for key in list(self._found):
            self.drop(key)
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.close()

    def _written(self, array: Array) -> _Place:
        left = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._turn:
            if self._file is None:
                # It lives as long as this store, which closes it.
                self._file = tempfile.TemporaryFile(prefix="onnxheadprune-", buffering=0)  # noqa: SIM115
            place = _Place(self._file.seek(0, os.SEEK_END), array.shape, array.dtype)
            while left.size:
                left = left[self._file.write(left) :]
        return place

    def _read(self, place: _Place) -> Array:
        assert self._file is not None
        made: Array = np.empty(math.prod(place.shape), place.dtype)
        left = made.view(np.uint8)
        with self._turn:
            self._file.seek(place.offset)
            while left.size:
                count = self._file.readinto(left)
                if not count:
                    raise EOFError("a temporary file lost its end")
                left = left[count:]
        return made.reshape(place.shape)
