"""Residual streams as chains of sums: what each sum adds to its stream, and which layers compute it.

A residual sum adds what layers compute from a stream to that stream. Each such term is one residual branch, whatever
operators are in it. The sums that a stream passes one after the other are a chain; normalizations may lie in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from onnxheadprune.attention.sites.projection import module_path
from onnxheadprune.attention.sites.streams import (
    CHOICES,
    MAX_BEHIND,
    MAX_BELOW,
    addends,
    contents,
    is_layer,
    is_partial_sum,
    near,
    spreads,
    upstream,
)
from onnxheadprune.liveness.contraction import CONVOLUTIONS
from onnxheadprune.liveness.emptied_branches import bias_of
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.graph.facts import (
    ADDS_AND_NORMALIZES,
    CASTS,
    DEQUANTIZES,
    DIVIDES,
    DROPOUTS,
    GATHERS,
    JOINS,
    MULTIPLIES,
    MULTIPLIES_QUANTIZED,
    OBSERVES,
    PADS,
    PLAIN_SUMS,
    POOLS,
    QUANTIZERS,
    SLICES,
    SPLITS,
    SUMS_VALUES,
    VIEWS,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import in_graph_order, reachable

MAX_TERM = 4096
"""Values that one term is computed by."""
SCALES = MULTIPLIES | DIVIDES
MOVES = VIEWS | CASTS | DROPOUTS | GATHERS | SLICES | SPLITS | PADS | JOINS | PLAIN_SUMS
MOVES |= QUANTIZERS | DEQUANTIZES
"""Operators that output zeros where all that they read is zero."""


@dataclass(frozen=True, eq=False)
class Term:
    """An addend of a residual sum: one input of a node of the sum."""

    use: Use  # the node, and which of its inputs
    value: Value  # what is added
    leaves: tuple[Value, ...]  # the addends that it sums up; itself, unless it is a sum


@dataclass(frozen=True, eq=False)
class Join:
    """One residual sum."""

    node: Node  # its last node: sums that only another sum reads are a part of that
    streams: tuple[Value, ...]  # the addends through which the stream passes
    terms: tuple[Term, ...]  # what is added
    plain: bool = False  # whether no layer computes that from the stream: an embedding of something else, say

    @property
    def around(self) -> frozenset[Value]:
        """The values of the stream in front of it, with neither a layer nor another sum in between."""
        return frozenset().union(*map(near, self.streams))


class State(Enum):
    """The dependence of a value on its inputs once some layers compute nothing.

    `STREAM`: the stream; `OTHERS`: other inputs of the model; `BIAS`: stored numbers that those layers add; `NOTHING`:
    stored numbers alone; `ZERO`: it is zero.
    """

    STREAM, OTHERS, BIAS, NOTHING, ZERO = range(5)


class Residuals:
    """The residual sums of one model; each node is looked at once."""

    def __init__(self) -> None:
        self._joins: dict[Node, Join | None] = {}
        self._before: dict[Node, Join | None] = {}
        self._merges: set[Node] = set()
        self._chains: dict[Join, tuple[Join, ...]] = {}
        self._added: dict[Node, tuple[Join, Term] | None] = {}

    def join(self, node: Node) -> Join | None:
        """The residual sum that a node is a part of, None if it is part of none."""
        last = _last(node)
        if last not in self._joins:
            found = _join(last)
            self._joins[last] = None if found is None else self._without_states(found)
        return self._joins[last]

    def _without_states(self, join: Join) -> Join | None:
        """The sum, with later states of its own stream counted as streams; None if no branch is left.

        Sums of several states (DenseFormer, ELMo) add nothing to a stream; a block that adds a stream of its own does.
        """
        states = [leaf for term in join.terms for leaf in term.leaves if self._is_later(leaf, join)]
        if not states:
            return join
        self._merges.add(join.node)
        streams = (*join.streams, *states)
        terms = tuple(_terms(join.node, streams))
        return Join(join.node, streams, terms) if terms else None

    def _is_later(self, value: Value, join: Join) -> bool:
        """Return whether residual sums outside a sum's numbered module lead from its stream to a value."""
        own = module_path(join.node)
        sums = [item.node for item in self._behind([value]) if join.around.isdisjoint(item.node.results)]
        if not sums or (_is_numbered(own) and all(_is_within(node, own) for node in sums)):
            return False

        def above(item: Value) -> Iterator[Value]:
            for leaf in () if item.producer is None else addends(item.producer):
                yield from near(leaf)

        return any(
            item in join.around for item in reachable((made for node in sums for made in node.results), above)
        )

    def _behind(self, values: Iterable[Value]) -> list[Join]:
        """Return the residual sums that some values are the outputs of, with no layer in between."""
        made = (item.producer for value in values for item in near(value))
        joins = (self.join(node) for node in made if node is not None and node in SUMS_VALUES)
        return [join for join in joins if join is not None]

    def at(self, node: Node) -> Join | None:
        """The same, also if no layer computes what the sum adds from its stream."""
        return self.join(node) or self._plain(node)

    def added(self, layer: Node) -> tuple[Join, Term] | None:
        """The first sum that adds the output of a layer to a stream, None without one."""
        if layer not in self._added:
            self._added[layer] = self._look_ahead(layer)
        return self._added[layer]

    def _look_ahead(self, layer: Node) -> tuple[Join, Term] | None:
        reached = {*layer.results}

        def ahead(node: Node) -> Iterator[Node]:
            return (use.node for use in (_ahead(node) if node.out in reached else ()))

        first = (use.node for use in _ahead(layer))
        for node in islice(in_graph_order(first, ahead), MAX_BELOW):
            join = self.join(node) if node in SUMS_VALUES else None
            if join is not None:
                found = next((term for term in join.terms if not reached.isdisjoint(term.leaves)), None)
                if found is not None:
                    return join, found
                if not reached.isdisjoint(join.streams):
                    continue
            reached.update(node.results)
        return None

    def before(self, join: Join) -> Join | None:
        """The residual sum in front of another one in its stream, None for the first."""
        if join.node not in self._before:
            made = {
                node for value in join.around if (node := value.producer) is not None and node in SUMS_VALUES
            }
            found = [item for node in made if (item := self.at(node)) is not None]
            self._before[join.node] = max(found, key=lambda item: item.node.index, default=None)
        return self._before[join.node]

    def _plain(self, node: Node) -> Join | None:
        """A sum in a stream whose terms no layer computes from the stream, None if it is not known to be in one.

        It is behind a residual sum, or in a numbered module that computes its terms, with the stream from outside.
        """
        last = _last(node)
        if last in self._merges:
            return None
        made = [value for value in addends(last) if self._behind([value])]
        made = _sources(made or _from_outside(last), last)
        if len(made) != 1 or len(addends(last)) < 2 or not _leaves_module(last):
            return None
        self._joins[last] = Join(last, tuple(made), tuple(_terms(last, made)), plain=True)
        return self._joins[last]

    def _mixed(self, node: Node) -> Join | None:
        """The residual sum of a node, also one whose terms no layer computes from its stream.

        Its term is computed from the stream without weights, or in a numbered module from another input.
        """
        last = _last(node)
        behind = [value for value in addends(last) if self._behind([value])]
        if len(behind) > 1:
            return self.at(node)
        made = {item.node for item in self._behind(behind)}
        states = [item for value in behind for item in near(value) if item.producer in made]
        in_module = (
            states and _is_numbered(module_path(last)) and all(_goes_into(item, last) for item in states)
        )
        return self.at(node) if in_module else self.join(node)

    def after(self, join: Join) -> list[Join]:
        """The residual sums behind another one in its stream, in graph order."""

        def ahead(node: Node) -> Iterator[Node]:
            ends = node is not join.node and node in SUMS_VALUES and self._is_residual(node)
            return (use.node for use in (() if ends else _ahead(node)))

        found: set[Join] = set()
        for node in reachable([join.node], ahead, MAX_BELOW):
            item = self._mixed(node) if node is not join.node and node in SUMS_VALUES else None
            way = [] if item is None else [item]
            while (
                way and (before := self.before(way[-1])) is not None and before is not join and before.plain
            ):
                way.append(before)
            if way and self.before(way[-1]) is join:
                found.update(way)
        return sorted(found, key=lambda item: item.node.index)

    def _is_residual(self, node: Node) -> bool:
        join = self.join(node)
        return join is not None and not join.plain

    def gates(self, join: Join) -> Iterator[Use]:
        """The factors of products of the stream itself with the output of a layer, in front of a sum.

        A norm in single operators and a mask are none.
        """
        before = self.before(join)
        states = [] if before is None else before.node.results
        return _gates((value.producer for value in join.around if value.producer is not None), states)

    def gates_behind(self, join: Join) -> Iterator[Use]:
        """The same behind the last sum of a stream."""
        is_last = join is self.chain(join)[-1]
        return _gates((use.node for use in join.node.out.consumers if is_last), join.node.results)

    def chain(self, join: Join) -> tuple[Join, ...]:
        """All residual sums of the stream that one belongs to, in graph order."""
        if join not in self._chains:
            found = self._find_chain(join)
            self._chains |= dict.fromkeys(found, found)
        return self._chains[join]

    def _find_chain(self, join: Join) -> tuple[Join, ...]:

        def beside(item: Join) -> list[Join]:
            before = self.before(item)
            return [*self.after(item), *([] if before is None else [before])]

        return tuple(sorted(reachable([join], beside), key=lambda item: item.node.index))


def silenced(join: Join, term: Term, ends: Collection[Node]) -> State:
    """Return the state of a term if some layers sum over nothing, so that they output their biases."""
    stream = join.around

    def is_start(value: Value) -> bool:
        return value.is_constant or value.producer is None or value.producer in ends or value in stream

    def above(value: Value) -> Iterable[Value]:
        return () if is_start(value) or value.producer is None else contents(value.producer)

    values = list(reachable([term.value], above, MAX_TERM))
    if len(values) >= MAX_TERM:
        return State.STREAM
    states: dict[Value, State] = {}
    for value in sorted(values, key=lambda item: -1 if item.producer is None else item.producer.index):
        if value.producer is not None and value.producer in ends:
            states[value] = State.BIAS if _has_bias(value.producer) else State.ZERO
        elif value.is_constant:
            states[value] = State.NOTHING
        elif value in stream:
            states[value] = State.STREAM
        elif value.producer is None:
            states[value] = State.OTHERS
        else:
            read = [states.get(item, State.OTHERS) for item in contents(value.producer)]
            states[value] = _behind(value.producer, read)
    return states[term.value]


def _has_bias(node: Node) -> bool:
    """Return whether a layer that sums over nothing may output anything but zeros."""
    left, roles = bias_of(node), roles_of(node)
    if not isinstance(left, Refusal):
        return left.name is not None
    own = (roles.bias, roles.integer_bias)
    return roles.output_zero is None or any(at is not None and node.input(at) is not None for at in own)


def is_given(join: Join, term: Term) -> bool:
    """Return whether a term is an input of the model, at most moved or scaled, that no numbered module adds.

    The residuals of a ControlNet, say, or features of an image that a decoder adds behind its first layers.
    """
    if _is_numbered(module_path(join.node)):
        return False
    values = [*upstream([term.value], MAX_TERM)]
    made = [node for value in values if (node := value.producer) is not None]
    tables = [node.inputs[0] for node in made if node in GATHERS]
    return (
        join.around.isdisjoint(values)
        and all(node in MOVES | SCALES for node in made)
        and not any(table is not None and table.is_constant for table in tables)
    )


def _behind(node: Node, read: Collection[State]) -> State:
    """The state of a node's output, from those of what it computes with."""
    states = set(read)
    if State.ZERO in states and (node in MULTIPLIES or node in MULTIPLIES_QUANTIZED):
        return State.ZERO
    if State.STREAM in states:
        return State.STREAM
    if State.OTHERS in states:
        # A mask, or a gate that another input computes, scales the bias.
        return State.BIAS if node in MULTIPLIES and State.BIAS in states else State.OTHERS
    terms = roles_of(node).zero_points or range(len(node.inputs))
    biased = node in PLAIN_SUMS and any(value.is_constant for value in map(node.input, terms) if value)
    if states == {State.ZERO} and node in MOVES and not biased:
        return State.ZERO
    return State.BIAS if states & {State.BIAS, State.ZERO} else State.NOTHING


def _gates(nodes: Iterable[Node], states: Collection[Value]) -> Iterator[Use]:
    for node in sorted({*nodes}, key=lambda item: item.index):
        if node in SCALES and len(node.inputs) == len(node.computed) == 2:
            pairs = enumerate(zip(node.computed, reversed(node.computed), strict=True))
            yield from islice((Use(node, at) for at, pair in pairs if _is_gate(*pair, states)), 1)


def _is_gate(value: Value, other: Value, states: Collection[Value]) -> bool:
    """Return whether layers compute a value that is multiplied with a state of the stream, if one is known."""
    stream = near(other)

    def above(item: Value) -> Iterable[Value]:
        node = item.producer
        # Without a known state, a sum may be the stream itself.
        is_end = item in stream or _is_layer_output(item) or (node and not states and len(addends(node)) > 1)
        return () if node is None or is_end else contents(node)

    if states and not any(state in stream for state in states):
        return False
    read = reachable([value], above, MAX_BEHIND)
    return any(_is_layer_output(item) and item not in stream for item in read)


def _from_outside(node: Node) -> list[Value]:
    """Return the addends of a sum in a numbered module that are not computed in there."""
    own = module_path(node)

    def is_outside(value: Value) -> bool:
        return value.producer is None or not _is_within(value.producer, own)

    return (
        [value for value in addends(node) if any(map(is_outside, near(value)))] if _is_numbered(own) else []
    )


def _sources(values: list[Value], total: Node) -> list[Value]:
    """Return the addends from which the others are computed, if nothing bypasses the sum.

    The input of an activation that is written as a sum (GELU by tanh) bypasses it: it is a factor of the result, too.
    """
    if len(values) < 2:
        return values
    return [
        value
        for value in values
        if all(value in near(other) for other in values if other is not value) and _goes_into(value, total)
    ]


def _goes_into(value: Value, total: Node) -> bool:
    """Return whether everything computed from a value goes through a sum."""
    read = [use.node for use in value.consumers if use.node is not total and use.node not in OBSERVES]
    return not value.is_graph_output and lead_only_to(read, {total})


def lead_only_to(begins: Iterable[Node], ends: Collection[Node]) -> bool:
    """Return whether everything computed with the results of some nodes goes through others."""
    last = max(node.index for node in ends)
    read = reachable(
        begins,
        lambda node: [reader for reader in node.readers if reader not in ends and reader not in OBSERVES],
    )
    return all(
        node.index <= last and not any(value.is_graph_output for value in node.results) for node in read
    )


def _leaves_module(total: Node) -> bool:
    """Return whether a sum in a numbered module is read behind it as a stream, not by layers of the module alone."""
    path = module_path(total)
    own = path[: max((at + 1 for at, part in enumerate(path) if _is_numbered([part])), default=0)]

    def ahead(node: Node) -> Iterator[Node]:
        return (use.node for use in (_ahead(node) if _is_within(node, own) else ()))

    carried = (value for node in reachable([total], ahead, MAX_BELOW) for value in node.results)
    return not own or any(
        value.is_graph_output or not all(_is_within(use.node, own) for use in value.consumers)
        for value in carried
    )


def _is_within(node: Node, module: Sequence[str]) -> bool:
    """Return whether a node is in a module, by its name."""
    return module_path(node)[: len(module)] == module


def _is_numbered(path: Sequence[str]) -> bool:
    return any(part[-1:].isdecimal() for part in path)


def _last(node: Node) -> Node:
    """The last node of a sum that is written as several."""
    while node in PLAIN_SUMS and is_partial_sum(node.out, node):
        (reader,) = {use.node for use in node.out.consumers}
        if reader not in SUMS_VALUES:
            break
        node = reader
    return node


def _join(node: Node) -> Join | None:
    """A sum, if it is residual."""
    leaves = addends(node)
    if len(leaves) < 2 or node.out.elem_type in CHOICES:
        return None
    streams = [value for value in leaves if _leads_to_others(value, leaves)]
    if len(streams) == len(leaves):
        # A mask or a condition that all branches are multiplied with is no stream.
        streams = [
            value for value in leaves if _leads_to_others(value, leaves, frozenset(_behind_layers(value)))
        ]
    terms = tuple(_terms(node, streams))
    return Join(node, tuple(streams), terms) if streams and terms else None


def _leads_to_others(value: Value, leaves: Collection[Value], known: Collection[Value] = ()) -> bool:
    """Return whether layers compute other addends from one, or from what it was just computed from."""
    around = near(value)
    # What lies in front of all of these values leads to none of them.
    since = min(-1 if item.producer is None else item.producer.index for item in around)
    others = (item for other in leaves if other is not value for item in _behind_layers(other, since))
    return any(item in around and item not in known for item in others)


def _terms(node: Node, streams: Collection[Value]) -> Iterator[Term]:
    """Yield the terms that a sum adds to some of its addends, in the largest parts."""
    inputs = node.inputs[:2] if node in ADDS_AND_NORMALIZES else node.inputs
    for index, value in enumerate(inputs):
        if value is None or value.is_constant:
            continue
        inner = (
            value.producer if value.producer is not None and is_partial_sum(value, value.producer) else None
        )
        leaves = [value] if inner is None else addends(inner)
        if any(leaf in streams for leaf in leaves):
            if inner is not None:
                yield from _terms(inner, streams)
        else:
            yield Term(Use(node, index), value, tuple(leaves))


def _behind_layers(value: Value, since: int = -1) -> Iterator[Value]:
    """Yield the sources of a value behind layers, depthwise convolutions and pools among them; nearest first.

    Args:
        since: the index of a node; what lies in front of it is left out.
    """

    def ends(node: Node) -> bool:
        return node.index < since or _mixes(node)

    first = set(upstream([value], MAX_BEHIND, ends))
    layers = dict.fromkeys(item.producer for item in first if item.producer is not None)
    read = [item for node in layers if node.index >= since and _mixes(node) for item in contents(node)]
    return upstream(read, MAX_BEHIND, lambda node: node.index < since)


def _mixes(node: Node) -> bool:
    return is_layer(node) or CONVOLUTIONS.of(node) is not None or node in POOLS


def _is_layer_output(value: Value) -> bool:
    return value.producer is not None and is_layer(value.producer)


def _ahead(node: Node) -> Iterator[Use]:
    """Yield the readers of a node's output as a term: no layers, no sizes, no factors of many numbers."""
    for value in node.results:
        for use in value.consumers if value.elem_type not in CHOICES else ():
            if not is_layer(use.node) and use.node not in OBSERVES and not spreads(use):
                yield use
