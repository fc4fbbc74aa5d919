"""Values that a Loop carries from iteration to iteration and nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onnx import NodeProto

from onnxheadprune.edit.extract import needed_nodes
from onnxheadprune.model.bodies import bodies_of

CARRIED_FROM = 2
"""Inputs of a Loop, and of its body, before what is carried: how often, and whether to go on."""


def drop_unread_states(loop: NodeProto, needed: Iterable[str]) -> None:
    """Drops what a Loop carries only for itself, and what its body computes for that.

    Args:
        loop: the node, which is changed.
        needed: names that somebody reads outside of it.
    """
    (body,) = bodies_of(loop)
    read = set(needed)
    given = [*loop.output, *[""] * (len(body.output) - 1 - len(loop.output))]
    count = len(loop.input) - CARRIED_FROM
    wanted = {index for index, name in enumerate(given) if name in read}
    while True:
        outputs = [body.output[0].name, *(body.output[1 + index].name for index in sorted(wanted))]
        nodes, names = needed_nodes(body, outputs)
        inputs = (body.input[CARRIED_FROM + index].name for index in range(count))
        more = wanted | {index for index, name in enumerate(inputs) if name in names}
        if more == wanted:
            break
        wanted = more
    carried = [index for index in range(count) if index in wanted]
    replace_all(loop.input, [*loop.input[:CARRIED_FROM], *(loop.input[CARRIED_FROM + i] for i in carried)])
    replace_all(loop.output, [given[index] for index in sorted(wanted)])
    replace_all(body.input, [*body.input[:CARRIED_FROM], *(body.input[CARRIED_FROM + i] for i in carried)])
    replace_all(body.output, [body.output[0], *(body.output[1 + index] for index in sorted(wanted))])
    replace_all(body.node, nodes)
    replace_all(body.initializer, [item for item in body.initializer if item.name in names])


def replace_all(field: Any, items: Iterable[Any]) -> None:
    """Gives a repeated field of a protobuf other items, which may be some of its own."""
    kept = [
        item if isinstance(item, str) else type(item).FromString(item.SerializeToString()) for item in items
    ]
    del field[:]
    field.extend(kept)
