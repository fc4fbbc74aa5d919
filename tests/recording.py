"""The record in the metadata of a model, as JSON that a test may change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from onnx import ModelProto

from onnxheadprune.edit.records import RECORD_KEY


@contextlib.contextmanager
def rewritten(model: ModelProto) -> Iterator[Any]:
    """The record of a model, which is written back as it is left."""
    entry = next(item for item in model.metadata_props if item.key == RECORD_KEY)
    content = json.loads(entry.value)
    yield content
    entry.value = json.dumps(content)
