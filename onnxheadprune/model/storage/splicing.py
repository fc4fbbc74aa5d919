"""Structures with weights spliced in: the way back from `wire.structure`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxheadprune.model.storage.wire import BYTES, MODEL, PATHS, TENSOR, Reader, fields_of, spell_varint


@dataclass(frozen=True)
class Slot:
    """A place in a serialized model where the data of tensor `index` goes."""

    index: int


def splice(serialized: bytes, prefix: bytes, sizes: Sequence[int]) -> list[bytes | Slot]:
    """Replaces raw data that is a token by slots, all lengths around it made right.

    Args:
        serialized: a `ModelProto` in which the raw data of tensor *i* is `token(prefix, i)`.
        prefix: random bytes that occur nowhere else in it.
        sizes: bytes that go into each slot.
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
    """Stands for the data of tensor `index`; as long as its prefix and eight bytes."""
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


class _Bytes(Reader):
    """The same reading from memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, len(data))
        self.window = data

    def count(self) -> None:
        """What this tool has made is as large as it is."""
