"""Numbers at which a pruned graph may change its ways: those that it holds and the planned one does not.

Whoever hides something behind a length, an id or a value has to store that number, or others from which it follows.
What only constants decide is computed first, so that a number counts however it is spelled: as a product, a root, the
size of a tensor or a text.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from onnx import ModelProto, NodeProto

from onnxheadprune.model.bodies import is_constant
from onnxheadprune.model.graph.elements import computed, is_computable
from onnxheadprune.model.graph.operator import is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.storage.tensors import BITS, is_outside, tensors_of
from onnxheadprune.model.tensors import array_of
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.validation.producers import nodes_of

TAKES_A_PART = kind("Slice", "Gather")
LONGEST = 1025
"""Attention is quadratic, so there is an end to it."""
FEW = 8
"""Up to so many numbers of its own, what follows from one or two of them is tried as well."""
PLAIN = 2
"""Numbers up to this are read in every graph, and nothing follows from them that is not tried anyway."""
SMALL = 16
"""Constants up to this many elements may hold the number at which a graph changes its ways."""
MOST_FOLDED, MOST_ELEMENTS = 2048, 2**16
"""Nodes that are computed from constants, and elements of what they read and give."""
FACTORS = (2, 3, 4, 5, 6, 7, 8)
"""Factors by which a size may be multiplied before it is compared."""


@dataclass(frozen=True)
class Numbers:
    """Numbers at which the pruned graph may change its ways, the most telling first."""

    # whole numbers from 1 up that its own nodes read, or that it holds more often than the planned one
    turning: tuple[int, ...]
    following: tuple[int, ...]  # sizes that follow from these
    tables: tuple[int, ...]  # sizes of tables that positions index
    shared: tuple[int, ...]  # whole numbers that both graphs hold, which may be the size of a window
    values: tuple[float, ...]  # all numbers of its own, with both signs


def numbers_of(
    view: GraphView,
    theirs: GraphView | None,
    models: tuple[ModelProto, ModelProto],
    differing: Sequence[NodeProto],
) -> Numbers:
    """Collect the numbers of a pruned graph."""
    planned, held = map(_held, models)
    read = [] if theirs is None else [*_read(theirs, differing)]
    own = [number for number in dict.fromkeys((*read, *(held - planned))) if math.isfinite(number)]
    turning = dict.fromkeys(size for number in own for size in _sizes(number))
    telling = [number for number in map(abs, own) if number > PLAIN]
    following: dict[int, None] = {}
    few = len(dict.fromkeys(telling)) <= FEW
    for item in graph_inputs(view):
        # An input's number of elements is its open sizes times this.
        width = math.prod(dim for dim in item.dims if isinstance(dim, int))
        following |= dict.fromkeys(number // width for number in turning if number > width > 1)
    results = [*_follow(telling)] if few else []
    found = (size for number in results for size in _sizes(number))
    following |= dict.fromkeys(size for size in found if 1 < size <= LONGEST)
    tables = _table_lengths(view)
    known = {*turning, *following, *tables}
    shared = sorted({int(number) for number in held if number == int(number)} - known)
    wholes = [size for number in results for size in _sizes(number)]
    signed = dict.fromkeys(sign * number for number in (*own, *wholes) for sign in (1, -1) if number)
    return Numbers(
        tuple(turning),
        tuple(size for size in following if size not in turning),
        tuple(sorted({*tables, *(length - 1 for length in tables)})),
        tuple(shared),
        tuple(signed),
    )


def _sizes(number: float) -> Iterator[int]:
    """The sizes next to a number, whatever its sign."""
    whole = abs(number)
    if 0 < whole < 2**31:
        yield from dict.fromkeys(size for size in (math.floor(whole), math.ceil(whole)) if size)


def _follow(numbers: Iterable[float]) -> Iterator[float]:
    """Yield numbers that follow from one or two: a size may be squared, multiplied or shifted before it is compared."""
    known = list(dict.fromkeys(numbers))
    for number in known:
        yield from (number**0.5, number**2 if number < LONGEST else 0.0)
        yield from (number / step for step in FACTORS)
        yield from (math.exp(number) if number < math.log(LONGEST) else 0.0, math.log(number))
        yield from (2.0**number if number < math.log2(LONGEST) else 0.0, math.log2(number))
    for one, other in itertools.combinations(known, 2):
        yield from (one + other, abs(one - other), one * other, max(one, other) / min(one, other))
    for number in known:
        yield from (number * step for step in FACTORS if number * step <= LONGEST)


def _read(view: GraphView, differing: Sequence[NodeProto]) -> Iterator[float]:
    """The numbers that differing nodes read or have as attributes, with all on the way there from constants."""
    keys = {_key(node) for node in differing}
    nodes = [node for node in view.nodes if _key(node.proto) in keys]
    known: dict[Value, Array] = {}
    for node in nodes:
        yield from _attributes(node.proto)
    for node in _behind(nodes):
        given = [None if value is None else _array(value, known) for value in node.inputs]
        for array in given:
            yield from () if array is None else _few(array)
        found = _computed(node, known)
        if found is not None and node.outputs[0] is not None:
            known[node.outputs[0]] = found
            yield from _few(found)


def _behind(nodes: Sequence[Node]) -> list[Node]:
    """These nodes and all before them whose inputs are constant, in the order in which they are computed."""

    def constant(node: Node) -> list[Node]:
        return [item for item in node.producers if all(value.is_constant for value in item.sources)]

    return sorted(islice(reachable(nodes, constant), MOST_FOLDED), key=lambda node: node.index)


def _computed(node: Node, known: Mapping[Value, Array]) -> Array | None:
    """The output of a node that reads constants alone, None where it is large or nothing here computes it."""
    output = node.outputs[0] if node.outputs else None
    if is_constant(node):
        texts = node.attribute("value_strings", [node.attribute("value_string")])
        return None if None in texts else np.array(texts, dtype=object).reshape(-1 if len(texts) > 1 else ())
    if output is None or not is_computable(node):
        return None
    shape = output.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        # What fills a tensor, or repeats one, may fill any memory.
        if not is_a(node, "NonZero", "Cast"):
            return None
    elif math.prod(dim for dim in shape if isinstance(dim, int)) > MOST_ELEMENTS:
        return None
    given = {value: _array(value, known) for value in node.sources}
    arrays = {value.name: array for value, array in given.items() if array is not None}
    if len(arrays) < len(given) or math.prod(max(1, array.size) for array in arrays.values()) > MOST_ELEMENTS:
        return None
    return computed(node, arrays)


def _array(value: Value, known: Mapping[Value, Array]) -> Array | None:
    if value in known:
        return known[value]
    tensor = value.tensor
    if tensor is None:
        return value.literal()
    if is_outside(tensor) or math.prod(tensor.dims) > MOST_ELEMENTS:
        return None
    return array_of(tensor)


def _few(array: Array) -> Iterator[float]:
    """The numbers of a small array."""
    if 0 < array.size <= SMALL and array.dtype.kind in "iufb":
        yield from (float(item) for item in np.unique(array.astype(np.float64)) if np.isfinite(item))


def _key(node: NodeProto) -> tuple[str, tuple[str, ...]]:
    return node.op_type, tuple(node.output)


def _attributes(node: NodeProto) -> Iterator[float]:
    for attribute in () if is_a(node, "Cast") else node.attribute:
        listed = {attribute.i, attribute.f, *attribute.ints, *attribute.floats}
        yield from (float(item) for item in listed if math.isfinite(item))


def _held(model: ModelProto) -> Counter[float]:
    """The number of occurrences of each number in small constants and attributes."""
    found: Counter[float] = Counter()
    for tensor, _ in tensors_of(model):
        if (
            tensor.data_type in BITS
            and 0 < int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL
            and not is_outside(tensor)
        ):
            found.update(_few(array_of(tensor)))
    for node in nodes_of(model.graph):
        found.update(_attributes(node))
    return found


def _table_lengths(view: GraphView) -> set[int]:
    """Sizes of stored tables of which a graph takes a part that depends on its inputs."""
    found: set[int] = set()
    for node in view.nodes:
        table = node.input(0)
        if node not in TAKES_A_PART or table is None or not table.is_constant or table.shape is None:
            continue
        if any(value is not None and not value.is_constant for value in node.inputs[1:]):
            found |= {dim for dim in table.shape if isinstance(dim, int)}
    return found
