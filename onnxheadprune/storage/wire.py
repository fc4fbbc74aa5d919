"""Protobuf on the wire: a model's structure without its weights, and structures with weights spliced in.

Only the few message types that can hold a stored tensor are looked into; everything else, unknown fields
included, is passed on as the bytes it is.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from onnxheadprune.errors import ModelError

BIG = 2**16
"""Raw data from this size on stays on disk. Less is read: up to 4096 elements may be literals."""
EXPLICIT = "onnxheadprune.explicit"
"""Marks a reference in place of a tensor that says in so many words that its data is inside."""
MAX_DEPTH = 100
"""Protobuf's own limit for messages in messages."""
_WINDOW = 2**18
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_TENSOR = TensorProto.DESCRIPTOR.full_name
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_EXTERNAL_DATA = TensorProto.EXTERNAL_DATA_FIELD_NUMBER
_DATA_LOCATION = TensorProto.DATA_LOCATION_FIELD_NUMBER
_IN_MEMORY = ("SparseTensorProto", "TypeProto", "ValueInfoProto")
"""Types whose tensors, if any, are read with the structure."""


class WireError(ValueError):
    """The bytes are no protobuf message: truncated, or nonsense."""


def _paths_to_tensors() -> dict[str, dict[int, str]]:
    """For each message type the fields that lead to a tensor, and the type they hold."""
    table: dict[str, dict[int, str]] = {}
    waiting = [ModelProto.DESCRIPTOR]
    while waiting:
        kind = waiting.pop()
        if kind.full_name in table:
            continue
        fields = [
            item for item in kind.fields if item.message_type and item.message_type.name not in _IN_MEMORY
        ]
        table[kind.full_name] = {item.number: item.message_type.full_name for item in fields}
        waiting += [item.message_type for item in fields]
    useful = {_TENSOR}
    while True:
        more = {kind for kind, fields in table.items() if useful & set(fields.values())} | {_TENSOR}
        if more <= useful:
            break
        useful |= more
    return {
        kind: {number: held for number, held in fields.items() if held in useful}
        for kind, fields in table.items()
        if kind in useful
    }


_TABLE = _paths_to_tensors()
MODEL = ModelProto.DESCRIPTOR.full_name


class _Reader:
    """Reads a file through one small window."""

    def __init__(self, handle: int, size: int) -> None:
        self.handle, self.size = handle, size
        self.base, self.window = 0, b""
        self.references = 0

    def read(self, start: int, stop: int) -> bytes:
        data = b""
        while start < stop:
            piece = os.pread(self.handle, stop - start, start)
            if not piece:
                raise WireError("the file ends early")
            data = data + piece if data else piece
            start += len(piece)
        return data

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """A number and where it ends."""
        offset = position - self.base
        short = offset + 10 > len(self.window) and self.base + len(self.window) < self.size
        if offset < 0 or short:
            self.base, self.window, offset = position, os.pread(self.handle, _WINDOW, position), 0
        window, value = self.window, 0
        for shift in range(0, 70, 7):
            if offset >= len(window) or position >= end:
                raise WireError("a number is cut off")
            byte = window[offset]
            offset, position = offset + 1, position + 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), position
        raise WireError("a number has more than ten bytes")


def structure(handle: int, location: str) -> tuple[bytes, int]:
    """A serialized model whose large raw data is replaced by references into the file itself.

    Args:
        handle: an open file that holds a serialized `ModelProto`.
        location: what the references name as their file.

    Returns:
        The serialized structure, and how many references are in it.

    Raises:
        WireError: if the file is truncated or no protobuf message.
    """
    size = os.fstat(handle).st_size
    reader = _Reader(handle, size)
    pieces: list[bytes] = []
    _lighten(reader, (0, size), MODEL, location, pieces, 0)
    return b"".join(pieces), reader.references


def _lighten(
    reader: _Reader, extent: tuple[int, int], kind: str, location: str, pieces: list[bytes], depth: int
) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"messages are nested more than {MAX_DEPTH} deep")
    held = _TABLE[kind]
    kept, end = extent
    spans: list[tuple[int, int, int]] = []
    elsewhere = explicit = False
    for field, start, payload, stop in _fields(reader, extent):
        if kind == _TENSOR and field == _DATA_LOCATION:
            explicit = reader.read(stop - 1, stop) == b"\0"
            elsewhere |= not explicit
        elsewhere |= kind == _TENSOR and field == _EXTERNAL_DATA
        if payload < 0 or stop - payload < BIG:
            continue
        if kind == _TENSOR and field == _RAW_DATA:
            spans.append((start, payload, stop))
        elif field in held:
            inner: list[bytes] = []
            _lighten(reader, (payload, stop), held[field], location, inner, depth + 1)
            if kept < start:
                pieces.append(reader.read(kept, start))
            pieces.append(_varint(field << 3 | _BYTES) + _varint(sum(map(len, inner))))
            pieces += inner
            kept = stop
    # A tensor that says twice where its data is stays whole, and is refused where tensors are checked.
    if len(spans) == 1 and not elsewhere:
        start, payload, stop = spans[0]
        pieces.append(reader.read(kept, start))
        pieces.append(reader.read(stop, end))
        pieces.append(_reference(location, payload, stop - payload, explicit=explicit))
        reader.references += 1
        kept = end
    if kept < end:
        pieces.append(reader.read(kept, end))


def _fields(reader: _Reader, extent: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the payload (-1 if it has no length) and end of each field."""
    position, end = extent
    depth = 0
    outer = (0, 0)
    while position < end:
        start = position
        tag, position = reader.varint(position, end)
        field, wire, payload = tag >> 3, tag & 7, -1
        if field == 0:
            raise WireError("a field has the number 0")
        if wire == _VARINT:
            _, position = reader.varint(position, end)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        elif wire == _BYTES:
            length, payload = reader.varint(position, end)
            position = payload + length
        elif wire == _GROUP:
            outer = (field, start) if depth == 0 else outer
            depth += 1
        elif wire == _END_GROUP and depth:
            depth -= 1
        else:
            raise WireError("a field has an unknown wire type")
        if position > end:
            raise WireError("a field is longer than the message it is in")
        if depth == 0:
            yield (
                (outer[0], outer[1], -1, position)
                if wire == _END_GROUP
                else (field, start, payload, position)
            )
    if depth:
        raise WireError("a group does not end")


def _reference(location: str, offset: int, length: int, *, explicit: bool) -> bytes:
    tensor = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    if explicit:
        tensor.external_data.add(key=EXPLICIT, value="1")
    return bytes(tensor.SerializeToString())


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)


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
            head = _varint(field << 3 | _BYTES)
            if kind == _TENSOR:
                index = int.from_bytes(self.data[payload + len(self.prefix) : stop], "little")
                self.pieces += [head + _varint(self.sizes[index]), Slot(index)]
                continue
            place = len(self.pieces)
            self.message(payload, stop, _TABLE[kind][field], inside)
            inner = self.pieces[place:]
            size = sum(self.sizes[item.index] if isinstance(item, Slot) else len(item) for item in inner)
            self.pieces.insert(place, head + _varint(size))
        self.pieces.append(self.data[kept:end])

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        return _fields(_Bytes(self.data), (start, end))


class _Bytes(_Reader):
    """The same reading from memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, len(data))
        self.window = data


def not_a_model(path: object, error: BaseException | str) -> ModelError:
    """The sentence for a file that is no model."""
    return ModelError(f"{path} is not an ONNX model, or is truncated: {str(error).strip().rstrip('.')}")
