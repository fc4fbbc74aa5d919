"""Readers of a value and their needs, in the original and after edits.

An observer reads only the shape: exports compute scales, masks and target shapes from the shapes of Q, K and V, and
need only the number of heads. A carrier passes a value on under other axes or another type, as on the
way to a cache. Others pick positions, and positions that nobody reads in the original either (tokens that are cut off,
the rest of a cropped window) have nothing to do with heads: a value is narrowed only where heads were removed.
`Readers` are the remaining reads after edits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnxheadprune.edit.edits import InsertNode
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL, Live, fits
from onnxheadprune.liveness.registry import Answer, Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.dims import divisor
from onnxheadprune.model.graph.facts import (
    CARRIERS,
    CASTS,
    CASTS_LIKE,
    CHOOSES,
    FLATTENS,
    GATHERS,
    GATHERS_ROWS,
    OBSERVES,
    RESHAPES,
    SLICES,
    TAKES_CHUNKS,
    VIEWS,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value

ONLY_SHOWN = CARRIERS | SLICES
"""Operators that pass a value on under other axes or another type."""


def looks_only(use: Use) -> bool:
    """Return whether one edge asks for a value's shape or type, never for its contents."""
    if use.node in CASTS_LIKE and use.input_index == 1:
        return True
    return only_observed(use.node) and use.input_index not in roles_of(use.node).places


def only_observed(node: Node, depth: int = 6) -> bool:
    """Return whether a node merely carries a value to shape observers, so that it asks for no contents itself."""
    if node in OBSERVES:
        return True
    if depth == 0 or node.domain or node not in ONLY_SHOWN or node.out.is_graph_output:
        return False
    return bool(node.out.consumers) and all(
        use.input_index == 0 and only_observed(use.node, depth - 1) for use in node.out.consumers
    )


def content_uses(value: Value) -> list[Use]:
    """Return the uses of a value that need its contents."""
    return [use for use in value.consumers if not looks_only(use)]


def is_shared(value: Value) -> bool:
    """Return whether several readers need the contents of a value, or callers do."""
    return value.is_graph_output or len(content_uses(value)) > 1


def contents_of(node: Node) -> list[Value]:
    """Return the inputs whose contents a node needs."""
    uses = [Use(node, index) for index, value in enumerate(node.inputs) if value is not None]
    return [
        value for use in uses if not looks_only(use) and (value := node.inputs[use.input_index]) is not None
    ]


MAX_HOPS = 6
"""Carriers in a row that are followed."""


def passes_on(node: Node) -> bool:
    """Return whether a node is a carrier, or takes one index of an axis (keys out of a packed cache)."""
    if node.domain:
        return False
    return node in CARRIERS or (node in GATHERS and _picked(node) is not None)


def _picked(node: Node) -> int | None:
    """The one literal index that a Gather takes, None if it takes another number of them."""
    literal = node.literal(1)
    return int(literal) if literal is not None and literal.ndim == 0 else None


def outlet(value: Value) -> Value | None:
    """The output of an `If` for an output of one of its branches; None for any other value."""
    owner = value.scope.owner
    if not value.is_graph_output or owner is None or owner not in CHOOSES:
        return None
    names = [info.name for info in value.scope.proto.output]
    return owner.outputs[names.index(value.name)] if value.name in names else None


def carrier_outputs(value: Value, depth: int = MAX_HOPS) -> list[Value]:
    """Copies of `value`: through carriers, or out of the branches of an `If`."""
    if depth == 0:
        return []
    handed_on = [use.node.out for use in value.consumers if passes_on(use.node)]
    output = outlet(value)
    if output is not None:
        handed_on.append(output)
    return [found for item in handed_on for found in (item, *carrier_outputs(item, depth - 1))]


def only_passed_on(node: Node, free: frozenset[Value], depth: int = MAX_HOPS) -> bool:
    """Return whether a carrier leads to graph outputs that may be narrowed, and to nothing else."""
    if depth == 0 or not passes_on(node) or node in RESHAPES:
        return False
    return leads_out(node.out, free, depth - 1)


def leads_out(value: Value, free: frozenset[Value], depth: int = MAX_HOPS) -> bool:
    """Return whether a value is only used for free graph outputs and shape observers."""
    if value.is_graph_output and value not in free:
        output = outlet(value)
        if output is None or not leads_out(output, free, depth - 1):
            return False
    elif not value.is_graph_output and not value.consumers:
        return False
    return all(looks_only(use) or only_passed_on(use.node, free, depth) for use in value.consumers)


def carried(node: Node, live: Live) -> Live | None:
    """The kept part of a carrier's output if its input keeps `live`, a mask or labels: its rule, applied forwards."""
    shape, source = node.out.shape, node.shape(0)
    if shape is None or source is None:
        return None
    if node in RESHAPES | FLATTENS:
        # A reshape read backwards is a reshape.
        return reshape_back(live, shape, source)
    mapping = _picked_axes(node, len(source)) if node in GATHERS else moved_axes(node)
    if any(axis not in mapping for axis in live.axes):
        return None
    through = live.renumbered({axis: mapping[axis] for axis in live.axes})
    if node in GATHERS:
        return through
    if not fits(through, shape):
        return None
    answer = ask(node, [through.as_mask()], MASKS)
    # A Slice of the live axis itself keeps a part of it that this does not tell.
    if isinstance(answer, Refusal) or answer.inputs[0].only(live.axes).as_mask() != live.as_mask():
        return None
    return through


def _picked_axes(node: Node, rank: int) -> dict[int, int]:
    """Return the output axes of the input axes of a Gather with one index: all but the picked one."""
    picked = node.attribute("axis", 0) % rank
    others = [axis for axis in range(rank) if axis != picked]
    return {axis: position for position, axis in enumerate(others)}


def on_all_outputs(node: Node, live: Live) -> list[Live]:
    """Return one live set for the first output of a node and for all others that are read."""
    return [
        live if not index or (value is not None and value.is_read) else DEAD
        for index, value in enumerate(node.outputs)
    ]


def moved_axes(node: Node, index: int = 0) -> dict[int, int]:
    """Return the output axes of a node's input axes, found by asking its rule for every second index of each.

    Args:
        node: the node.
        index: of the input.
    """
    mapping: dict[int, int] = {}
    for axis, dim in enumerate(node.out.shape or ()):
        size = dim if isinstance(dim, int) else divisor(dim)
        if size < 2:
            continue
        half = Live.over((axis,), np.arange(size) % 2 == 1)
        answer = ask(node, on_all_outputs(node, half), MASKS)
        read = DEAD if isinstance(answer, Refusal) else answer.inputs.get(index, DEAD)
        for own in read.axes:
            # Of another axis the node may pick a part.
            if np.array_equal(read.only([own]).mask, half.mask):
                mapping[own] = axis
    return mapping


PICKING = SLICES | GATHERS | GATHERS_ROWS | TAKES_CHUNKS
"""Nodes that pick a part of their input by bounds or indices of their own."""
LOOKED_THROUGH = VIEWS | CASTS


def selecting_answer(use: Use) -> Answer | None:
    """The answer of a fully live node that picks from this input (a Slice, a Gather), None for any other."""
    if use.node not in PICKING:
        return None
    answer = ask(use.node, (FULL,) * len(use.node.outputs), MASKS)
    if isinstance(answer, Refusal) or use.input_index not in answer.selects:
        return None
    return answer


Key: TypeAlias = Value | str
"""A value of the model, or the name of a new one."""
Asking: TypeAlias = Use | InsertNode
"""A node, old or new, that asks for the shape of its first input."""


@dataclass
class Readers:
    """The remaining reads after edits.

    Attributes:
        going: graph inputs that are to be removed.
        inputs: new inputs of nodes.
        gone: references of nodes that are dropped.
        unmade: new nodes that are left out after all.
        kept_back: removed outputs of the graph or of a body.
        pinned: nodes whose output has a new name, and replaces another value.
    """

    going: Collection[Value] = ()
    inputs: dict[Node, list[Key | None]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unmade: set[InsertNode] = field(default_factory=set)
    kept_back: set[Value] = field(default_factory=set)
    pinned: set[Node] = field(default_factory=set)
    _more: defaultdict[Key, list[Use | InsertNode]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: Key, reader: Use | InsertNode) -> None:
        """Record a read that the model does not have."""
        self._more[key].append(reader)

    def is_gone(self, node: Node) -> bool:
        """Return whether a node, or a node that contains it, is dropped."""
        owner: Node | None = node
        while owner is not None:
            if owner.ref in self.gone:
                return True
            owner = owner.scope.owner
        return False

    def readers(self, key: Key) -> Iterator[Use | InsertNode]:
        """Yield all reads of a value."""
        for use in key.consumers if isinstance(key, Value) else ():
            current = self.inputs.get(use.node)
            if (current is None or current[use.input_index] is key) and not self.is_gone(use.node):
                yield use
        for reader in self._more.get(key, ()):
            if isinstance(reader, InsertNode):
                if reader not in self.unmade:
                    yield reader
            elif self.inputs[reader.node][reader.input_index] == key and not self.is_gone(reader.node):
                yield reader

    def stays(self, value: Value) -> bool:
        """Return whether a value is an input that is kept, or computed for its contents."""
        if value in self.going:
            return False
        if value.producer is None:
            return value.is_graph_input and not value.is_initializer
        made = value.producer not in self.pinned and not self.is_gone(value.producer)
        return made and self.asking(value) is None

    def asking(self, value: Value) -> list[Asking] | None:
        """Return the nodes that read the shape of a value; None if its contents are needed too."""
        # An output whose producer is dropped is computed by a new node.
        made = value.producer is None or not self.is_gone(value.producer)
        if value.is_graph_output and value not in self.kept_back and made:
            return None
        found: list[Asking] = []
        for reader in self.readers(value):
            if isinstance(reader, Use) and not looks_only(reader):
                return None
            node = reader.node if isinstance(reader, Use) else reader
            if node in OBSERVES:
                found.append(reader)
                continue
            if isinstance(node, InsertNode) or node in CASTS_LIKE:
                return None
            behind = self.asking(node.out)
            if behind is None:
                return None
            found += behind
        return found
