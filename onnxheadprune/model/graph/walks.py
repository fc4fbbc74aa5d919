"""Walks through a graph, and what they find behind a value: its stored tensor, its element type, the number it holds.

Shape inference does not know the output types of ONNX Runtime's own operators, and files that were converted to half
precision often still declare float for values in between. Stored tensors and casts are reliable. An operator of which
nothing is known is taken to output the type that it reads first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from onnx import TensorProto, numpy_helper

from onnxheadprune.model.graph.facts import (
    CASTS,
    CASTS_LIKE,
    CHOOSES_ELEMENTS,
    EXPANDS,
    FILLS,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    GATHERS_ROWS,
    IDENTITIES,
    REREADS,
    SLICES,
    TILES,
    VIEWS,
    Kind,
)
from onnxheadprune.model.graph.tables import ARITHMETIC
from onnxheadprune.model.graph.types import inputs_alike
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, Node, Value
from onnxheadprune.model.tensors import FLOATS

Item = TypeVar("Item")


def reachable(
    starts: Iterable[Item], following: Callable[[Item], Iterable[Item]], most: float = math.inf
) -> Iterator[Item]:
    """Yield some items and all that can be reached from them, nearest first.

    Args:
        starts: where to begin: values, nodes, or either of them with what is known there.
        following: what is next to an item; nothing where the walk ends.
        most: items after which the walk is given up.
    """
    queue = deque(dict.fromkeys(starts))
    seen = set(queue)
    while queue and len(seen) <= most:
        item = queue.popleft()
        yield item
        for other in following(item):
            if other not in seen:
                seen.add(other)
                queue.append(other)


def back_through(value: Value | None, kind: Kind, most: int = 2**16) -> Iterator[Node]:
    """Yield the producers of a value along first inputs, nearest first, to the first of another kind."""
    for _ in range(most):
        node = None if value is None else value.producer
        if node is None:
            return
        yield node
        if node not in kind:
            return
        value = node.input(0)


def stored_behind(value: Value | None) -> Value | None:
    """Return where first inputs lead from a value: the tensor that is transposed, cast or dequantized to make it."""
    while (
        value is not None and not value.holds_tensor and value.producer is not None and value.producer.inputs
    ):
        value = value.producer.inputs[0]
    return value


MAX_STEPS = 64


def type_of(value: Value | None) -> int:
    """The element type; UNDEFINED where nothing tells it."""
    declared = 0 if value is None else value.elem_type
    for _ in range(MAX_STEPS):
        if value is None:
            break
        if value.tensor is not None or value.is_graph_input or value.producer is None:
            return value.elem_type or declared
        node = value.producer
        if node in CASTS:
            return int(node.attribute("to"))
        alike = inputs_alike(node, value.output_index)
        if not alike and (value.elem_type or declared or not node.sources):
            return value.elem_type or declared
        alike = alike or node.sources[:1]
        value = next((source for source in alike if source.tensor is not None), alike[0])
    return declared or int(TensorProto.UNDEFINED)


MAX_DEPTH = 32
NOTHING_NEW = VIEWS | FLATTENS | EXPANDS | TILES | SLICES | GATHERS | GATHERS_ROWS | GATHERS_ELEMENTS
"""Operators whose result holds nothing that the first input does not."""
_SAME = CASTS | IDENTITIES | REREADS | CASTS_LIKE


def scalar_of(value: Value | None, depth: int = MAX_DEPTH) -> float | None:
    """The one number that a value holds, None if it holds several or depends on the inputs."""
    if value is None or depth == 0:
        return None
    literal = value.literal()
    if literal is not None:
        return float(literal.reshape(-1)[0]) if literal.size == 1 and literal.dtype.kind in "fiubV" else None
    node = value.producer
    if node is None or node.domain:
        return None
    if node in _SAME:
        return scalar_of(node.input(0), depth - 1)
    function = ARITHMETIC.of(node)
    return (
        None if function is None else function(node, [scalar_of(value, depth - 1) for value in node.inputs])
    )


def uniform(value: Value | None, depth: int = MAX_DEPTH) -> float | None:
    """The number that a value holds everywhere, whatever the inputs are; None if it may hold several."""
    if value is None or depth == 0:
        return None
    if value.tensor is not None:
        return _stored(value)
    node = value.producer
    if node is None or node.domain:
        return None
    if node in NOTHING_NEW:
        return uniform(node.input(0), depth - 1)
    if node in CASTS:
        return _cast(node, depth)
    if node in FILLS:
        fill = node.attribute("value")
        return 0.0 if fill is None else float(numpy_helper.to_array(fill).reshape(-1)[0])
    if node in CHOOSES_ELEMENTS:
        condition = uniform(node.input(0), depth - 1)
        return None if condition is None else uniform(node.input(1 if condition else 2), depth - 1)
    function = ARITHMETIC.of(node)
    return None if function is None else function(node, [uniform(item, depth - 1) for item in node.inputs])


def _stored(value: Value) -> float | None:
    tensor = value.tensor
    if tensor is None or math.prod(tensor.dims) > MAX_LITERAL_ELEMENTS:
        return None
    literal = value.literal()
    if literal is None or not literal.size or literal.dtype.kind not in "biuf":
        return None
    first = literal.reshape(-1)[0]
    return float(first) if bool((literal == first).all()) else None


def _cast(node: Node, depth: int) -> float | None:
    """A cast between types of numbers keeps zero, one and infinity, which is all that masks need."""
    inner = uniform(node.input(0), depth - 1)
    if inner is not None and math.isinf(inner):
        return inner if node.attribute("to") in FLOATS else None
    return inner if inner in (0.0, 1.0) else None
