"""The entries that this tool writes into a model's metadata, and their reader.

There is one entry for each thing that was done: heads removed, tensors refitted, sites fused, weights quantized, the
verdict. Each is a typed document with a version, but for the verdict, which is a sentence. Another version is refused
by name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.documents import parse_json
from onnxheadprune.model.spelling import read_ranges, spelled
from onnxheadprune.model.typed_json import (
    Between,
    Count,
    Distinct,
    Name,
    Spelled,
    at,
    document_of,
    json_text,
    read_document,
    shown,
)
from onnxheadprune.settings.measuring import To

Record = TypeVar("Record")

VERSION = 2
"""Of all entries."""
VALIDATION_KEY = "onnxheadprune.validation"
COMPENSATED_KEY = "onnxheadprune.compensated"
FUSED_KEY = "onnxheadprune.fused"
CACHES_KEY = "onnxheadprune.caches"
VOCABULARY_KEY = "onnxheadprune.vocabulary"
"""Read in `model_records`."""
QUANTIZED_KEY = "onnxheadprune.quantized"
HEADS = "heads"
"""The name of the units of attention sites."""
LAYERS = "layers"
"""The name of layers as units."""
MAX_UNITS = 2**20
DIGEST = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Entry(Generic[Record]):
    """An entry in the metadata of models, a JSON object with a version."""

    key: str
    kind: Any  # the type of the record
    absent: Record  # the record of a model without the entry
    field: str = ""  # holds the record; "" where the record's fields stand beside the version

    def text(self, record: Record) -> str:
        """The entry as it is stored."""
        content = document_of(record, self.kind)
        return json_text({"version": VERSION} | ({self.field: content} if self.field else content))

    def read(self, model: ModelProto) -> Record:
        """The record of a model.

        Raises:
            ModelError: if it cannot be read, is there twice, or is of a version that is unknown here.
        """
        entries = [item.value for item in model.metadata_props if item.key == self.key]
        if not entries:
            return self.absent
        try:
            if len(entries) > 1:
                raise ValueError(f"it is there {len(entries)} times")
            content = parse_json(entries[0], once=True)
            if not isinstance(content, dict) or "version" not in content:
                raise ValueError("it is not a JSON object with a version")
            version = content.pop("version")
            if type(version) is not int or version != VERSION:
                raise ModelError(
                    f"the metadata entry {self.key} is of version {shown(version)}, and this version of onnxheadprune"
                    f" reads {VERSION}; use the version that wrote the model, or a newer one"
                )
            if self.field and content.keys() != {self.field}:
                raise ValueError(f"its fields are not version and {self.field}")
            read = functools.partial(read_document, self.kind)
            record: Record = at(f".{self.field}", read, content[self.field]) if self.field else read(content)
            return record
        except ValueError as error:
            raise ModelError(f"the metadata entry {self.key} cannot be read: {error}") from error


Units = Annotated[tuple[int, ...], Spelled(str, spelled, functools.partial(read_ranges, most=MAX_UNITS - 1))]
"""Indices of units, as ranges."""


@dataclass(frozen=True)
class RecordedUnits:
    """The record of one site of the original model. Units are indices of that model."""

    number: Annotated[int, Between(0, MAX_UNITS)]  # its position among the sites of its kind in the original
    name: str  # module path, as far as the original told it
    num_units: Annotated[int, Between(1, MAX_UNITS)]  # in the original
    removed: Units
    # names of what its projections give, by which it is recognised: no cut changes them
    projections: Annotated[tuple[Name, ...], Distinct()]
    kv_num_heads: Annotated[int, Between(0, MAX_UNITS)] = 0  # in the original; 0 of other units than heads
    # names of the states in front of a layer and behind it; none for other units
    states: Annotated[tuple[tuple[Name, Name], ...], Distinct()] = ()

    def __post_init__(self) -> None:
        if max((self.kv_num_heads - 1, *self.removed)) >= self.num_units:
            raise ValueError(f"more is removed or shared than the {self.num_units} units that there are")

    @property
    def left(self) -> int:
        """Units that remain."""
        return self.num_units - len(self.removed)

    def counted(self, units: str) -> str:
        """The number of units in the original: "4 heads and 2 KV heads"."""
        shared = f" and {self.kv_num_heads} KV heads" if self.kv_num_heads else ""
        return f"{self.num_units} {units}{shared}"


@functools.cache
def units_entry(units: str) -> Entry[tuple[RecordedUnits, ...]]:
    """The entry of the sites of one kind in the original with the units that they have lost."""

    def of_the_kind(record: Sequence[RecordedUnits]) -> None:
        if any(bool(item.kv_num_heads) != (units == HEADS) for item in record):
            raise ValueError("kv_num_heads is 0 for heads, or not for other units")

    kind = Annotated[tuple[RecordedUnits, ...], Distinct("number"), of_the_kind]
    return Entry(f"onnxheadprune.{units}", kind, (), "sites")


def _digest(value: str) -> None:
    if not DIGEST.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a digest of 16 hexadecimal digits")


@dataclass(frozen=True)
class RefitRecord:
    """The refitted initializers of the original, and the data that they were refitted on."""

    tensors: Annotated[tuple[Name, ...], Distinct()]  # their names in the original
    data: str  # fingerprint of the data
    samples: Count
    # of each tensor as the file holds it: damage shows, an attack does not
    digests: Mapping[str, Annotated[str, _digest]] = field(default_factory=dict)
    steps: Count = 0  # of training; 0 where all of it is a refit in closed form

    def __post_init__(self) -> None:
        unknown = self.digests.keys() - set(self.tensors)
        if unknown:
            raise ValueError(f"digests: {shown(min(unknown))} is not one of the tensors")


@dataclass(frozen=True)
class QuantizedRecord:
    """The settings by which a model was quantized."""

    to: To
    settings: Mapping[Name, bool | Count]  # of the quantizer
    data: str | None = None  # fingerprint of the data that ranges of activations were found on
    samples: Count = 0
    refit: RefitRecord | None = None  # what was refitted before it, and lies in the quantized weights now


@dataclass(frozen=True)
class FusedSite:
    """A site of the original that this tool has fused."""

    index: Annotated[int, Between(0, MAX_UNITS)]
    operator: Name


REFIT_ENTRY: Entry[RefitRecord | None] = Entry(COMPENSATED_KEY, RefitRecord, None)
QUANTIZED_ENTRY: Entry[QuantizedRecord | None] = Entry(QUANTIZED_KEY, QuantizedRecord, None)
CACHES_ENTRY: Entry[tuple[int, ...]] = Entry(
    CACHES_KEY, Annotated[tuple[Annotated[int, Between(0, MAX_UNITS)], ...], Distinct()], (), "sites"
)
"""Indices of the sites of the original that were removed with their caches."""
FUSED_ENTRY: Entry[tuple[FusedSite, ...]] = Entry(
    FUSED_KEY, Annotated[tuple[FusedSite, ...], Distinct("index")], (), "sites"
)
