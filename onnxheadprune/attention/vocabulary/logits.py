"""Logits of tokens: what linear layers with a column for each token compute, and what follows from it.

Labels travel upstream from an axis of an output until they lie on the columns of stored weights. Such a layer is a head
if nothing sums up or mixes what it computes. Its columns are tokens where its weights are a table of tokens, or where
it has as many columns as there are tokens, at each position of the ids. Of any other head that might be one, the user
or the configuration decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.origins import origins
from onnxheadprune.attention.sites.streams import Streams
from onnxheadprune.attention.vocabulary.ids import ELEMENT_BY_ELEMENT, INTEGERS, computed_from
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import contraction_of, operand_indices
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask_about, has_rule
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Symbolic
from onnxheadprune.model.graph.operator import (
    COMPARES,
    OBSERVES,
    REDUCES,
    WRITES_INTO,
    is_a,
)
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.storage.tensors import bytes_needed
from onnxheadprune.model.tensors import FLOATS

OTHER_IDS = re.compile(r"position|segment|type|mask|cache|lang|length")
"""Names of inputs that index tables and hold no tokens."""
CACHE = re.compile(r"past|cache")
"""Names of inputs with what earlier steps have computed: such a model continues its own outputs."""
FAR = 2
"""Padding never makes logits this many times as wide as the vocabulary, or the reverse."""
STEPS = 32
"""Operators between a position that is picked and the layer that reads it."""
TOKENS = Labels(units="tokens")
AS_LOGITS = "export it with logits as its output"
Answer: TypeAlias = Literal["tokens", "open", "other"]


@dataclass(frozen=True)
class Logits:
    """An output with an element for each token."""

    name: str  # of the output
    axis: int  # the axis that counts tokens
    width: int  # its size, which may differ from the number of ids

    @classmethod
    def at(cls, place: Axis) -> Logits:
        """The logits along an axis of an output."""
        return cls(place.value.name, place.axis, place.size)


class Axis(NamedTuple):
    """An axis of a value."""

    value: Value
    axis: int

    @property
    def size(self) -> int:
        """The number of positions, 0 where it is unknown."""
        size = (self.value.shape or ())[self.axis]
        return size if isinstance(size, int) else 0


@dataclass
class Origin:
    """The layers and stored tensors that compute an axis, position by position and in the same order."""

    path: list[Axis] = field(default_factory=list)  # the axes of computed values on the way, that one first
    layers: list[Axis] = field(default_factory=list)  # those of them whose positions are columns of weights
    stored: dict[Axis, None] = field(default_factory=dict)  # the axes of stored tensors
    inputs: list[str] = field(default_factory=list)  # names of inputs with an element for each position
    marks_ids: bool = False  # whether token ids say which positions are written to
    opaque: bool = False  # whether a loop, or an unknown operator, computes them
    other: bool = False  # whether something else does, or in another order


def origin_of(place: Axis, streams: Streams, held: Collection[Value] = ()) -> Origin:
    """Trace the positions of an axis to what computes them.

    Args:
        held: the values that hold token ids.
    """
    made = origins(place.value, (place.axis,), (place.size,), streams)
    found = Origin(other=not all(_in_order(live) for _, live in made.path))
    read = [(place.value, Live.numbered(place.axis, place.size))]
    for value, live in made.path:
        found.path.append(Axis(value, live.axes[0]))
        found.layers += found.path[-1:] if value.producer in made.makers else []
        read += _read(value, live)
    stack = [item for item in read if item[0].is_constant]
    while stack:
        value, live = stack.pop()
        if value.holds_tensor and live.axes:
            found.stored[Axis(value, live.axes[0])] = None
            found.other |= not _in_order(live)
        elif live.axes:
            stack += _read(value, live)
    for stop in made.stops:
        node, value = stop.value.producer, stop.value
        if node is not None and any(_marks(node, at.axis, held) for at in found.path if at.value is value):
            found.marks_ids = True
        elif node is None and value.scope.parent is None:
            found.inputs.append(value.name)
        elif (
            node is None or bool(node.bodies and not is_a(node, "If")) or (node.domain and not has_rule(node))
        ):
            found.opaque = True
        else:
            found.other = True
    return found


def _read(value: Value, live: Live) -> list[tuple[Value, Live]]:
    """Return the values that labelled positions of a value are computed from, each with its labels."""
    node, answer = value.producer, None if value.producer is None else ask_about(value, live, TOKENS)
    if node is None or answer is None or isinstance(answer, Refusal):
        return []
    read = ((node.input(index), labels) for index, labels in answer.inputs.items())
    return [(source, labels) for source, labels in read if source is not None]


def _marks(node: Node, axis: int, held: Collection[Value]) -> bool:
    """Return whether token ids say to which positions of an axis a node writes."""
    index = 0 if is_a(node, "OneHot") else 1 if node in WRITES_INTO and node.roles.rows else None
    default = -1 if is_a(node, "OneHot") else 0
    return (
        index is not None
        and node.input(index) in held
        and node.attribute("axis", default) % (node.out.rank or 1) == axis
    )


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of a model and their tables, by which logits are recognized.

    Attributes:
        rows: the number of token ids.
        ids: the inputs with token ids; nothing where another file of the network has them.
        held: all values that hold ids.
        stored: ids that the graph itself uses.
        read: the stored tensors whose rows ids pick.
        tables: the axes of stored tensors that count tokens.
        rest: the axes of tables that other inputs index, with the names of these.
    """

    view: GraphView
    rows: int
    ids: Sequence[Value]
    held: Collection[Value]
    stored: frozenset[int]
    read: Collection[Value]
    tables: Collection[Axis]
    rest: Mapping[Axis, str]
    streams: Streams

    def origin(self, place: Axis) -> Origin:
        """Trace the positions of an axis to what computes them."""
        return origin_of(place, self.streams, self.held)

    def counted(self, place: Axis, origin: Origin) -> Answer:
        """Return whether an axis counts tokens; "open" if the model does not show it."""
        width, caches = place.size, _has_caches(self.view)
        near = self.rows < FAR * width and width < FAR * self.rows
        if width < 2 or not (near or caches) or origin.other:
            return "other"
        if any(item in self.rest for item in origin.stored) or not all(map(self._ends, origin.layers)):
            return "other"
        if self.shows(origin):
            return "tokens"
        has_rows = not self.ids or any(_has_positions(item, self.ids) for item in origin.path)
        if not origin.layers:
            # Of what is computed in the body of a loop, or by an unknown operator, nobody can tell.
            return "open" if near and origin.opaque and has_rows else "other"
        decides = all(item.size != self.rows or holds_others(name) for item, name in self.rest.items())
        if width == self.rows and decides and (has_rows or caches):
            return "tokens"
        return "open" if has_rows or (near and not _reads_first(origin.layers[0].value)) else "other"

    def _ends(self, head: Axis) -> bool:
        """Return whether no layer, product or stream reads what a layer computes."""
        return not any(
            operand_indices(use.node) or self.streams.joins(use.node)
            for value in reachable([head.value], _read_by)
            for use in value.consumers
        )

    def shows(self, origin: Origin) -> bool:
        """Return whether token ids or their tables show that positions are tokens, whatever anybody says."""
        return origin.marks_ids or any(item in self.tables for item in origin.stored)

    def heads(self) -> Iterator[tuple[Axis, Answer, Origin]]:
        """Yield the columns of linear layers that may be tokens, each with whether they are."""
        for node in self.view.nodes:
            for axis in range(node.out.rank or 0) if operand_indices(node) else ():
                place = Axis(node.out, axis)
                if place.size > 1 and _is_layer(place):
                    origin = self.origin(place)
                    answer = self.counted(place, origin)
                    if answer != "other":
                        yield place, answer, origin


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model."""

    rows: int  # number of token ids
    inputs: tuple[str, ...]  # names of the inputs with token ids
    logits: tuple[Logits, ...]  # the outputs with a number for each token
    tables: tuple[Value, ...]  # stored tensors with a row or a column per token, by their names
    stored: frozenset[int]  # ids that the graph itself uses, which must be kept
    open: tuple[Logits, ...]  # outputs that may be logits of tokens, which nothing in the model decides
    others: tuple[str, ...]  # names of outputs of linear layers with as many values, which are no tokens
    obstacle: str  # the first place that would keep its old meaning, so that no token can be removed; "" without one

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs with a number for each token."""
        return tuple(item.name for item in self.logits)

    def to_dict(self, total: int) -> dict[str, Any]:
        """JSON-ready data: what `inspect --json` has under "vocabularies"."""
        tensors = [value.tensor for value in self.tables]
        sizes = [bytes_needed(item.data_type, tuple(item.dims)) if item else 0 for item in tensors]
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
                for value, size in zip(self.tables, sizes, strict=True)
            ],
            "bytes": sum(sizes),
            "share": sum(sizes) / total if total else 0.0,
        }


def with_logits(tokens: Tokens, chosen: Collection[str] | None) -> Vocabulary:
    """The vocabulary of some token ids, with the outputs that count tokens.

    Args:
        chosen: names of the outputs with a number for each token; None where the model decides.
    """
    logits: dict[str, tuple[Logits, Origin]] = {}
    undecided, others, obstacle = [], [], ""
    for output in (tokens.view.main.values[info.name] for info in tokens.view.model.graph.output):
        axes = reversed(range(output.rank or 0)) if output.elem_type in FLOATS else ()
        places = [Axis(output, axis) for axis in axes]
        traced = [(place, tokens.origin(place)) for place in places if place.size > 1]
        answers = [(tokens.counted(place, origin), place, origin) for place, origin in traced]
        tied = [item for item in answers if item[0] == "tokens" and tokens.shows(item[2])]
        likely = [item for item in answers if item[0] != "other"]
        if chosen is not None:
            # Who names an output knows more than the model shows: its last axis.
            likely = tied or ((likely or answers)[:1] if output.name in chosen else [])
        if chosen is None and likely and likely[0][0] == "open":
            undecided.append(Logits.at(likely[0][1]))
        elif likely:
            logits[output.name] = Logits.at(likely[0][1]), likely[0][2]
            if len(tied) > 1:
                obstacle = obstacle or f"its output {output.name} has two axes that count tokens"
        elif any(place.size == tokens.rows and item.layers and not item.other for place, item in traced):
            others.append(output.name)
    traces = [origin for _, origin in logits.values()]
    heads = {place: "tokens" for origin in traces for place in origin.layers or origin.path[-1:]}
    for place, answer, origin in tokens.heads():
        heads.setdefault(place, answer if chosen is None or tokens.shows(origin) else "open")
    return Vocabulary(
        tokens.rows,
        tuple(item.name for item in tokens.ids),
        tuple(item for item, _ in logits.values()),
        tuple(dict.fromkeys([*tokens.read, *(item.value for origin in traces for item in origin.stored)])),
        tokens.stored,
        tuple(undecided),
        tuple(others),
        obstacle or next(_obstacles(tokens, logits, heads), ""),
    )


def holds_others(name: str) -> bool:
    """Return whether the name of an input is one of those that hold no tokens."""
    return bool(OTHER_IDS.search(name.lower()))


def _in_order(live: Live) -> bool:
    """Return whether the labels of one axis number its first positions, and those behind have none."""
    numbers = np.arange(1, live.array.size + 1)
    wanted = np.where(numbers <= live.array.max(initial=0), numbers, 0)
    return len(live.axes) == 1 and np.array_equal(live.array, wanted)


def _is_layer(place: Axis) -> bool:
    """Return whether an axis runs along the columns of stored weights alone."""
    node = place.value.producer
    found = None if node is None else contraction_of(node)
    if node is None or found is None or place.value.is_constant or place.axis >= len(found.out_axes):
        return False
    operands = [node.inputs[index] for index in found.owners(found.out_axes[place.axis])]
    return bool(operands) and all(value is not None and value.is_constant for value in operands)


def _has_caches(view: GraphView) -> bool:
    return any(
        CACHE.search(info.name.lower()) and info.type.tensor_type.elem_type in FLOATS
        for info in view.model.graph.input
    )


def _has_positions(place: Axis, ids: Sequence[Value]) -> bool:
    """Return whether there is a row of logits for each position of the ids."""
    shape = place.value.shape or ()
    others = [size for axis, size in enumerate(shape) if axis != place.axis]
    return any(_covers(others, value.shape) for value in ids if value.shape)


def _covers(others: Sequence[Dim], shape: Sequence[Dim]) -> bool:
    last = shape[-1]
    if isinstance(last, Symbolic) and any(_names(last) & _names(size) for size in others):
        return True
    if dims.product(others) == dims.product(shape):
        return True
    return len(others) >= max(len(shape), 2) and any(size != 1 for size in others[1:])


def _names(size: Dim) -> set[str]:
    return set() if isinstance(size, int) else {name for names, _ in size.terms for name in names}


def _reads_first(value: Value) -> bool:
    """Return whether a layer reads the state of the first position alone, as classifiers read that of [CLS]."""
    for _ in range(STEPS):
        node = value.producer
        if node is None or not node.sources:
            return False
        if is_a(node, "Gather"):
            places = node.literal(1)
            return places is not None and places.size == 1 and not places.any()
        if is_a(node, "Slice"):
            starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
            return starts is not None and ends is not None and not any(starts) and 1 in ends
        if node in REDUCES or not node.computed:
            return False
        value = node.computed[0]
    return False


def _obstacles(
    tokens: Tokens, logits: Mapping[str, tuple[Logits, Origin]], heads: Mapping[Axis, str]
) -> Iterator[str]:
    """Yield what a smaller vocabulary would leave with old ids.

    That is any integer that is computed of a layer with a column for each token, and any other input that has a part in
    what depends on one; of layers that may be others, only what callers see. So is what is computed of ids themselves.
    """
    for item, origin in logits.values():
        yield from (
            f"its input {name} has a value for each of {item.width:,} tokens" for name in origin.inputs
        )
        for table in (stored for stored in origin.stored if stored in tokens.rest):
            yield f"its output {item.name} reads {table.value.name}, the table of {tokens.rest[table]}"
    for head, answer in heads.items():
        computed, many = (
            dict.fromkeys(reachable([head.value], _read_by)),
            f"{head.size:,} values, which may be tokens,",
        )
        for value in computed:
            label = "" if value.producer is None else value.producer.label
            if _is_choice(value) and (
                answer == "tokens" or any(map(_is_output, reachable([value], _integers_of)))
            ):
                which = "all of its tokens" if answer == "tokens" else many
                yield f"it chooses among {which} itself, at {label}; {AS_LOGITS}"
            if answer == "tokens" and _is_output(value) and value.name not in logits:
                yield f"its output {value.name} is computed from the numbers of all tokens, at {label}; {AS_LOGITS}"
        for node in dict.fromkeys(use.node for value in computed for use in value.consumers):
            picks = [value for value in node.sources if value.elem_type in INTEGERS and value not in computed]
            for name in _inputs_of(picks):
                yield f"its input {name} chooses among {many} at {node.label}; export it without that"
    for value in filter(_is_output, reachable(tokens.held, _integers_of)):
        yield f"its output {value.name} is computed from token ids, which it would have to number anew"
    compared = (use for value in tokens.held for use in value.consumers if use.node in COMPARES)
    for node, index in compared:
        other = node.input(1 - index)
        # A bound beyond the last token means nothing.
        known = None if other is None or not is_a(node, "Equal") else other.literal()
        if known is not None and known.size and known.max() >= tokens.rows > 0:
            yield (
                f"{node.label} compares ids with {known.max()}, which is none of the {tokens.rows:,} tokens and would"
                " have no new id"
            )
        for name in _inputs_of([] if other is None else [other]):
            if name not in (value.name for value in tokens.ids):
                yield f"its input {name} is compared with token ids, and would keep the old ones"


def _inputs_of(values: Iterable[Value]) -> Iterator[str]:
    """Yield the names of the inputs with the integers that some values are computed from."""
    walk = reachable(values, computed_from)
    return (value.name for value in walk if value.is_graph_input and value.scope.parent is None)


def _is_output(value: Value) -> bool:
    return value.is_graph_output and value.scope.parent is None


def _is_choice(value: Value) -> bool:
    """Return whether a value holds integers that are no sum of products, as those of quantized layers are."""
    node = value.producer
    return (
        node is not None
        and value.elem_type in INTEGERS
        and any(item.elem_type in FLOATS for item in node.computed)
    )


def _read_by(value: Value) -> Iterator[Value]:
    """Yield what nodes compute of a value, in bodies and behind them; nothing of a choice, or of a shape."""
    if _is_choice(value):
        return
    for use in value.consumers:
        if use.node not in OBSERVES:
            yield from use.node.results
    yield from _behind_body(value)


def _behind_body(value: Value) -> Iterator[Value]:
    """Yield the outputs of the node whose body outputs a value; of a loop all, of which it may be any."""
    owner = value.scope.owner
    if owner is not None and value.is_graph_output:
        names = [info.name for info in value.scope.proto.output]
        if not is_a(owner, "If"):
            yield from owner.results
        elif (output := owner.outputs[names.index(value.name)]) is not None:
            yield output


def _integers_of(value: Value) -> Iterator[Value]:
    """Yield the integers that are computed from an element of a value each, or from all of them."""
    for use in value.consumers:
        if use.node in ELEMENT_BY_ELEMENT:
            yield from (item for item in use.node.results if item.elem_type in INTEGERS)
