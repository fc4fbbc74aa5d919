"""Records of early exits in a model's metadata; see `records`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnx import ModelProto

from onnxheadprune.edit.record_fields import (
    MAX_COUNT,
    Fields,
    name,
    one_of,
    optional,
    read_entry,
    several,
    whole,
)

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
        ModelError: as `read_records` does.
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
