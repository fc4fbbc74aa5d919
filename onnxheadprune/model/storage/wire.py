"""Protobuf on the wire: a model's structure without its weights.

Only the few message types that can hold a stored tensor are looked into; everything else, unknown fields
included, is passed on as the bytes it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from onnx import ModelProto, SparseTensorProto, TensorProto

BINARY = getattr(os, "O_BINARY", 0)
"""Windows translates the ends of lines in what is opened without it."""
BIG = 2**16
"""Raw data from this size on stays on disk. Less is read: up to 4096 elements may be literals."""
EXPLICIT = "onnxheadprune.explicit"
"""Marks a reference in place of a tensor that says in so many words that its data is inside."""
MAX_DEPTH = 100
"""Protobuf's own limit for messages in messages."""
MAX_FIELDS = 2**22
"""Of all messages that are looked into. A field may take two bytes here and hundreds in memory; a graph of a million
nodes has some three million."""
_WINDOW = 2**18
_VARINT, _FIXED64, BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
TENSOR = TensorProto.DESCRIPTOR.full_name
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
_EXTERNAL_DATA = TensorProto.EXTERNAL_DATA_FIELD_NUMBER
_DATA_LOCATION = TensorProto.DATA_LOCATION_FIELD_NUMBER
_IN_MEMORY = SparseTensorProto.DESCRIPTOR.full_name
"""The type whose tensors are read with the structure."""


class WireError(ValueError):
    """The bytes are no protobuf message: truncated, or nonsense."""


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Read up to `size` bytes of an open file at a position."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    before = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)
    finally:
        os.lseek(handle, before, os.SEEK_SET)


def _paths_to_tensors() -> dict[str, dict[int, str]]:
    """For each message type the fields that lead to a tensor, and the type they hold."""
    table: dict[str, dict[int, str]] = {}
    waiting = [ModelProto.DESCRIPTOR]
    while waiting:
        kind = waiting.pop()
        if kind.full_name in table:
            continue
        fields = [item for item in kind.fields if item.message_type]
        table[kind.full_name] = {item.number: item.message_type.full_name for item in fields}
        waiting += [item.message_type for item in fields]
    useful = {TENSOR}
    while True:
        more = {kind for kind, fields in table.items() if useful & set(fields.values())} | {TENSOR}
        if more <= useful:
            break
        useful |= more
    return {
        kind: {number: held for number, held in fields.items() if held in useful}
        for kind, fields in table.items()
        if kind in useful
    }


PATHS = _paths_to_tensors()
"""For each message type that can lead to a tensor: the fields that do, and the type they hold."""
MODEL = ModelProto.DESCRIPTOR.full_name


class WireReader:
    """Reads a file through one small window."""

    def __init__(self, handle: int, size: int) -> None:
        self.handle, self.size = handle, size
        self.base, self.window = 0, b""
        self.references = self.fields = 0

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of the file."""
        data = b""
        while start < stop:
            piece = read_at(self.handle, stop - start, start)
            if not piece:
                raise WireError("the file ends early")
            data = data + piece if data else piece
            start += len(piece)
        return data

    def count(self) -> None:
        """Note one more field."""
        self.fields += 1
        if self.fields > MAX_FIELDS:
            raise WireError(
                f"it has more than {MAX_FIELDS:,} nodes, tensors and other parts, the most that is read"
            )

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """A number and where it ends."""
        offset = position - self.base
        short = offset + 10 > len(self.window) and self.base + len(self.window) < self.size
        if offset < 0 or short:
            self.base, self.window, offset = position, read_at(self.handle, _WINDOW, position), 0
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

    The serialized structure, and how many references are in it.
    """
    size = os.fstat(handle).st_size
    reader = WireReader(handle, size)
    pieces: list[bytes] = []
    _lighten(reader, (0, size), MODEL, location, pieces, 0)
    return b"".join(pieces), reader.references


def _lighten(
    reader: WireReader, extent: tuple[int, int], kind: str, location: str, pieces: list[bytes], depth: int
) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"messages are nested more than {MAX_DEPTH} deep")
    held = PATHS[kind]
    kept, end = extent
    spans: list[tuple[int, int, int]] = []
    elsewhere = explicit = False
    for field, start, payload, stop in fields_of(reader, extent):
        if kind == TENSOR and field == _DATA_LOCATION:
            # A number may be spelled with more bytes than it needs, of which the last ones say nothing.
            explicit = not any(byte & 0x7F for byte in reader.read(start, stop)[1:])
            elsewhere |= not explicit
        elsewhere |= kind == TENSOR and field == _EXTERNAL_DATA
        if payload < 0 or stop - payload < BIG:
            continue
        if kind == TENSOR and field == _RAW_DATA:
            spans.append((start, payload, stop))
        elif field in held and held[field] != _IN_MEMORY:
            inner: list[bytes] = []
            _lighten(reader, (payload, stop), held[field], location, inner, depth + 1)
            if kept < start:
                pieces.append(reader.read(kept, start))
            pieces.append(spell_varint(field << 3 | BYTES) + spell_varint(sum(map(len, inner))))
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


def fields_of(reader: WireReader, extent: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the payload (-1 if it has no length) and end of each field."""
    position, end = extent
    depth = 0
    outer = (0, 0)
    while position < end:
        start = position
        reader.count()
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
        elif wire == BYTES:
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


def spell_varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)
