"""Records of early exits and of layers in a model's metadata; see `records`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnx import ModelProto

from onnxheadprune.edit.record_fields import (
    MAX_COUNT,
    Fields,
    mapping,
    name,
    one_of,
    optional,
    read_entry,
    several,
    whole,
)

LAYERS_KEY = "onnxheadprune.layers"
LAYERS_VERSION = 2
"""1 numbered layers by what ended them, whatever their names said; such numbers mean nothing today."""


def layers_record(model: ModelProto) -> Mapping[str, tuple[str, ...]] | None:
    """Return the keys of the sites of each layer of the original, by the key of the layer.

    Returns:
        The record; nothing for a model that has lost none of them as a whole, None for a record of version 1.

    Raises:
        ModelError: as `units_record` does.
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


EXITS_KEY = "onnxheadprune.exits"
EXITS_VERSION = 1

ExitState: TypeAlias = Literal["taken", "passed", "behind", "left"]
EXIT_STATES: tuple[ExitState, ...] = get_args(ExitState)


@dataclass(frozen=True)
class RecordedExit:
    """The record of one early exit of the original model.

    Attributes:
        number: in the order in which exits are reached in the original.
        node: the first output of the If or Loop that decided, by which it is recognised.
        turns: how often a Loop has run its body there, None for an If.
        state: "taken" for good; "passed" or "behind" the one that was taken; or "left" as it was.
    """

    number: int
    node: str
    turns: int | None
    state: ExitState


def exits_record(model: ModelProto) -> tuple[RecordedExit, ...]:
    """The early exits of the original, nothing for a model in which none was made permanent.

    Raises:
        ModelError: as `units_record` does.
    """
    return read_entry(model, EXITS_KEY, EXITS_VERSION, _exits) or ()


def exits_text(exits: Sequence[RecordedExit]) -> str:
    """The metadata entry of `exits_record`."""
    entries = [
        {"number": item.number, "node": item.node, "turns": item.turns, "state": item.state} for item in exits
    ]
    return json.dumps({"version": EXITS_VERSION, "exits": entries})


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
