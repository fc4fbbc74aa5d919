"""Configurations of all models that transformers knows, with fewer layers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from onnxheadprune import RefusedError
from onnxheadprune.deploying.clients.contract import CachedSite, Client, Deployment, FileFacts
from onnxheadprune.deploying.clients.layers import (
    DECODER_LAYERS,
    LAYERS,
    in_config,
    layers_follow,
    of_decoder,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.samples
REMOVED = ((0,), (1,), (0, 2), (-1,))


def defaults() -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Each configuration that can be made without arguments and read again, as it is saved."""
    for kind, made in transformers.CONFIG_MAPPING.items():
        try:
            saved = made().to_json_string(use_diff=False)
            made.from_dict(json.loads(saved))
        except Exception:  # parts are missing, or a file of the hub
            continue
        yield kind, made, json.loads(saved)


def decoder_of(made: type[Any], config: dict[str, Any]) -> Any:
    """The loaded configuration of the decoder."""
    found = made.from_dict(json.loads(json.dumps(config)))
    for name in of_decoder(config)[0]:
        found = getattr(found, name)
    return found


def by_layer(config: Any, part: dict[str, Any], layers: int) -> dict[str, list[Any]]:
    """The attributes of a loaded configuration with an entry for each layer, computed ones included."""
    found = {}
    apart = {name for fields in part.get("per_layer_config", {}).values() for name in fields}
    if apart:
        found = {name: [getattr(layer, name) for layer in config.per_layer_config] for name in apart}
    for name in (name for name in dir(config) if not name.startswith("__")):
        try:
            value = getattr(config, name)
        except Exception:  # it has a value for each layer alone
            continue
        if isinstance(value, list | tuple) and len(value) == layers:
            found[name] = [*value]
    return found


def test_every_list_by_layers_follows_or_is_named() -> None:
    wrong, followed, refused = [], 0, 0
    for kind, made, config in defaults():
        part = of_decoder(config)[1]
        layers = next((part[name] for name in (*DECODER_LAYERS, *LAYERS) if type(part.get(name)) is int), 0)
        if layers < 4:
            continue
        whole = by_layer(decoder_of(made, config), part, layers)
        for removed in REMOVED:
            gone = {layer % layers for layer in removed}
            sites = tuple(CachedSite(at, "", 4, 4, 8, leaves=at in gone) for at in range(layers))
            folder = Deployment((FileFacts("model.onnx", has_cache=True),), config, sites)
            after = json.loads(json.dumps(config))
            try:
                for change in layers_follow(folder, Client("a", "A client", layers=in_config)):
                    inner = after
                    for name in change.field[:-1]:
                        inner = inner[name]
                    inner[change.field[-1]] = change.after
            except RefusedError as error:
                field = str(error).split()[0].split(".")[-1]
                refused += 1
                if f'"{field}"' not in json.dumps(config):
                    wrong.append((kind, removed, str(error)))
                continue
            try:
                loaded = decoder_of(made, after)
            except Exception as error:
                wrong.append((kind, removed, str(error)))
                continue
            followed += 1
            found = by_layer(loaded, part, layers - len(gone))
            for name, entries in whole.items():
                left = [entry for at, entry in enumerate(entries) if at not in gone]
                if found.get(name) != left:
                    wrong.append((kind, removed, name))
    assert not wrong, f"{len({kind for kind, *_ in wrong})} configurations: {wrong}"
    assert followed > 4 * refused > 0
