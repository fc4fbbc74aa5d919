"""Records in the metadata of a model of what is no unit: early exits and vocabulary; see `records`."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from onnx import ModelProto

from onnxheadprune.edit.records import (
    CACHES_KEY,
    COMPENSATED_KEY,
    FUSED_KEY,
    QUANTIZED_KEY,
    VALIDATION_KEY,
    VOCABULARY_KEY,
    Entry,
    units_entry,
)
from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.writing import WRITER
from onnxheadprune.model.typed_json import (
    Between,
    Count,
    Distinct,
    JsonObject,
    Name,
    Size,
    Spelled,
    written,
)

EXITS_KEY = "onnxheadprune.exits"
NO_UNITS = frozenset(
    (
        VALIDATION_KEY,
        COMPENSATED_KEY,
        FUSED_KEY,
        CACHES_KEY,
        VOCABULARY_KEY,
        QUANTIZED_KEY,
        EXITS_KEY,
    )
)
"""Entries of what is done beside removing units."""


def require_known(model: ModelProto, units: Iterable[str]) -> None:
    """Refuse entries of other versions: they may say what was removed, and nobody would read it.

    Raises:
        ModelError: with the key of the first.
    """
    known = NO_UNITS | {units_entry(name).key for name in units}
    for entry in model.metadata_props:
        if entry.key.startswith(f"{WRITER}.") and entry.key not in known:
            raise ModelError(
                f"the metadata entry {entry.key} is unknown to this version of onnxheadprune; use the version that"
                " wrote the model, or a newer one"
            )


ExitState: TypeAlias = Literal["taken", "passed", "behind", "left"]


@dataclass(frozen=True)
class RecordedExit:
    """The record of one early exit of the original model."""

    number: Annotated[int, Between(1, 2**31)]  # in the order in which exits are reached in the original
    node: Name  # the first output of the If or Loop that decided, by which it is recognised
    turns: Count | None  # how often a Loop has run its body there, None for an If
    # "taken" if the model always exits here; "passed" or "behind" for exits before or after that one; "left"
    # if unchanged
    state: ExitState


EXITS_ENTRY: Entry[tuple[RecordedExit, ...]] = Entry(
    EXITS_KEY, Annotated[tuple[RecordedExit, ...], Distinct("number")], (), "exits"
)
"""The early exits of the original, nothing for a model in which none was made permanent."""


MAX_ROWS = 2**22
"""Rows of the largest table that is credible; the largest vocabularies have a quarter of a million."""


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


VOCABULARY_ENTRY: Entry[RecordedVocabulary | None] = Entry(VOCABULARY_KEY, RecordedVocabulary, None)
"""The tokens of the original that are left."""


@dataclass(frozen=True, kw_only=True)
class VocabularyCut(JsonObject):
    """Tokens that are removed, before anything else but what lies after an early exit."""

    outputs: tuple[str, ...]  # with a number per token
    tables: tuple[str, ...]  # stored tensors with a row or column per token
    elements: Size  # of stored tensors that are gone
    tokens: RecordedVocabulary  # the tokens that are left, and the inputs that hold them

    @property
    @written()
    def rows(self) -> int:
        """Tokens of the original."""
        return self.tokens.rows

    @property
    @written("kept")
    def left(self) -> int:
        """Tokens that are left."""
        return len(self.tokens.kept)

    @property
    @written()
    def inputs(self) -> tuple[str, ...]:
        """Inputs with token ids."""
        return self.tokens.inputs
