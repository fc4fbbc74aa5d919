"""The place of every tensor of an output: inside the model file, or in the file beside it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import ModelProto, TensorProto

from onnxheadprune.model.storage.spans import (
    PRIVATE,
    Span,
    cuts_of,
    forget,
    hold,
    is_outside,
    offset_outside,
    refer,
    span_of,
    was_outside,
)
from onnxheadprune.model.storage.splicing import token
from onnxheadprune.model.storage.tensors import Role, Stored, bytes_needed, tensors_of
from onnxheadprune.model.storage.wire import BIG

ExternalData: TypeAlias = Literal["auto", "always", "never"]
EXTERNAL_THRESHOLD = 1024
"""Smaller tensors stay in the model: shape inference and readers want to see them."""
ALIGNMENT = 4096
"""Of new data files: a page, so that tensors can be mapped."""
LEAST_ALIGNMENT, MOST_ALIGNMENT = 64, 2**16


@dataclass(frozen=True)
class Placed:
    """Data that goes somewhere.

    Attributes:
        recipe: the tensor as it was planned: data in memory, or a reference with its cuts.
        offset: where in the data file, -1 for data inside the model.
        length: bytes of it.
    """

    recipe: TensorProto
    offset: int
    length: int


@dataclass(frozen=True, eq=False)
class Layout:
    """A model with every tensor's place decided.

    Attributes:
        model: the structure to be written: tensors outside refer to `location`, the data of tensors
            that is spliced in is a token that begins with `prefix`.
        prefix: of the tokens.
        inside: what is spliced into the model, by the index in the token.
        outside: what goes into the data file, in order.
    """

    model: ModelProto
    prefix: bytes
    inside: tuple[Placed, ...]
    outside: tuple[Placed, ...]

    @property
    def data_size(self) -> int:
        """Bytes of the data file."""
        return max((item.offset + item.length for item in self.outside), default=0)

    def point_to(self, old: str, new: str) -> None:
        """Renames the data file that the model refers to."""
        for stored in tensors_of(self.model):
            if is_outside(stored.tensor):
                span = span_of(stored.tensor)
                assert span.location == old
                refer(stored.tensor, Span(new, span.offset, span.length))


def lay_out(
    model: ModelProto, own: str | None, location: str, external: ExternalData, limit: int
) -> tuple[Layout, int]:
    """Decides where the data of each tensor goes. The model is not changed.

    Args:
        model: the structure; tensors are in memory or refer to files.
        own: the location that means the file of the model itself.
        location: what to call the data file.
        external: "auto" leaves every tensor where it was, "always" and "never" move them.
        limit: bytes that the model file can hold; beyond it, "auto" moves tensors out.

    Returns:
        The layout, and the bytes of data that stay inside the model.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
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
                place = Placed(_copy(tensor), offset, sizes[position])
                placed.append(place)
                end = offset + place.length
                shared[key] = place
            refer(tensor, Span(location, place.offset, place.length))
        elif is_outside(tensor):
            spliced.append(Placed(_copy(tensor), -1, sizes[position]))
            hold(tensor, token(prefix, len(spliced) - 1))
        elif was_outside(tensor):
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
    if external == "never" or stored.role is Role.SPARSE:
        return False
    if is_outside(tensor):
        location = span_of(tensor).location
        beside = was_outside(tensor) if location.startswith(PRIVATE) else location != own
    elif tensor.HasField("raw_data"):
        beside = was_outside(tensor)
    else:
        return False
    if external == "auto" or beside:
        return beside
    return stored.role is Role.INITIALIZER and _size(stored) >= EXTERNAL_THRESHOLD


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


def _copy(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy
