"""References: where a tensor's bytes lie, and which cuts are still to be made on the way out.

A tensor that is not in memory is an ordinary external tensor: `location`, `offset` and `length`. The
location of data that is inside the model file is that file's own name. Two private entries add what ONNX has
no words for; they never reach a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.wire import EXPLICIT
from onnxheadprune.model.tensors import Selection

PRIVATE = "onnxheadprune."
CUT = f"{PRIVATE}cut"
"""A cut to be made while the data is copied; several are made in order."""
OUTSIDE = f"{PRIVATE}outside"
"""The data was read from a file beside the model, and goes back into one."""
_PLACE = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class Span:
    """Bytes of a file.

    Attributes:
        location: the file, as a tensor's `external_data` names it.
        offset: first byte.
        length: number of bytes.
    """

    location: str
    offset: int
    length: int


def own_location(path: Path) -> str:
    """Return what stands for a model's file itself in references: its name, as the text that ONNX wants."""
    return os.fsencode(path.name).decode(errors="replace").replace("\ufffd", "_")


def is_outside(tensor: TensorProto) -> bool:
    """Return whether the tensor's data is not in memory."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def entries_of(tensor: TensorProto) -> dict[str, str]:
    """The external data of a tensor by key.

    Raises:
        ModelError: if a key is given twice.
    """
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
    """Return where the data of an external tensor lies; a missing length is -1.

    Raises:
        ModelError: if a number is no number, or there is no location.
    """
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
    """Lets a tensor refer to bytes of a file. Entries with other meanings stay."""
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
    """Puts a tensor's data into memory, and remembers at which offset a file beside the model held it."""
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


def was_outside(tensor: TensorProto) -> bool:
    """Return whether data that is in memory came from a file beside the model."""
    return offset_outside(tensor) is not None


def offset_outside(tensor: TensorProto) -> int | None:
    """Return where in a file beside the model data lay that is in memory now; None if it was in the model."""
    return next((int(entry.value) for entry in tensor.external_data if entry.key == OUTSIDE), None)


def forget(tensor: TensorProto) -> None:
    """Takes the private entries off a tensor."""
    for position in reversed(range(len(tensor.external_data))):
        if tensor.external_data[position].key.startswith(PRIVATE):
            del tensor.external_data[position]


def defer_cut(tensor: TensorProto, selection: Selection) -> None:
    """Notes a cut of data that is not in memory; the declared shape is the one after it."""
    dims = list(tensor.dims)
    if tuple(dims[axis] for axis in selection.axes) != selection.sizes:
        raise ValueError(f"selection for sizes {selection.sizes} on an array of shape {tuple(dims)}")
    tensor.external_data.add(key=CUT, value=json.dumps(dataclasses.asdict(selection)))
    for axis, kept in zip(selection.axes, selection.kept, strict=True):
        dims[axis] = kept
    del tensor.dims[:]
    tensor.dims.extend(dims)


def cuts_of(tensor: TensorProto) -> tuple[Selection, ...]:
    """The cuts that are still to be made, in order."""
    noted = (json.loads(entry.value) for entry in tensor.external_data if entry.key == CUT)
    return tuple(
        Selection(tuple(cut["axes"]), tuple(cut["sizes"]), tuple(cut["kept"]), cut["live"]) for cut in noted
    )


def dims_before(tensor: TensorProto) -> tuple[int, ...]:
    """The shape of the stored data, before the cuts that are still to be made."""
    dims = list(tensor.dims)
    for cut in reversed(cuts_of(tensor)):
        for axis, size in zip(cut.axes, cut.sizes, strict=True):
            dims[axis] = size
    return tuple(dims)
