"""Records in the metadata of a model of what is no unit: early exits, layers and vocabulary; see `records`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

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
    text,
    whole,
)
from onnxheadprune.edit.records import VOCABULARY_KEY

LAYERS_KEY = "onnxheadprune.layers"
LAYERS_VERSION = 2
"""1 numbered layers by what ended them, whatever their names said; such numbers mean nothing today."""


def _layers(fields: Fields, version: int) -> Mapping[str, tuple[str, ...]] | None:
    if version == 1:
        fields.take("layers", several(several(name)))
        return None
    layers = fields.take("layers", mapping(lambda _, keys: several(name)(keys)))
    several(name)([key for keys in layers.values() for key in keys])
    if not all(layers.values()):
        raise ValueError("a layer has no sites")
    return layers


def _layers_fields(layers: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
    return {"layers": {key: list(own) for key, own in layers.items()}}


LAYERS_ENTRY: Entry[Mapping[str, tuple[str, ...]] | None, Mapping[str, Sequence[str]]] = Entry(
    LAYERS_KEY, LAYERS_VERSION, {}, _layers, _layers_fields
)
"""The keys of the sites of each layer of the original, by the key of the layer.

Nothing for a model that has lost none of them as a whole, None for a record of version 1.
"""


EXITS_KEY = "onnxheadprune.exits"
EXITS_VERSION = 1

ExitState: TypeAlias = Literal["taken", "passed", "behind", "left"]
EXIT_STATES: tuple[ExitState, ...] = get_args(ExitState)


@dataclass(frozen=True)
class RecordedExit:
    """The record of one early exit of the original model."""

    number: int  # in the order in which exits are reached in the original
    node: str  # the first output of the If or Loop that decided, by which it is recognised
    turns: int | None  # how often a Loop has run its body there, None for an If
    # "taken" if the model always exits here; "passed" or "behind" for exits before or after that one; "left"
    # if unchanged
    state: ExitState


def _exits(fields: Fields, _: int) -> tuple[RecordedExit, ...]:
    return fields.take("exits", several(_exit, lambda entry: entry.number))


def _exit(content: object) -> RecordedExit:
    with Fields(content) as fields:
        return RecordedExit(
            fields.take("number", whole(1, MAX_COUNT)),
            fields.take("node", name),
            fields.take("turns", optional(whole(0, MAX_COUNT))),
            fields.take("state", one_of(EXIT_STATES)),
        )


def _exits_fields(exits: Sequence[RecordedExit]) -> Mapping[str, object]:
    entries = [
        {"number": item.number, "node": item.node, "turns": item.turns, "state": item.state} for item in exits
    ]
    return {"exits": entries}


EXITS_ENTRY: Entry[tuple[RecordedExit, ...], Sequence[RecordedExit]] = Entry(
    EXITS_KEY, EXITS_VERSION, (), _exits, _exits_fields
)
"""The early exits of the original, nothing for a model in which none was made permanent."""


VOCABULARY_VERSION = 2
"""1 did not record the outputs that are logits: those with an element for each token were."""
MAX_ROWS = 2**22
"""Rows of the largest table that is credible; the largest vocabularies have a quarter of a million."""


@dataclass(frozen=True)
class RecordedVocabulary:
    """The tokens that a model has kept."""

    rows: int  # token ids of the original
    kept: tuple[int, ...]  # which of them are left, in order; the new id of each is its position
    inputs: tuple[str, ...]  # names of the inputs with token ids
    # names of the outputs with a number for each token; None where that is not recorded
    outputs: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, with a bit per token; `from_dict` reads it."""
        bits = np.zeros(self.rows, np.bool_)
        bits[list(self.kept)] = True
        packed = base64.b64encode(np.packbits(bits).tobytes()).decode()
        outputs = {} if self.outputs is None else {"outputs": list(self.outputs)}
        return {"rows": self.rows, "kept": packed, "inputs": list(self.inputs)} | outputs

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecordedVocabulary:
        """The inverse of `to_dict`."""
        with Fields(dict(data)) as fields:
            return _read(fields, VOCABULARY_VERSION if "outputs" in data else 1)


@dataclass(frozen=True)
class VocabularyCut:
    """Tokens that are removed, before anything else but what lies after an early exit."""

    tokens: RecordedVocabulary  # the tokens that are left, and the inputs that hold them
    outputs: tuple[str, ...]  # outputs with a number per token
    tables: tuple[str, ...]  # stored tensors with a row or column per token
    elements: int  # elements of stored tensors that are gone

    @property
    def left(self) -> int:
        """Tokens that are left."""
        return len(self.tokens.kept)

    def summary(self) -> dict[str, Any]:
        """JSON-ready data without the tokens themselves."""
        return {
            "rows": self.tokens.rows,
            "kept": self.left,
            "inputs": list(self.tokens.inputs),
            "outputs": list(self.outputs),
            "tables": list(self.tables),
            "elements": self.elements,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, from which `from_dict` makes the cut again."""
        return self.summary() | {"tokens": self.tokens.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VocabularyCut:
        """The inverse of `to_dict`."""
        return cls(
            RecordedVocabulary.from_dict(data["tokens"]),
            tuple(data["outputs"]),
            tuple(data["tables"]),
            data["elements"],
        )


def _read(fields: Fields, version: int) -> RecordedVocabulary:
    rows = fields.take("rows", whole(1, MAX_ROWS))

    def kept(value: object) -> tuple[int, ...]:
        try:
            packed = base64.b64decode(text(value), validate=True)
        except binascii.Error as error:
            raise ValueError(f"it is not base64: {error}") from error
        bits = np.unpackbits(np.frombuffer(packed, np.uint8))
        found = tuple(np.flatnonzero(bits).tolist())
        if len(packed) != (rows + 7) // 8 or not found or found[-1] >= rows:
            raise ValueError(f"it is not a bit for each of {rows} tokens, of which some are kept")
        return found

    def each_once(value: object) -> tuple[str, ...]:
        found = names(value)
        if isinstance(value, list) and len(found) < len(value):
            raise ValueError("it names an input or output twice")
        return found

    outputs = fields.take("outputs", each_once) if version > 1 else None
    return RecordedVocabulary(rows, fields.take("kept", kept), fields.take("inputs", each_once), outputs)


VOCABULARY_ENTRY: Entry[RecordedVocabulary | None, RecordedVocabulary] = Entry(
    VOCABULARY_KEY, VOCABULARY_VERSION, None, _read, RecordedVocabulary.to_dict
)
"""The tokens of the original that are left."""
