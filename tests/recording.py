"""The record in the metadata of a model, as JSON that a test reads and may change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from onnx import ModelProto, StringStringEntryProto

RECORD, VALIDATION = "onnxheadprune.record", "onnxheadprune.validation"
"""Keys of the metadata."""


def recorded(model: ModelProto) -> Any:
    """The record of a model."""
    return json.loads(_entry(model).value)


@contextlib.contextmanager
def rewritten(model: ModelProto) -> Iterator[Any]:
    """The record of a model, which is written back as it is left."""
    content = recorded(model)
    yield content
    _entry(model).value = json.dumps(content)


def _entry(model: ModelProto) -> StringStringEntryProto:
    return next(item for item in model.metadata_props if item.key == RECORD)
