"""The record in the metadata of a model: what was done to it since its original, and what callers agreed to.

One typed document with a version holds all of it; another version is refused. The verdict of the proof, a sentence that
no program reads, has an entry of its own, since it is written last.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

import numpy as np
from onnx import ModelProto, StringStringEntryProto

from onnxheadprune.display.spelling import read_ranges, spelled
from onnxheadprune.errors import ModelError
from onnxheadprune.model.documents import parse_json
from onnxheadprune.model.messages import keep
from onnxheadprune.model.storage.writing import WRITER
from onnxheadprune.model.typed_json import (
    OPTIONAL,
    Between,
    Count,
    Distinct,
    Name,
    Spelled,
    document_of,
    json_text,
    read_document,
    shown,
)
from onnxheadprune.settings.measuring import To
from onnxheadprune.settings.units import HEAD, KINDS

VERSION = 3
PREFIX = f"{WRITER}."
RECORD_KEY = f"{PREFIX}record"
VALIDATION_KEY = f"{PREFIX}validation"
HEADS = HEAD.units
"""The name of the units of attention sites."""
MAX_UNITS = 2**20
MAX_ROWS = 2**22
"""Rows of the largest table that is credible; the largest vocabularies have a quarter of a million."""
DIGEST = re.compile("[0-9a-f]{16}")

Sites: TypeAlias = Annotated[tuple[Annotated[int, Between(0, MAX_UNITS)], ...], Distinct()]
"""Indices of attention sites of the original."""
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


ExitState: TypeAlias = Literal["taken", "gone", "left"]


@dataclass(frozen=True)
class RecordedExit:
    """The record of one early exit of the original model."""

    number: Annotated[int, Between(1, 2**31)]  # in the order in which exits are reached in the original
    node: Name  # the first output of the If that decided, by which it is recognised
    # "taken" if the model always exits here; "gone" for exits before or after that one; "left" if unchanged
    state: ExitState


def _packed(tokens: tuple[int, ...]) -> str:
    """A bit for each token up to the last one that is kept."""
    bits = np.zeros(max(tokens) + 1, np.bool_)
    bits[list(tokens)] = True
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def _unpacked(text: str) -> tuple[int, ...]:
    packed = base64.b64decode(text, validate=True)
    tokens = tuple(np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8))).tolist())
    if not tokens or _packed(tokens) != text:
        raise ValueError("it is not a bit for each token up to the last one that is kept")
    return tokens


@dataclass(frozen=True)
class RecordedVocabulary:
    """The tokens that a model has kept."""

    rows: Annotated[int, Between(1, MAX_ROWS)]  # token ids of the original
    kept: Annotated[tuple[int, ...], Spelled(str, _packed, _unpacked)]  # in order; the position is the new id
    inputs: Annotated[tuple[Name, ...], Distinct()]  # with token ids
    outputs: Annotated[tuple[Name, ...], Distinct()]  # with a number for each token

    def __post_init__(self) -> None:
        if self.kept[-1] >= self.rows:
            raise ValueError(f"kept: token {self.kept[-1]} is none of the {self.rows}")


@dataclass(frozen=True)
class RecordedContract:
    """Changes of inputs and outputs that callers agreed to, beyond caches that lose the heads."""

    kept_caches: Sites = ()  # sites whose caches keep the shape that they had before a cut
    dropped_caches: Sites = ()  # sites that were removed with their caches
    # other inputs and outputs that lost positions, by the names that they have now
    narrowed: Annotated[tuple[Name, ...], Distinct()] = ()


@dataclass(frozen=True)
class Record:
    """Everything that was done to a model since its original; a document leaves out what was not."""

    # the sites of the original, by the name of their units
    units: Annotated[Mapping[str, Annotated[tuple[RecordedUnits, ...], Distinct("number")]], OPTIONAL] = (
        field(default_factory=dict)
    )
    contract: Annotated[RecordedContract, OPTIONAL] = RecordedContract()
    fused: Annotated[tuple[FusedSite, ...], Distinct("index"), OPTIONAL] = ()
    refit: Annotated[RefitRecord | None, OPTIONAL] = None
    quantized: Annotated[QuantizedRecord | None, OPTIONAL] = None
    exits: Annotated[
        tuple[RecordedExit, ...], Distinct("number"), OPTIONAL
    ] = ()  # empty if none was made permanent
    vocabulary: Annotated[RecordedVocabulary | None, OPTIONAL] = None  # None where all tokens are left

    def __post_init__(self) -> None:
        unknown = self.units.keys() - {kind.units for kind in KINDS}
        if unknown:
            raise ValueError(f"units: {shown(min(unknown))} is not a kind of unit")
        for units, sites in self.units.items():
            if any(bool(site.kv_num_heads) != (units == HEADS) for site in sites):
                raise ValueError(f"units.{units}: kv_num_heads is 0 for heads, or not for other units")

    @property
    def removes_units(self) -> bool:
        """True if some units were removed by this tool."""
        return any(self.units.values())

    def of(self, units: str) -> tuple[RecordedUnits, ...]:
        """The sites of one kind; nothing where none of the kind has lost units."""
        return self.units.get(units, ())

    def with_units(
        self, units: Mapping[str, tuple[RecordedUnits, ...]]
    ) -> Mapping[str, tuple[RecordedUnits, ...]]:
        """The sites of all kinds, some of them replaced."""
        every = {**self.units, **units}
        return {kind.units: every[kind.units] for kind in KINDS if kind.units in every}


def record_of(model: ModelProto) -> Record:
    """The record of a model, an empty one of a model that has none.

    Raises:
        ModelError: if it cannot be read, is there twice, or was written by another version.
    """
    ours = [item for item in model.metadata_props if item.key.startswith(PREFIX)]
    for item in ours:
        if item.key not in (RECORD_KEY, VALIDATION_KEY):
            raise ModelError(
                f"the metadata entry {item.key} was written by another version of onnxheadprune; make the model again"
                " from its original, with this version"
            )
    texts = [item.value for item in ours if item.key == RECORD_KEY]
    try:
        if len(texts) > 1:
            raise ValueError(f"it is there {len(texts)} times")
        return _read(texts[0]) if texts else Record()
    except ValueError as error:
        raise ModelError(f"the metadata entry {RECORD_KEY} cannot be read: {error}") from error


@functools.lru_cache(maxsize=4)
def _read(text: str) -> Record:
    content = parse_json(text, once=True)
    if not isinstance(content, dict) or "version" not in content:
        raise ValueError("it is not a JSON object with a version")
    version = content.pop("version")
    if type(version) is not int or version != VERSION:
        raise ModelError(
            f"the metadata entry {RECORD_KEY} is of version {shown(version)}, and this version of onnxheadprune reads"
            f" {VERSION}; use the version that wrote the model, or a newer one"
        )
    record: Record = read_document(Record, content)
    return record


def write_record(model: ModelProto, record: Record) -> None:
    """Set the record of a model: its version, and what was done."""
    every, nothing = document_of(record), document_of(Record())
    done = {key: content for key, content in every.items() if content != nothing[key]}
    set_metadata(model, RECORD_KEY, json_text({"version": VERSION} | done))


def set_metadata(model: ModelProto, key: str, value: str) -> None:
    """Set one entry of `metadata_props`: ours in the order of their keys, those of others left alone."""
    entries = model.metadata_props
    known = next((entry for entry in entries if entry.key == key), None)
    if known is not None:
        known.value = value
        return
    behind = (n for n, entry in enumerate(entries) if entry.key.startswith(PREFIX) and entry.key > key)
    entries.insert(next(behind, len(entries)), StringStringEntryProto(key=key, value=value))


def drop_metadata(model: ModelProto, key: str) -> None:
    """Remove an entry of `metadata_props`, if it is there."""
    keep(model.metadata_props, lambda entry: entry.key != key)
