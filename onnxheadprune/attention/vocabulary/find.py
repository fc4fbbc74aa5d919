"""The vocabulary of a model, found by dataflow from its integer inputs to the tables that they index."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.model.graph.facts import (
    CARRIERS,
    CASTS,
    CHOOSES,
    CHOOSES_ELEMENTS,
    DROPOUTS,
    ELEMENTWISE,
    EXPANDS,
    FLATTENS,
    GATHERS,
    GATHERS_ELEMENTS,
    JOINS,
    OBSERVES,
    QUANTIZERS,
    REDUCES,
    SLICES,
    SPLITS,
    TILES,
    VIEWS,
    WEIGHS,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.storage.tensors import bytes_needed
from onnxheadprune.model.tensors import FLOATS

MOVES = VIEWS | CASTS | SLICES | FLATTENS | EXPANDS | TILES | SPLITS | GATHERS | JOINS | CHOOSES_ELEMENTS
"""The same ids in other places; JOINS and CHOOSES_ELEMENTS may add stored ones."""
KEEPS_LOGITS = (
    ELEMENTWISE | CARRIERS | QUANTIZERS | FLATTENS | SLICES | GATHERS | DROPOUTS | WEIGHS | REDUCES | JOINS
)
"""Operators after the map to logits that keep a number per token."""
OTHER_IDS = re.compile(r"position|segment|type|mask|cache|lang|length")
"""Names of inputs that index tables and hold no tokens."""
TOKENS = re.compile(r"input_ids|token")
INTEGERS = (TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True, eq=False)
class Lookup:
    """A node that picks rows of a table by token ids.

    Attributes:
        node: the node.
        ids: index of the input with the ids.
        table: index of the input with the table.
        axis: axis of the table that counts tokens.
    """

    node: Node
    ids: int
    table: int
    axis: int

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
    """The uses of token ids.

    Attributes:
        lookups: the nodes that pick rows by them.
        movers: nodes on the way there, which pass ids on unchanged.
        stored: ids that these nodes add.
    """

    lookups: tuple[Lookup, ...]
    movers: frozenset[Node]
    stored: frozenset[int]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        rows: number of token ids.
        inputs: names of the inputs with token ids.
        logits: names of the outputs whose last axis has a number for each token.
        tables: stored tensors with a row or a column per token, by their names.
        stored: ids that the graph itself uses, which must be kept.
    """

    rows: int
    inputs: tuple[str, ...]
    logits: tuple[str, ...]
    tables: tuple[Value, ...]
    stored: frozenset[int]

    def to_dict(self, total: int) -> dict[str, Any]:
        """JSON-ready data: what `inspect --json` has under "vocabularies".

        Args:
            total: bytes of all stored tensors.
        """
        bytes_of = {value: _bytes(value) for value in self.tables}
        return {
            "rows": self.rows,
            "inputs": list(self.inputs),
            "outputs": list(self.logits),
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
    """All possible vocabularies of a model: integer inputs, grouped by the rows of the tables they index.

    Args:
        view: an annotated view.
    """
    flows = {value: flow for value in _integer_inputs(view) if (flow := flow_of(value)).lookups}
    grouped: dict[int, list[Value]] = defaultdict(list)
    for value, flow in flows.items():
        if not OTHER_IDS.search(value.name.lower()):
            # Of a vector nobody could tell that it is about tokens. A smaller table has no rows for the last tokens.
            sizes = [item.rows for item in flow.lookups if item.rows is not None and item.is_table]
            if sizes:
                grouped[max(sizes)].append(value)
    return tuple(_vocabulary(view, rows, inputs, flows) for rows, inputs in grouped.items())


def vocabulary_of(
    view: GraphView, name: str, inputs: Sequence[str] = (), rows: int | None = None
) -> Vocabulary:
    """The vocabulary of a model.

    Args:
        view: an annotated view.
        name: the model's name in errors.
        inputs: names of the inputs with token ids; without, they are found by dataflow.
        rows: how many tokens there are, where another file of the network says so.

    Raises:
        UsageError: if several inputs may hold token ids, or one that is named does not.
        RefusedError: if no input indexes a table.
    """
    found = vocabularies(view)
    if inputs:
        unknown = set(inputs) - {item for entry in found for item in entry.inputs}
        if unknown:
            listed = ", ".join(item for entry in found for item in entry.inputs) or "none"
            raise UsageError(
                f"no table of {name} is indexed by an input {min(unknown)}; inputs that index tables: {listed}"
            )
        found = tuple(entry for entry in found if set(inputs) & set(entry.inputs))
    if rows is not None:
        found = tuple(entry for entry in found if entry.rows == rows)
        if not found:
            return _vocabulary(view, rows, [], {})
    if len(found) > 1:
        named = [entry for entry in found if any(TOKENS.search(item.lower()) for item in entry.inputs)]
        predicting = [entry for entry in found if entry.logits]
        found = next((tuple(some) for some in (named, predicting) if len(some) == 1), found)
    if len(found) > 1:
        listed = " or ".join(f"{entry.inputs[0]} ({entry.rows:,} rows)" for entry in found)
        raise UsageError(f"several inputs of {name} may hold token ids: {listed}; name it with --token-ids")
    if not found:
        raise RefusedError(f"{name} has no vocabulary: no integer input picks rows of a stored table")
    return found[0]


def chooses_tokens(view: GraphView, rows: int) -> Node | None:
    """Return a node that outputs token ids by their logits, None without.

    Args:
        view: an annotated view.
        rows: how many tokens there are.
    """
    for node in view.nodes:
        if node not in OBSERVES and any(
            item is not None and item.elem_type in INTEGERS for item in node.outputs
        ):
            if any(item is not None and _weights_behind(item, rows) for item in node.inputs):
                return node
    return None


def flow_of(value: Value) -> Flow:
    """Return the uses of the ids in a value.

    Args:
        value: token ids.
    """
    carried, order = {value}, [value]
    lookups: list[Lookup] = []
    movers: list[Node] = []
    for current in order:
        for use in current.consumers:
            lookup = _lookup(use)
            if lookup is not None:
                lookups.append(lookup)
            elif _is_moved(use, carried) and use.node not in movers:
                movers.append(use.node)
                fresh = [item for item in use.node.results if item not in carried]
                carried.update(fresh)
                order += fresh
    leading = _leading(movers, {item.node for item in lookups})
    stored = {number for node in leading for array in added(node).values() for number in array.reshape(-1)}
    return Flow(tuple(lookups), leading, frozenset(map(int, stored)))


def added(node: Node) -> dict[int, np.ndarray[Any, np.dtype[Any]]]:
    """The stored ids that a node adds to its input ids, by input.

    Args:
        node: one of `Flow.movers`.
    """
    if node not in JOINS | CHOOSES_ELEMENTS:
        return {}
    return {index: array for index in _contents(node) if (array := node.literal(index)) is not None}


def _contents(node: Node) -> Collection[int]:
    """Inputs whose contents a node passes on."""
    roles = roles_of(node)
    if roles.contents is not None:
        return roles.contents
    return range(len(node.inputs)) if node in JOINS else (0,)


def _is_moved(use: Use, carried: Collection[Value]) -> bool:
    """Return whether a node passes ids on unchanged, together with stored ids at most."""
    node = use.node
    if node.domain or node not in MOVES or use.input_index not in _contents(node):
        return False
    if any(output is not None and output.elem_type not in (*INTEGERS, 0) for output in node.outputs):
        return False
    known = added(node)
    return all(index in known or node.input(index) in carried for index in _contents(node))


def _leading(movers: Sequence[Node], ends: Collection[Node]) -> frozenset[Node]:
    """Return the nodes that a lookup depends on."""
    found: set[Node] = set()
    for node in sorted(movers, key=lambda item: -item.index):
        if (found | set(ends)).intersection(node.readers):
            found.add(node)
    return frozenset(found)


def _lookup(use: Use) -> Lookup | None:
    """Return how a use picks rows of a stored table, None if it picks none."""
    node, rows = use.node, roles_of(use.node).rows
    if use.input_index not in rows or node in GATHERS_ELEMENTS:
        return None
    value = node.input(rows[use.input_index])
    if value is None or not value.is_constant or not value.rank:
        return None
    axis = node.attribute("axis", node.attribute("gather_axis", 0)) % value.rank
    return Lookup(node, use.input_index, rows[use.input_index], axis)


def _vocabulary(view: GraphView, rows: int, inputs: Sequence[Value], flows: dict[Value, Flow]) -> Vocabulary:
    tables: dict[Value, None] = {}
    stored: set[int] = set()
    for value in inputs:
        stored |= flows[value].stored
        for lookup in flows[value].lookups:
            if lookup.rows is not None and lookup.rows <= rows:
                for index in lookup.tables:
                    tables |= dict.fromkeys(_stored_behind(lookup.node.input(index), lookup.rows))
    logits = []
    for info in view.model.graph.output:
        behind = _weights_behind(view.main.values[info.name], rows)
        if behind:
            logits.append(info.name)
            tables |= dict.fromkeys(item for value in behind for item in _stored_behind(value, rows))
    return Vocabulary(
        rows, tuple(item.name for item in inputs), tuple(logits), tuple(tables), frozenset(stored)
    )


def _integer_inputs(view: GraphView) -> Iterator[Value]:
    for info in view.model.graph.input:
        value = view.main.values[info.name]
        if value.tensor is None and info.type.tensor_type.elem_type in INTEGERS:
            yield value


def _weights_behind(value: Value, rows: int) -> list[Value]:
    """Return the weights and biases of the linear layers that compute logits; nothing for other outputs."""
    if value.elem_type not in FLOATS or _size(value, -1) != rows:
        return []
    found: dict[Value, None] = {}
    seen, queue = {value}, [value]
    while queue:
        node = queue.pop().producer
        if node is None:
            continue
        weights = _own_weights(node)
        if weights is not None:
            found |= dict.fromkeys(weights)
            continue
        read: list[Value | None] = [*node.inputs] if not node.domain and node in KEEPS_LOGITS else []
        if node in CHOOSES:
            read = [
                value
                for body in node.bodies.values()
                for value in (body.lookup(info.name) for info in body.proto.output)
            ]
        for item in read:
            if item is not None and item not in seen and _size(item, -1) == rows and not item.is_constant:
                seen.add(item)
                queue.append(item)
    return list(found)


def _own_weights(node: Node) -> list[Value] | None:
    """Return the stored operands of a linear layer that has a column for each element of its last axis."""
    found = contraction_of(node)
    if found is None or not found.out_axes:
        return None
    last = found.out_axes[-1]
    operands = [node.inputs[index] for index, letters in found.terms if last in letters]
    columns = [node.inputs[index] for index in found.columns if index < len(node.inputs)]
    if not operands or not all(value is not None and value.is_constant for value in operands):
        return None
    return [value for value in (*operands, *columns, *node.inputs) if value is not None and value.is_constant]


def _stored_behind(value: Value | None, rows: int) -> Iterator[Value]:
    """Yield the stored tensors with an axis of `rows` that a value is computed from."""
    starts = [] if value is None else [value]
    walk = reachable(starts, lambda item: [] if item.producer is None else item.producer.sources)
    return (item for item in walk if item.holds_tensor and rows in (item.shape or ()))


def _size(value: Value | None, axis: int) -> int | None:
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _bytes(value: Value) -> int:
    assert value.tensor is not None
    return bytes_needed(value.tensor.data_type, tuple(value.tensor.dims))
