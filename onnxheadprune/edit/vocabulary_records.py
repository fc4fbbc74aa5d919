"""What a model's metadata says of its vocabulary: which tokens of the original are left."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxheadprune.edit.record_fields import Fields, names, read_entry, text, whole
from onnxheadprune.edit.records import VOCABULARY_KEY

VOCABULARY_VERSION = 1
MAX_ROWS = 2**22
"""Rows of the largest table that is credible; the largest vocabularies have a quarter of a million."""


@dataclass(frozen=True)
class RecordedVocabulary:
    """The tokens that a model has kept.

    Attributes:
        rows: token ids of the original.
        kept: which of them are left, in order; the new id of each is its position.
        inputs: names of the inputs with token ids.
    """

    rows: int
    kept: tuple[int, ...]
    inputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, with a bit per token; `from_dict` reads it."""
        bits = np.zeros(self.rows, np.bool_)
        bits[list(self.kept)] = True
        packed = base64.b64encode(np.packbits(bits).tobytes()).decode()
        return {"rows": self.rows, "kept": packed, "inputs": list(self.inputs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecordedVocabulary:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if it is not what `to_dict` makes.
        """
        with Fields(dict(data)) as fields:
            return _read(fields, VOCABULARY_VERSION)


@dataclass(frozen=True)
class VocabularyCut:
    """Tokens that are removed, before anything else but what lies behind an early exit.

    Attributes:
        tokens: the tokens that are left, and the inputs that hold them.
        outputs: outputs with a number per token.
        tables: stored tensors with a row or column per token.
        elements: elements of stored tensors that are gone.
    """

    tokens: RecordedVocabulary
    outputs: tuple[str, ...]
    tables: tuple[str, ...]
    elements: int

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
        """The inverse of `to_dict`.

        Raises:
            ValueError: if the tokens cannot be read.
        """
        return cls(
            RecordedVocabulary.from_dict(data["tokens"]),
            tuple(data["outputs"]),
            tuple(data["tables"]),
            data["elements"],
        )


def vocabulary_record(model: ModelProto) -> RecordedVocabulary | None:
    """The tokens of the original that are left, None for a model that has lost none.

    Raises:
        ModelError: as `units_record` does.
    """
    return read_entry(model, VOCABULARY_KEY, VOCABULARY_VERSION, _read)


def vocabulary_text(record: RecordedVocabulary) -> str:
    """The metadata entry of `vocabulary_record`."""
    return json.dumps({"version": VOCABULARY_VERSION, **record.to_dict()})


def _read(fields: Fields, _: int) -> RecordedVocabulary:
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

    def inputs(value: object) -> tuple[str, ...]:
        found = names(value)
        if isinstance(value, list) and len(found) < len(value):
            raise ValueError("it names an input twice")
        return found

    return RecordedVocabulary(rows, fields.take("kept", kept), fields.take("inputs", inputs))
