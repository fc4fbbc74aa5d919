"""Records of layers in a model's metadata; see `records`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from onnx import ModelProto

from onnxheadprune.edit.record_fields import Fields, mapping, name, read_entry, several

LAYERS_KEY = "onnxheadprune.layers"
LAYERS_VERSION = 2
"""1 numbered layers by what ended them, whatever their names said; such numbers mean nothing today."""


def layers_record(model: ModelProto) -> Mapping[str, tuple[str, ...]] | None:
    """Return the keys of the sites of each layer of the original, by the key of the layer.

    Returns:
        The record; nothing for a model that has lost none of them as a whole, None for a record of version 1.

    Raises:
        ModelError: as `read_records` does.
    """
    found = read_entry(model, LAYERS_KEY, LAYERS_VERSION, _layers)
    return {} if found is None else found[0]


def layers_text(layers: Mapping[str, Sequence[str]]) -> str:
    """Return the metadata entry of `layers_record`."""
    return json.dumps({"version": LAYERS_VERSION, "layers": {key: list(own) for key, own in layers.items()}})


def _layers(fields: Fields, version: int) -> tuple[Mapping[str, tuple[str, ...]] | None]:
    if version == 1:
        fields.take("layers", several(several(name)))
        return (None,)
    layers = fields.take("layers", mapping(lambda _, keys: several(name)(keys)))
    several(name)([key for keys in layers.values() for key in keys])
    if not all(layers.values()):
        raise ValueError("a layer has no sites")
    return (layers,)
