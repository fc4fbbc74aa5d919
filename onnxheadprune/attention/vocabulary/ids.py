"""Token ids: from an integer input, through nodes that move them, to the tables whose rows they pick."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxheadprune.model.graph.operator import (
    ELEMENTWISE,
    EXTREMES,
    OBSERVES,
    REDUCES,
    VIEWS,
    WRITES_INTO,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

MOVES = VIEWS | kind(
    "Cast", "Slice", "Flatten", "Expand", "Tile", "Split", "Gather", "Concat", "Where", "Pad"
)
"""The same ids in other places; JOINS, CHOOSES_ELEMENTS and PADS may add stored ones."""
PADDING = 2
"""The input of a Pad with the number that it fills up with, 0 without one."""
INTEGERS = (TensorProto.INT32, TensorProto.INT64)
HANDS_ON = MOVES | WRITES_INTO | EXTREMES | kind("GatherElements", "GatherND", "Clip")
"""Each output element is an element of an input, or a bound."""
ELEMENT_BY_ELEMENT = ELEMENTWISE | REDUCES | HANDS_ON
"""Integers of integers: each of one of them, or of all."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """A node that picks rows of a table by token ids."""

    node: Node
    ids: int  # index of the input with the ids
    table: int  # index of the input with the table
    axis: int  # axis of the table that counts tokens

    @property
    def is_table(self) -> bool:
        """True if each row holds several numbers."""
        value = self.node.input(self.table)
        return value is not None and (value.rank or 0) > 1

    @property
    def rows(self) -> int | None:
        """The number of rows of the table, None if unknown."""
        return _size(self.node.input(self.table), self.axis)

    @property
    def value(self) -> Value:
        """The table."""
        value = self.node.input(self.table)
        assert value is not None
        return value

    @property
    def stored(self) -> list[Value]:
        """The stored tensors with these rows that the table is computed from; itself if none has them."""
        return [*stored_behind(self.value, self.rows or 0)] or [self.value]

    @property
    def tables(self) -> Iterator[int]:
        """Indices of all inputs with a row per token: the table, its scales and its zero points."""
        yield self.table
        yield from (index for index, rows in self._parameters.items() if rows == self.rows)

    @property
    def shares_scales(self) -> bool:
        """True if the table is quantized in blocks of several tokens."""
        return any(rows not in (self.rows, 1) for rows in self._parameters.values())

    @property
    def _parameters(self) -> dict[int, int | None]:
        """The numbers of rows of the scales and zero points, by the index of the input."""
        roles = self.node.roles
        given = [index for index in (roles.weight_scale, roles.weight_zero) if index is not None]
        return {
            index: _size(value, self.axis) for index in given if (value := self.node.input(index)) is not None
        }


@dataclass(frozen=True, eq=False)
class Flow:
    """The uses of token ids."""

    lookups: tuple[Lookup, ...]  # the nodes that pick rows by them
    movers: frozenset[Node]  # nodes on the way there, which pass ids on unchanged
    stored: frozenset[int]  # ids that these nodes add
    values: frozenset[Value]  # the values that hold ids

    @property
    def tables(self) -> list[Lookup]:
        """The lookups of tables with a known number of rows: of a vector nobody could tell that it is about tokens."""
        return [item for item in self.lookups if item.is_table and item.rows is not None]


def integer_inputs(view: GraphView) -> Iterator[Value]:
    """Yield the inputs with integers."""
    for info in view.model.graph.input:
        value = view.main.values[info.name]
        if value.tensor is None and value.elem_type in INTEGERS:
            yield value


def contents(node: Node) -> Collection[int]:
    """Inputs whose contents a node passes on."""
    roles = node.roles
    if roles.contents is not None:
        return roles.contents
    if is_a(node, "Pad") and node.attribute("mode", "constant") == "constant":
        return (0, PADDING)
    return range(len(node.inputs)) if node in EXTREMES | kind("Concat") else (0,)


def dtype_of(value: Value) -> np.dtype[np.generic]:
    """The type of the ids in a value."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.elem_type or TensorProto.INT64))


def computed_from(value: Value) -> list[Value]:
    """The integers that a value is computed from, without those that only choose among others or are counted."""
    node = value.producer
    if node is None or node in OBSERVES:
        return []
    read = [node.input(index) for index in contents(node)] if node in HANDS_ON else list(node.inputs)
    return [item for item in read if item is not None and item.elem_type in INTEGERS and not item.is_constant]


def flow_of(value: Value) -> Flow:
    """Return the uses of the ids in a value."""
    values, lookups, movers = carried(value)
    leading = _leading(movers, {item.node for item in lookups})
    stored = {number for node in leading for array in added(node).values() for number in array.reshape(-1)}
    return Flow(tuple(lookups), leading, frozenset(map(int, stored)), frozenset(values))


def carried(value: Value) -> tuple[set[Value], list[Lookup], list[Node]]:
    """Return the values that hold the ids of a value, the nodes that pick rows by them, and those that move them."""
    found, order = {value}, [value]
    lookups: list[Lookup] = []
    movers: list[Node] = []
    for current in order:
        for use in current.consumers:
            lookup = _lookup(use)
            if lookup is not None:
                lookups.append(lookup)
            elif _is_moved(use, found) and use.node not in movers:
                movers.append(use.node)
                fresh = [item for item in use.node.results if item not in found]
                found.update(fresh)
                order += fresh
    return found, lookups, movers


def added(node: Node) -> dict[int, np.ndarray[Any, np.dtype[Any]]]:
    """The stored ids that a node adds to its input ids, by input: all that a value may hold, where it repeats them."""
    if node not in WRITES_INTO | kind("Concat", "Where", "Pad"):
        return {}
    found = {index: _stored_in(node.input(index)) for index in contents(node)}
    if PADDING in found and is_a(node, "Pad") and node.input(PADDING) is None:
        found[PADDING] = np.zeros((), dtype_of(node.out))
    # A negative number is no id, and a table has no row for it.
    return {index: array for index, array in found.items() if array is not None and np.all(array >= 0)}


def _stored_in(value: Value | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The stored numbers that a value is made of, however often and wherever; None if it may have others."""
    literal = None if value is None else value.literal()
    if value is None or literal is not None:
        return literal
    walk = [item for item in reachable([value], _moved_from) if not _moved_from(item)]
    parts = [part.reshape(-1) for item in walk if (part := _literal_or_fill(item)) is not None]
    return np.unique(np.concatenate(parts)) if len(parts) == len(walk) else None


def _moved_from(value: Value) -> list[Value]:
    """The values of whose elements a value that is no literal consists; none where a node computes others."""
    node = value.producer
    if value.literal() is not None or node is None or node.domain or node not in MOVES:
        return []
    read = [node.input(index) for index in contents(node)]
    known = [item for item in read if item is not None]
    return known if len(known) == len(read) else []


def _literal_or_fill(value: Value) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The numbers of a literal, or the number that a value is filled with; None for others."""
    node = value.producer
    filled = None if node is None or not is_a(node, "ConstantOfShape") else node.attribute("value")
    return value.literal() if filled is None else numpy_helper.to_array(filled)


def _is_moved(use: Use, carried: Collection[Value]) -> bool:
    """Return whether a node passes ids on unchanged, together with stored ids at most."""
    node = use.node
    if node.domain or node not in MOVES | WRITES_INTO or use.input_index not in contents(node):
        return False
    if node.attribute("reduction", "none") != "none":
        return False
    if any(output is not None and output.elem_type not in (*INTEGERS, 0) for output in node.outputs):
        return False
    known = added(node)
    return all(index in known or node.input(index) in carried for index in contents(node))


def _leading(movers: Sequence[Node], ends: Collection[Node]) -> frozenset[Node]:
    """Return the nodes that a lookup depends on."""
    found: set[Node] = set()
    for node in sorted(movers, key=lambda item: -item.index):
        if (found | set(ends)).intersection(node.readers):
            found.add(node)
    return frozenset(found)


def _lookup(use: Use) -> Lookup | None:
    """The lookup by which a use picks rows of a stored table, None if it picks none."""
    node = use.node
    value = table_of(node, use.input_index)
    if value is None or value.rank is None:
        return None
    axis = node.attribute("axis", node.attribute("gather_axis", 0)) % value.rank
    return Lookup(node, use.input_index, node.roles.rows[use.input_index], axis)


def table_of(node: Node, index: int) -> Value | None:
    """The stored table whose rows a node picks by an input, None if it picks none."""
    rows = node.roles.rows
    if index not in rows or node in WRITES_INTO | kind("GatherElements"):
        return None
    value = node.input(rows[index])
    return value if value is not None and value.is_constant and value.rank else None


def blocked_at(sources: Mapping[Value, str], lookup: Node) -> str | None:
    """The node between ids and a lookup that computes other numbers; None without one.

    Args:
        sources: integers that may be ids, with the names of the inputs that they are from.
    """
    ids = {item: name for value, name in sources.items() for item in carried(value)[0]}
    starts = [lookup.input(index) for index in lookup.roles.rows]
    for item in reachable([value for value in starts if value is not None], computed_from):
        node = item.producer
        if node is not None and item not in ids:
            source = next((other for other in computed_from(item) if other in ids), None)
            if source is not None:
                return (
                    f"{node.label} computes other numbers from the ids in {ids[source]} before {lookup.label}"
                    " picks rows by them"
                )
    return None


def stored_behind(value: Value | None, rows: int) -> Iterator[Value]:
    """Yield the stored tensors with an axis of `rows` that a value is computed from."""
    starts = [] if value is None else [value]
    walk = reachable(starts, lambda item: item.sources)
    return (item for item in walk if item.holds_tensor and rows in (item.shape or ()))


def _size(value: Value | None, axis: int) -> int | None:
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None
