"""The vocabulary of a model, found by dataflow from its integer inputs to the tables that they index."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from onnxheadprune.attention.vocabulary.places import INTEGERS, MOVES, PADDING, Place, contents, dtype_of
from onnxheadprune.attention.vocabulary.token_id_io import Meaning, computed_from, integer_inputs
from onnxheadprune.attention.vocabulary.token_logits import Logits, holds_others
from onnxheadprune.errors import RefusedError, UsageError, named_setting
from onnxheadprune.model.graph.facts import (
    CHOOSES_ELEMENTS,
    FILLS,
    GATHERS_ELEMENTS,
    GENERATES,
    JOINS,
    MARKS_NUMBERS,
    PADS,
    WRITES_INTO,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.storage.tensors import bytes_needed

TOKENS = re.compile(r"input_ids|token")


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
    def place(self) -> Place:
        """The axis of the table that counts tokens."""
        value = self.node.input(self.table)
        assert value is not None
        return Place(value, self.axis)

    @property
    def stored(self) -> list[Value]:
        """The stored tensors with these rows that the table is computed from; itself if none has them."""
        return [*_stored_behind(self.place.value, self.rows or 0)] or [self.place.value]

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
        roles = roles_of(self.node)
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

    @property
    def tables(self) -> list[Lookup]:
        """The lookups of tables with a known number of rows: of a vector nobody could tell that it is about tokens."""
        return [item for item in self.lookups if item.is_table and item.rows is not None]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model."""

    rows: int  # number of token ids
    inputs: tuple[str, ...]  # names of the inputs with token ids
    logits: tuple[Logits, ...]  # the outputs with a number for each token
    tables: tuple[Value, ...]  # stored tensors with a row or a column per token, by their names
    stored: frozenset[int]  # ids that the graph itself uses, which must be kept
    open: tuple[Logits, ...] = ()  # outputs that may be logits of tokens, which nothing in the model decides
    others: tuple[str, ...] = ()  # names of outputs of linear layers with as many values, which are no tokens
    obstacle: str = ""  # why no token can be removed; "" without a reason

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs with a number for each token."""
        return tuple(item.name for item in self.logits)

    def to_dict(self, total: int) -> dict[str, Any]:
        """JSON-ready data: what `inspect --json` has under "vocabularies"."""
        bytes_of = {value: _bytes(value) for value in self.tables}
        return {
            "rows": self.rows,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "tables": [
                {
                    "tensor": value.name,
                    "shape": list(value.shape or ()),
                    "bytes": size,
                    "share": size / total if total else 0.0,
                }
                for value, size in bytes_of.items()
            ],
            "bytes": sum(bytes_of.values()),
            "share": sum(bytes_of.values()) / total if total else 0.0,
        }


def vocabularies(view: GraphView) -> tuple[Vocabulary, ...]:
    """All possible vocabularies of a model: integer inputs, grouped by the tables they index."""
    flows = _flows(view)
    return tuple(_vocabulary(view, inputs, flows, None) for inputs in _grouped(flows))


def _flows(view: GraphView) -> dict[Value, Flow]:
    return {value: flow for value in integer_inputs(view) if (flow := flow_of(value)).lookups}


def _grouped(flows: Mapping[Value, Flow]) -> list[list[Value]]:
    """The inputs with token ids that index the same tables; that two tables are equally long means nothing."""
    groups: list[tuple[list[Value], set[Value]]] = []
    for value, flow in flows.items():
        inputs, tables = [value], {table for item in flow.tables for table in item.stored}
        for group in [item for item in groups if not tables.isdisjoint(item[1])]:
            groups.remove(group)
            inputs, tables = [*group[0], *inputs], tables | group[1]
        groups += [(inputs, tables)] if tables else []
    return [inputs for inputs, _ in groups if not all(holds_others(value.name) for value in inputs)]


def vocabulary_of(
    view: GraphView,
    name: str,
    inputs: Sequence[str] = (),
    rows: int | None = None,
    logits: Sequence[str] | None = None,
) -> Vocabulary:
    """The vocabulary of a model.

    Args:
        inputs: names of the inputs with token ids; without, they are found by dataflow.
        rows: how many tokens there are, where another file of the network says so.
        logits: names of the outputs with a number for each token; None where the model decides.
    """
    flows = _flows(view)
    found = [(_vocabulary(view, group, flows, None), group) for group in _grouped(flows)]
    if inputs:
        unknown = set(inputs) - {item for entry, _ in found for item in entry.inputs}
        if unknown:
            listed = ", ".join(item for entry, _ in found for item in entry.inputs) or "none"
            raise UsageError(
                f"no table of {name} is indexed by an input {min(unknown)}; inputs that index tables: {listed}"
            )
        # Labels index no table, and ids of another table that they are compared with are no reason to cut it.
        own = [item for item in found if any(value.name in inputs for value in item[1])]
        found = own or [item for item in found if set(inputs) & set(item[0].inputs)]
    if rows is not None:
        found = [(entry, group) for entry, group in found if entry.rows == rows]
        if not found:
            return _vocabulary(view, [], {}, logits, rows)
    if len(found) > 1 and not inputs:
        named = [item for item in found if any(TOKENS.search(name.lower()) for name in item[0].inputs)]
        likely = named or [item for item in found if item[0].logits]
        found = likely if len(likely) == 1 else found
    # Who names inputs of several tables says that all of them hold the same tokens.
    if len(found) > 1 and (not inputs or len({entry.rows for entry, _ in found}) > 1):
        listed = " or ".join(f"{entry.inputs[0]} ({entry.rows:,} rows)" for entry, _ in found)
        raise UsageError(
            f"several inputs of {name} may hold token ids: {listed}; name it with {named_setting('token_ids')}"
        )
    if not found:
        raise RefusedError(f"{name} has no vocabulary: {why_none(view)}")
    return _vocabulary(view, [value for _, group in found for value in group], flows, logits)


def why_none(view: GraphView) -> str:
    """Return why no integer input indexes a table."""
    generating = next((node for node in view.nodes if node in GENERATES), None)
    if generating is not None:
        return f"{generating.label} runs a decoder of its own; export the decoder alone"
    for node in view.nodes:
        if any(_table_of(node, index) is not None for index in roles_of(node).rows):
            blocker = blocked_at({value: value.name for value in integer_inputs(view)}, node)
            if blocker is not None:
                return blocker
    for value in integer_inputs(view):
        marking = next((node for node in _behind(value) if node in MARKS_NUMBERS), None)
        if marking is not None:
            return (
                f"{marking.label} makes vectors of the ids in {value.name}, and no node picks rows of a table"
            )
    return "no integer input picks rows of a stored table"


def blocked_at(sources: Mapping[Value, str], lookup: Node) -> str | None:
    """The node between ids and a lookup that computes other numbers; None without one.

    Args:
        sources: integers that may be ids, with the names of the inputs that they are from.
    """
    ids = {item: name for value, name in sources.items() for item in carried(value)[0]}
    starts = [lookup.input(index) for index in roles_of(lookup).rows]
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


def _behind(value: Value) -> Iterator[Node]:
    """The readers of the ids in a value, wherever they are moved to."""
    return (use.node for item in carried(value)[0] for use in item.consumers)


def flow_of(value: Value) -> Flow:
    """Return the uses of the ids in a value."""
    _, lookups, movers = carried(value)
    leading = _leading(movers, {item.node for item in lookups})
    stored = {number for node in leading for array in added(node).values() for number in array.reshape(-1)}
    return Flow(tuple(lookups), leading, frozenset(map(int, stored)))


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
    if node not in JOINS | CHOOSES_ELEMENTS | WRITES_INTO | PADS:
        return {}
    found = {index: _stored_in(node.input(index)) for index in contents(node)}
    if PADDING in found and node in PADS and node.input(PADDING) is None:
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
    filled = None if node is None or node not in FILLS else node.attribute("value")
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
    value = _table_of(node, use.input_index)
    if value is None or value.rank is None:
        return None
    axis = node.attribute("axis", node.attribute("gather_axis", 0)) % value.rank
    return Lookup(node, use.input_index, roles_of(node).rows[use.input_index], axis)


def _table_of(node: Node, index: int) -> Value | None:
    """The stored table whose rows a node picks by an input, None if it picks none."""
    rows = roles_of(node).rows
    if index not in rows or node in GATHERS_ELEMENTS | WRITES_INTO:
        return None
    value = node.input(rows[index])
    return value if value is not None and value.is_constant and value.rank else None


def _vocabulary(
    view: GraphView,
    inputs: Sequence[Value],
    flows: Mapping[Value, Flow],
    chosen: Sequence[str] | None,
    rows: int = 0,
) -> Vocabulary:
    # A smaller table has no rows for the last tokens.
    rows = max((item.rows for value in inputs for item in flows[value].tables if item.rows), default=rows)
    others = {value: flow for value, flow in flows.items() if value not in inputs}
    rest = {item.place: value.name for value, flow in others.items() for item in flow.tables}
    tables: dict[Value, None] = {}
    stored: set[int] = set()
    for value in inputs:
        stored |= flows[value].stored
        for lookup in flows[value].lookups:
            if lookup.rows is not None and lookup.rows <= rows:
                for index in lookup.tables:
                    tables |= dict.fromkeys(_stored_behind(lookup.node.input(index), lookup.rows))
    meaning = Meaning.of(view, rows, inputs, chosen, rest)
    tables |= dict.fromkeys(
        place.value for place in meaning.places if place.axis is not None and place.value.holds_tensor
    )
    return Vocabulary(
        rows,
        tuple(dict.fromkeys([*(item.name for item in inputs), *meaning.inputs])),
        meaning.logits,
        tuple(tables),
        frozenset(stored),
        meaning.open,
        meaning.others,
        meaning.obstacle,
    )


def _stored_behind(value: Value | None, rows: int) -> Iterator[Value]:
    """Yield the stored tensors with an axis of `rows` that a value is computed from."""
    starts = [] if value is None else [value]
    walk = reachable(starts, lambda item: item.sources)
    return (item for item in walk if item.holds_tensor and rows in (item.shape or ()))


def _size(value: Value | None, axis: int) -> int | None:
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _bytes(value: Value) -> int:
    assert value.tensor is not None
    return bytes_needed(value.tensor.data_type, tuple(value.tensor.dims))
