"""Every stored tensor of a model: its role, its size, and where its bytes are.

A tensor that is not in memory is an ordinary external tensor: `location`, `offset` and `length`. The location of data
that is inside the model file is that file's own name. Two private entries, which never reach a file, add what ONNX has
no words for: cuts that are still to be made when the tensor is written, and where it was.
"""

from __future__ import annotations

import enum
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.bodies import is_constant, nodes_of_model
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.wire import EXPLICIT
from onnxheadprune.model.tensors import Selection
from onnxheadprune.model.typed_json import JsonObject, document_of, json_text, parsed

PRIVATE = "onnxheadprune."
CUT = f"{PRIVATE}cut"
"""A cut to be made while the data is copied; several are made in order."""
OUTSIDE = f"{PRIVATE}outside"
"""The data was read from a file beside the model, and goes back into one."""
_PLACE = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    location: str  # the file, as a tensor's `external_data` names it
    offset: int  # first byte
    length: int  # number of bytes


def own_location(path: Path) -> str:
    """The location that refers to the model's own file: its name, as the text that ONNX wants."""
    return os.fsencode(path.name).decode(errors="replace").replace("\ufffd", "_")


def is_outside(tensor: TensorProto) -> bool:
    """Return whether the tensor's data is not in memory."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def entries_of(tensor: TensorProto) -> dict[str, str]:
    """The external data of a tensor by key."""
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ModelError(
                f"the external data of initializer {tensor.name!r} is described by what is not UTF-8"
            )
        if entry.key in entries and entry.key != CUT:
            raise ModelError(f"initializer {tensor.name!r} names the {entry.key} of its external data twice")
        entries[entry.key] = entry.value
    return entries


def span_of(tensor: TensorProto) -> Span:
    """The place of an external tensor's data; a missing length is -1."""
    entries = entries_of(tensor)
    for key in ("offset", "length"):
        if key in entries and not _NUMBER.fullmatch(entries[key]):
            raise ModelError(
                f"the {key} of the external data of initializer {tensor.name!r} is {entries[key][:40]!r},"
                " not a number of bytes"
            )
    if not entries.get("location"):
        raise ModelError(f"initializer {tensor.name!r} is external and names no file")
    return Span(entries["location"], int(entries.get("offset", 0)), int(entries.get("length", -1)))


def refer(tensor: TensorProto, span: Span) -> None:
    """Let a tensor refer to bytes of a file. Entries with other meanings stay."""
    others = [(entry.key, entry.value) for entry in tensor.external_data if entry.key not in _PLACE]
    del tensor.external_data[:]
    for key, value in (
        ("location", span.location),
        ("offset", str(span.offset)),
        ("length", str(span.length)),
    ):
        tensor.external_data.add(key=key, value=value)
    for key, value in others:
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def hold(tensor: TensorProto, data: bytes, *, outside: int | None = None) -> None:
    """Put a tensor's data into memory, and remember at which offset a file beside the model held it."""
    tensor.raw_data = data
    tensor.ClearField("data_location")
    if any(entry.key == EXPLICIT for entry in tensor.external_data):
        tensor.data_location = TensorProto.DEFAULT
    others = [
        (entry.key, entry.value)
        for entry in tensor.external_data
        if entry.key not in _PLACE and not entry.key.startswith(PRIVATE)
    ]
    del tensor.external_data[:]
    if outside is not None:
        for key, value in others:
            tensor.external_data.add(key=key, value=value)
        tensor.external_data.add(key=OUTSIDE, value=str(outside))


def offset_outside(tensor: TensorProto) -> int | None:
    """The offset in an external file of data that is in memory now; None if it was in the model."""
    return next((int(entry.value) for entry in tensor.external_data if entry.key == OUTSIDE), None)


def forget(tensor: TensorProto) -> None:
    """Take the private entries off a tensor."""
    for position in reversed(range(len(tensor.external_data))):
        if tensor.external_data[position].key.startswith(PRIVATE):
            del tensor.external_data[position]


def defer_cut(tensor: TensorProto, selection: Selection) -> None:
    """Note a cut of data that is not in memory; the declared shape is the one after it."""
    dims = list(tensor.dims)
    if tuple(dims[axis] for axis in selection.axes) != selection.sizes:
        raise ValueError(f"selection for sizes {selection.sizes} on an array of shape {tuple(dims)}")
    tensor.external_data.add(key=CUT, value=json_text(document_of(selection)))
    for axis, kept in zip(selection.axes, selection.kept, strict=True):
        dims[axis] = kept
    del tensor.dims[:]
    tensor.dims.extend(dims)


def cuts_of(tensor: TensorProto) -> tuple[Selection, ...]:
    """The cuts that are still to be made, in order."""
    return tuple(parsed(Selection, entry.value) for entry in tensor.external_data if entry.key == CUT)


def dims_before(tensor: TensorProto) -> tuple[int, ...]:
    """The shape of the stored data, before the cuts that are still to be made."""
    dims = list(tensor.dims)
    for cut in reversed(cuts_of(tensor)):
        for axis, size in zip(cut.axes, cut.sizes, strict=True):
            dims[axis] = size
    return tuple(dims)


class Role(enum.Enum):
    """The place that holds a tensor."""

    INITIALIZER = "initializer"
    ATTRIBUTE = "attribute"
    SPARSE = "sparse tensor"


class Stored(NamedTuple):
    """A stored tensor and what holds it."""

    tensor: TensorProto
    role: Role

    @property
    def label(self) -> str:
        """The name in messages."""
        name = repr(self.tensor.name[:80]) if self.tensor.name else "without a name"
        return f"{self.role.value if self.role is Role.INITIALIZER else 'tensor'} {name}"


_BITS = {
    4: "INT4 UINT4 FLOAT4E2M1",
    2: "INT2 UINT2",
    6: "FLOAT6E2M3 FLOAT6E3M2",
    8: "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0",
    16: "UINT16 INT16 FLOAT16 BFLOAT16",
    32: "FLOAT INT32 UINT32",
    64: "DOUBLE INT64 UINT64 COMPLEX64",
    128: "COMPLEX128",
}
BITS: dict[int, int] = {
    number: bits
    for bits, names in _BITS.items()
    for name, number in TensorProto.DataType.items()
    if name in names.split()
}
"""Bits of an element per data type. Strings have no fixed size."""


def bytes_needed(data_type: int, dims: tuple[int, ...]) -> int:
    """Bytes that raw data of this type and shape has."""
    return (math.prod(dims) * BITS[data_type] + 7) // 8


@one_line()
@dataclass(frozen=True)
class StoredSize(JsonObject):
    """Elements and bytes of the stored tensors of a model, initializers and Constants alike."""

    elements: int
    bytes: int


def stored_size(model: ModelProto) -> StoredSize:
    """Elements and bytes of all stored tensors: of the graph, of bodies and of functions, however they are written."""
    sizes = [(math.prod(stored.tensor.dims), tensor_bytes(stored.tensor)) for stored in tensors_of(model)]
    sizes += _plain_constants(model)
    return StoredSize(sum(elements for elements, _ in sizes), sum(size for _, size in sizes))


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the contents of a tensor."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    known = tensor.data_type in BITS
    return bytes_needed(tensor.data_type, tuple(tensor.dims)) if known else 8 * math.prod(tensor.dims)


def _plain_constants(model: ModelProto) -> Iterator[tuple[int, int]]:
    """Elements and bytes of Constant nodes that hold bare numbers in place of a tensor."""
    for attribute in (item for node in nodes_of_model(model) if is_constant(node) for item in node.attribute):
        if attribute.name in _PLAIN:
            count = max(len(attribute.floats), len(attribute.ints), len(attribute.strings), 1)
            text = sum(map(len, attribute.strings)) + len(attribute.s)
            yield count, text if "string" in attribute.name else _PLAIN[attribute.name] * count


_PLAIN = {
    "value_float": 4,
    "value_floats": 4,
    "value_int": 8,
    "value_ints": 8,
    "value_string": 0,
    "value_strings": 0,
}
"""Attributes of Constant that hold bare numbers, with the bytes of one."""


def tensors_of(model: ModelProto) -> Iterator[Stored]:
    """Every stored tensor of a model: bodies, functions and training included."""
    yield from _of_graph(model.graph)
    for training in model.training_info:
        # Readers look for external data in the graph only, so what is in here is no initializer to them.
        for graph in (training.initialization, training.algorithm):
            yield from (Stored(item.tensor, Role.ATTRIBUTE) for item in _of_graph(graph))
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)


def _of_graph(graph: GraphProto) -> Iterator[Stored]:
    for tensor in graph.initializer:
        yield Stored(tensor, Role.INITIALIZER)
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse)
    for node in graph.node:
        if node.attribute:
            yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[Stored]:
    for attribute in node.attribute:
        yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[Stored]:
    if attribute.HasField("t"):
        yield Stored(attribute.t, Role.ATTRIBUTE)
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(attribute.sparse_tensor)
    for tensor in attribute.tensors:
        yield Stored(tensor, Role.ATTRIBUTE)
    for graph in attribute.graphs:
        yield from _of_graph(graph)
    for sparse in attribute.sparse_tensors:
        yield from _of_sparse(sparse)


def _of_sparse(sparse: SparseTensorProto) -> Iterator[Stored]:
    yield Stored(sparse.values, Role.SPARSE)
    yield Stored(sparse.indices, Role.SPARSE)
