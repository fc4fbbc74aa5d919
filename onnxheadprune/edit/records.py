"""What this tool writes into a model's metadata, and how it is read back.

There is one entry for each thing that was done: heads removed, tensors refitted, sites fused, weights quantized, the
verdict. Each is a JSON object with a version, but for the verdict, which is a sentence. An entry of an older version is
read as one of today's; one of a newer version is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from onnxheadprune.edit.record_fields import (
    MAX_COUNT,
    Entry,
    Fields,
    mapping,
    name,
    names,
    one_of,
    optional,
    several,
    shown,
    text,
    whole,
)
from onnxheadprune.model.spelling import read_ranges, spelled
from onnxheadprune.settings.measuring import To

VALIDATION_KEY = "onnxheadprune.validation"
HEADS = "heads"
"""The name of the units of attention sites."""
REMOVED_KEY = "onnxheadprune.removed"
"""Of the record of heads."""
REMOVED_VERSION = 2
"""1 does not say by what a site is recognised."""
UNITS_VERSION = 1
"""Of the entries of other units than heads, one for each kind."""
MAX_UNITS = 2**20
COMPENSATED_KEY = "onnxheadprune.compensated"
COMPENSATED_VERSION = 3
"""1 had no digests, 2 no training. A model that was not trained says 2, so that older versions can read it."""
FUSED_KEY = "onnxheadprune.fused"
FUSED_VERSION = 1
CACHES_KEY = "onnxheadprune.caches"
CACHES_VERSION = 1
VOCABULARY_KEY = "onnxheadprune.vocabulary"
"""Read in `model_records`."""
QUANTIZED_KEY = "onnxheadprune.quantized"
QUANTIZED_VERSION = 1

DIGEST = 16
"""Hexadecimal digits of a digest."""


@dataclass(frozen=True)
class RecordedUnits:
    """The record of one site of the original model. Units are indices of that model."""

    number: int  # its position among the sites of its kind in the original
    name: str  # module path, as far as the original told it
    num_units: int  # units in the original
    removed: tuple[int, ...]  # the units that are gone
    # names of what its projections give, by which it is recognised: no cut changes them. Empty in records of
    # heads of version 1.
    projections: tuple[str, ...]
    kv_num_heads: int = 0  # key/value heads in the original; 0 of other units than heads

    @property
    def left(self) -> int:
        """Units that remain."""
        return self.num_units - len(self.removed)

    def counted(self, units: str) -> str:
        """The number of units in the original: "4 heads and 2 KV heads"."""
        shared = f" and {self.kv_num_heads} KV heads" if self.kv_num_heads else ""
        return f"{self.num_units} {units}{shared}"


@dataclass(frozen=True)
class RefitRecord:
    """The refitted initializers of the original, and the data that they were refitted on."""

    tensors: tuple[str, ...]  # their names in the original
    data: str  # fingerprint of the data
    samples: int  # how many samples that was
    # of each tensor as the file holds it: damage shows, an attack does not. None in records of version 1,
    # which had none.
    digests: Mapping[str, str] | None = field(default_factory=dict)
    steps: int = 0  # of training; 0 where all of it is a refit in closed form


@dataclass(frozen=True)
class QuantizedRecord:
    """The settings by which a model was quantized."""

    to: To  # the way ("int8-dynamic", "int8-qdq" or "int4")
    settings: Mapping[str, bool | int]  # of the quantizer, by name
    # fingerprint of the data that ranges of activations were found on, None where none were
    data: str | None = None
    samples: int = 0  # how many samples that was
    # what was refitted before it, and lies in the quantized weights now; None without
    refit: RefitRecord | None = None


def units_entry(units: str) -> Entry[tuple[RecordedUnits, ...], Sequence[RecordedUnits]]:
    """The entry of the sites of one kind in the original with the units that they have lost."""
    if units == HEADS:
        return _HEADS_ENTRY

    def block(content: object) -> RecordedUnits:
        with Fields(content) as fields:
            count = fields.take(f"num_{units}", whole(1, MAX_UNITS))
            return RecordedUnits(
                fields.take("number", whole(0, MAX_UNITS)),
                fields.take("name", text),
                count,
                fields.take("removed", lambda value: read_ranges(text(value), count - 1)),
                fields.take("projections", names),
            )

    def taken(fields: Fields, _: int) -> tuple[RecordedUnits, ...]:
        return fields.take("blocks", several(block, lambda entry: entry.number))

    def written(entries: Sequence[RecordedUnits]) -> Mapping[str, object]:
        blocks = [
            {
                "number": entry.number,
                "name": entry.name,
                f"num_{units}": entry.num_units,
                "removed": spelled(entry.removed),
                "projections": list(entry.projections),
            }
            for entry in entries
        ]
        return {"blocks": blocks}

    return Entry(f"onnxheadprune.{units}", UNITS_VERSION, (), taken, written)


def _sites(fields: Fields, version: int) -> tuple[RecordedUnits, ...]:
    """The attention sites, whose record is older than that of other units."""

    def site(content: object) -> RecordedUnits:
        with Fields(content) as fields:
            heads = fields.take("num_heads", whole(1, MAX_UNITS))
            named = version > 1 or "projections" in fields
            return RecordedUnits(
                fields.take("index", whole(0, MAX_UNITS)),
                fields.take("name", text),
                heads,
                fields.take("removed", several(whole(0, heads - 1))),
                fields.take("projections", names) if named else (),
                fields.take("kv_num_heads", whole(1, heads)),
            )

    return fields.take("sites", several(site, lambda entry: entry.number))


def _sites_fields(entries: Sequence[RecordedUnits]) -> Mapping[str, object]:
    sites = [
        {
            "index": entry.number,
            "name": entry.name,
            "num_heads": entry.num_units,
            "kv_num_heads": entry.kv_num_heads,
            "removed": sorted(entry.removed),
            "projections": list(entry.projections),
        }
        for entry in entries
    ]
    return {"sites": sites}


_HEADS_ENTRY: Entry[tuple[RecordedUnits, ...], Sequence[RecordedUnits]] = Entry(
    REMOVED_KEY, REMOVED_VERSION, (), _sites, _sites_fields
)


def _refit(fields: Fields, version: int) -> RefitRecord:
    def digest(tensor: str, value: object) -> str:
        if tensor not in tensors:
            raise ValueError(f"{shown(tensor)} is not one of the tensors")
        digits = text(value)
        if len(digits) != DIGEST or not set(digits) <= set("0123456789abcdef"):
            raise ValueError(f"{shown(value)} is not a digest of {DIGEST} hexadecimal digits")
        return digits

    tensors = fields.take("tensors", several(name))
    return RefitRecord(
        tensors,
        fields.take("data", text),
        fields.take("samples", whole(0, MAX_COUNT)),
        None if version == 1 else fields.take("digests", mapping(digest)),
        fields.take("steps", whole(1, MAX_COUNT)) if version == COMPENSATED_VERSION else 0,
    )


def _refit_before(content: object) -> RefitRecord:
    """The refit before a model was quantized: an entry within another one."""
    with Fields(content) as fields:
        return _refit(fields, fields.take("version", whole(1, COMPENSATED_VERSION)))


def _refit_fields(record: RefitRecord) -> Mapping[str, object]:
    untrained = 1 if record.digests is None else COMPENSATED_VERSION - 1
    content: dict[str, object] = {
        "version": COMPENSATED_VERSION if record.steps else untrained,
        "tensors": list(record.tensors),
        "data": record.data,
        "samples": record.samples,
    }
    if record.digests is not None:
        content["digests"] = dict(sorted(record.digests.items()))
    if record.steps:
        content["steps"] = record.steps
    return content


REFIT_ENTRY: Entry[RefitRecord | None, RefitRecord] = Entry(
    COMPENSATED_KEY, COMPENSATED_VERSION, None, _refit, _refit_fields
)
"""The refitted tensors."""


def _quantized(fields: Fields, _: int) -> QuantizedRecord:
    return QuantizedRecord(
        fields.take("to", one_of(get_args(To))),
        fields.take("settings", mapping(_setting)),
        fields.take("data", optional(text)),
        fields.take("samples", whole(0, MAX_COUNT)),
        fields.take("refit", optional(_refit_before)),
    )


def _setting(_: str, value: object) -> bool | int:
    return value if isinstance(value, bool) else whole(0, MAX_COUNT)(value)


def _quantized_fields(record: QuantizedRecord) -> Mapping[str, object]:
    return {
        "to": record.to,
        "settings": dict(record.settings),
        "data": record.data,
        "samples": record.samples,
        "refit": None if record.refit is None else _refit_fields(record.refit),
    }


QUANTIZED_ENTRY: Entry[QuantizedRecord | None, QuantizedRecord] = Entry(
    QUANTIZED_KEY, QUANTIZED_VERSION, None, _quantized, _quantized_fields
)
"""How this tool quantized the model."""


def _caches(fields: Fields, _: int) -> tuple[int, ...]:
    return fields.take("sites", several(whole(0, MAX_UNITS)))


CACHES_ENTRY: Entry[tuple[int, ...], Iterable[int]] = Entry(
    CACHES_KEY, CACHES_VERSION, (), _caches, lambda sites: {"sites": sorted(set(sites))}
)
"""Indices of the sites of the original that were removed with their caches."""


def _fused(fields: Fields, _: int) -> tuple[int, ...]:
    def site(content: object) -> int:
        with Fields(content) as fields:
            fields.take("operator", name)
            return fields.take("index", whole(0, MAX_UNITS))

    return fields.take("sites", several(site))


def _fused_fields(operators: Mapping[int, str]) -> Mapping[str, object]:
    return {"sites": [{"index": index, "operator": operator} for index, operator in operators.items()]}


FUSED_ENTRY: Entry[tuple[int, ...], Mapping[int, str]] = Entry(
    FUSED_KEY, FUSED_VERSION, (), _fused, _fused_fields
)
"""Indices of the sites that this tool has fused; written with the operator of each."""
