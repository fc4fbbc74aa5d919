"""Arrays that are kept between two blocks: in memory up to a bound, beyond it in a file without a name."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Hashable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from onnxheadprune.runtime import Array

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class _Place:
    """The place of an array in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def size(self) -> int:
        """Its number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Store(MutableMapping[Key, Array], Generic[Key]):
    """Arrays by key. Several threads may use it, each another key at a time.

    Attributes:
        left: bytes of memory that are free.
    """

    def __init__(self, left: int) -> None:
        """Keep so many bytes in memory."""
        self.left = left
        self._items: dict[Key, Array | _Place] = {}
        self._file: Any = None
        self._unused: dict[int, list[int]] = {}
        """Offsets of free places in the file, by their size: a stage has arrays of the sizes of the one before."""
        self._turn = threading.Lock()
        """Held by who counts memory or moves in the file."""

    def in_memory(self, key: Key) -> bool:
        """Return whether an array is held in memory."""
        return not isinstance(self._items[key], _Place)

    def __getitem__(self, key: Key) -> Array:
        """An array, read where it is not in memory."""
        item = self._items[key]
        return self._read(item) if isinstance(item, _Place) else item

    def __setitem__(self, key: Key, array: Array) -> None:
        """Put an array in the place of what has the key."""
        self.pop(key, None)
        with self._turn:
            fits = array.nbytes <= self.left
            self.left -= array.nbytes if fits else 0
        self._items[key] = array if fits else self._written(array)

    def __delitem__(self, key: Key) -> None:
        item = self._items.pop(key)
        with self._turn:
            if isinstance(item, _Place):
                self._unused.setdefault(item.size, []).append(item.offset)
            else:
                self.left += item.nbytes

    def __iter__(self) -> Iterator[Key]:
        """The keys, in the order in which they came."""
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _written(self, array: Array) -> _Place:
        left = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._turn:
            if self._file is None:
                # It lives as long as this store, which closes it.
                self._file = tempfile.TemporaryFile(prefix="onnxheadprune-", buffering=0)  # noqa: SIM115
            unused = self._unused.get(array.nbytes)
            offset = self._file.seek(unused.pop()) if unused else self._file.seek(0, os.SEEK_END)
            while left.size:
                left = left[self._file.write(left) :]
        return _Place(offset, array.shape, array.dtype)

    def _read(self, place: _Place) -> Array:
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
