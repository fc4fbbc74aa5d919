"""A silenced context adds nothing to a quantized sum only if writer and reader use the same zero point.

A head that is multiplied by zero before a quantizer becomes that quantizer's zero point. A reader of the integers
subtracts a zero point too; if it is another one, a silenced head still adds a constant, and a removed one would not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.model.graph.facts import (
    DEQUANTIZES,
    DROPOUTS,
    EXPANDS,
    FLATTENS,
    GATHERS,
    JOINS,
    MEASURES_SCALE,
    PADS,
    SLICES,
    SPLITS,
    VIEWS,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import reachable

_PASSING = VIEWS | FLATTENS | SLICES | GATHERS | SPLITS | JOINS | DROPOUTS | PADS | EXPANDS
"""Nodes without arithmetic: what is zero above is zero below."""
_MAX_NODES = 256


def why_zero_is_lost(projection: Projection, unit: str) -> str | None:
    """Return why silenced units would still add something to a projection's sum, None if they add nothing."""
    for reader, index in _readers(projection):
        asked = roles_of(reader).zero_points[index]
        for zero in _written(reader.inputs[index]):
            if not _same(zero, reader.input(asked)):
                return (
                    f"{reader.label} takes another zero point off the context than its quantizer added, so that a"
                    f" silenced {unit} still adds a constant"
                )
    return None


def _readers(projection: Projection) -> Iterator[tuple[Node, int]]:
    """The projection itself if it reads integers, and dequantizers right above it."""
    node, index = projection.node, projection.activation[0]
    if index in roles_of(node).zero_points:
        yield node, index
    for value in _above(node.inputs[index]):
        if value.producer is not None and value.producer in DEQUANTIZES:
            yield value.producer, 0


def _written(value: Value | None) -> Iterator[Value | None]:
    """The known zero points of the quantizers upstream."""
    for source in _above(value):
        node = source.producer
        if node is not None and node in MEASURES_SCALE:
            yield node.outputs[2] if len(node.outputs) > 2 else None
        elif node is not None and (zero := roles_of(node).output_zero) is not None:
            yield node.input(zero)


def _above(value: Value | None) -> Iterator[Value]:
    """Yield the sources of a value through views and unions alone."""

    def passed(item: Value) -> list[Value]:
        node = item.producer
        if node is None or node not in _PASSING:
            return []
        return node.sources if node in JOINS else node.sources[:1]

    walk = reachable([] if value is None else [value], passed, _MAX_NODES)
    return (item for item in walk if not passed(item))


def _same(left: Value | None, right: Value | None) -> bool:
    if left is right:
        return True
    numbers = [np.zeros(()) if value is None else value.literal() for value in (left, right)]
    first, second = numbers
    return first is not None and second is not None and bool(np.all(first == second))
