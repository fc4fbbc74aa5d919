"""What this tool writes into a model's metadata about its layers; see `records`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import ModelProto

from onnxheadprune.edit.records import read_entry

LAYERS_KEY = "onnxheadprune.layers"
LAYERS_VERSION = 1


def layers_record(model: ModelProto) -> tuple[tuple[str, ...], ...]:
    """The layers of the original, each as the keys of its sites; nothing for a model whose layers count as they did.

    Raises:
        ModelError: as `read_records` does.
    """
    return read_entry(model, LAYERS_KEY, LAYERS_VERSION, _layers) or ()


def layers_text(layers: Sequence[Sequence[str]]) -> str:
    """The metadata entry of `layers_record`."""
    return json.dumps({"version": LAYERS_VERSION, "layers": [list(keys) for keys in layers]})


def _layers(content: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(key) for key in keys) for keys in content["layers"])
