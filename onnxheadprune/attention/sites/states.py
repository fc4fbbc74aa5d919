"""States of residual streams: values that all that is computed of the stream's beginning passes.

In one graph or body, a value *dominates* another one if every path to it from a beginning of a stream leads through the
value. The values that dominate an output are a chain, and between two neighbours of the chain lies one block, whatever
operators it is made of: a residual branch and the sum that takes it in, or a single operator. What was computed beside
the stream (masks, positions, encoder outputs) has other beginnings, and so does not hide the states.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import TypeAlias

from onnxheadprune.attention.sites.streams import CHOICES, contents, is_layer
from onnxheadprune.model.graph.operator import ADDS_AND_NORMALIZES
from onnxheadprune.model.graph.view import Node, Scope, Value
from onnxheadprune.model.graph.walks import reachable

Vertex: TypeAlias = Value | Node
"""A value; or an operator that adds and normalizes, for the sum that it has no output for."""
SUM = 3
"""The output of such an operator with the sum."""


@dataclass(frozen=True, eq=False)
class Block:
    """All that lies between two neighbouring states, wherever the chain begins that leads through both."""

    front: Vertex
    behind: Vertex
    inner: tuple[Vertex, ...]  # on the paths between them, `behind` included


@dataclass(frozen=True)
class State:
    """The states around a layer: once it is removed, who reads the one behind it reads the one in front."""

    front: Value
    behind: Value

    @property
    def is_bypass(self) -> bool:
        """True if both have one shape and type."""
        front, behind = self.front, self.behind
        return front.shape is not None and front.shape == behind.shape and front.elem_type == behind.elem_type


class Flow:
    """The contents that flow through one graph or body, from value to value."""

    def __init__(self, scope: Scope, dead: Container[Node]) -> None:
        """Read the nodes of a scope; what their bodies read from around counts as read by the node."""
        self.scope = scope
        self.nodes = [node for node in scope.nodes if node not in dead]
        self.before: dict[Vertex, tuple[Vertex, ...]] = {}
        self.after: dict[Vertex, list[Vertex]] = defaultdict(list)
        self._blocks: dict[tuple[Vertex, Vertex], Block] = {}
        for node in self.nodes:
            read: tuple[Vertex, ...] = tuple(dict.fromkeys((*contents(node), *_captured(node))))
            if node in ADDS_AND_NORMALIZES:
                self._link(read, sum_of(node))
                read = (sum_of(node),)
            for value in node.results:
                if (
                    value.is_read
                    and value not in read
                    and not value.is_constant
                    and value.elem_type not in CHOICES
                ):
                    self._link(read, value)

    def _link(self, read: tuple[Vertex, ...], made: Vertex) -> None:
        for value in read:
            self.before.setdefault(value, ())
            self.after[value].append(made)
        self.before[made] = read

    @cached_property
    def beginnings(self) -> list[Vertex]:
        """The values that depend on no other one, in the order in which nodes read them."""
        return [vertex for vertex, read in self.before.items() if not read]

    @cached_property
    def ends(self) -> list[Value]:
        """The outputs, in order."""
        values = (self.scope.lookup(info.name) for info in self.scope.proto.output)
        return [value for value in values if value is not None and value in self.before]

    def chains(self, beginning: Vertex) -> Iterator[list[Block]]:
        """Yield the blocks between a beginning and each output that it leads to."""
        above = self._dominators(beginning)
        done: set[Vertex] = set()
        for end in self.ends:
            if end not in above or end in done:
                continue
            chain: list[Vertex] = [end]
            while chain[-1] is not beginning:
                chain.append(above[chain[-1]])
            chain.reverse()
            done.update(chain)
            yield [self._block(front, behind, above) for front, behind in pairwise(chain)]

    def _block(self, front: Vertex, behind: Vertex, known: Container[Vertex]) -> Block:
        if (front, behind) not in self._blocks:
            self._blocks[front, behind] = Block(front, behind, self._between(front, behind, known))
        return self._blocks[front, behind]

    def _dominators(self, beginning: Vertex) -> dict[Vertex, Vertex]:
        """Return the nearest dominator of each value that depends on a beginning."""
        above, depth = {beginning: beginning}, {beginning: 0}
        for vertex, read in self.before.items():
            met = [item for item in read if item in depth]
            if not met:
                continue
            one = met[0]
            for other in met[1:]:
                while one is not other:
                    if depth[one] >= depth[other]:
                        one = above[one]
                    else:
                        other = above[other]
            above[vertex], depth[vertex] = one, depth[one] + 1
        return above

    def _between(self, front: Vertex, behind: Vertex, known: Container[Vertex]) -> tuple[Vertex, ...]:
        """Return the vertices on the paths from one value to another, the latter included."""

        def back(vertex: Vertex) -> Iterator[Vertex]:
            return (item for item in self.before[vertex] if item in known and item is not front)

        return tuple(reachable([behind], back))

    def joins(self, block: Block) -> bool:
        """Return whether a stream goes around a block, which joins it with another value of one shape.

        A norm multiplies the stream with fewer values.
        """
        known = {block.front, *block.inner}
        return self._carries([block.front], block.behind, known) and any(
            isinstance(one, Value) and isinstance(other, Value) and State(one, other).is_bypass
            for vertex in block.inner
            for one, other in combinations(known.intersection(self.before.get(vertex, ())), 2)
        )

    def _carries(self, fronts: Collection[Vertex], behind: Vertex, inner: Collection[Vertex]) -> bool:
        """Return whether a path from one of `fronts` to `behind` passes no contraction."""

        def back(vertex: Vertex) -> Iterator[Vertex]:
            node = maker(vertex)
            if node is not None and not is_layer(node):
                yield from (item for item in self.before[vertex] if item in inner or item in fronts)

        return any(vertex in fronts for vertex in reachable([behind], back))

    def read_outside(self, inner: Collection[Vertex]) -> list[Value]:
        """The values of a layer that nodes outside of it read, or that are outputs."""
        return [
            value
            for value in inner
            if isinstance(value, Value)
            and (value in self.ends or any(item not in inner for item in self.after.get(value, ())))
        ]

    def leaves_more(
        self, fronts: Collection[Vertex], inner: Collection[Vertex], behinds: Collection[Value]
    ) -> bool:
        """Return whether nodes outside of a layer read its stream at other values than the states behind it.

        Such a value has the shape of a state, or is the stream transposed or in another type: the layer then has no
        identity by its states alone. Keys that later layers share are computed by a contraction, and are no stream.
        """
        return any(
            any(State(value, behind).is_bypass for behind in behinds) or self._carries(fronts, value, inner)
            for value in self.read_outside(inner)
            if value not in behinds
        )

    def inside(self, state: State) -> Iterator[Node]:
        """Yield the nodes between two states."""
        last = place_of(state.behind)

        def ahead(vertex: Vertex) -> Iterator[Vertex]:
            return (item for item in self.after.get(vertex, ()) if place_of(item) <= last)

        known = set(reachable(vertices([state.front]), ahead))
        for vertex in self._between(state.front, state.behind, known):
            node = maker(vertex)
            if node is not None and not is_sum(vertex):
                yield node


def vertices(values: Iterable[Value]) -> list[Vertex]:
    """Return values as vertices."""
    return [*values]


def place_of(vertex: Vertex) -> int:
    """Return the number of the node that computes a value; -1 for an input."""
    node = maker(vertex)
    return -1 if node is None else node.index


def sum_of(node: Node) -> Vertex:
    """The sum of an operator that adds and normalizes."""
    value = node.outputs[SUM] if len(node.outputs) > SUM else None
    return node if value is None else value


def maker(vertex: Vertex) -> Node | None:
    """The node that computes a value."""
    return vertex if isinstance(vertex, Node) else vertex.producer


def is_sum(vertex: Vertex) -> bool:
    """Return whether a value is the sum of an operator that also normalizes it."""
    node = maker(vertex)
    return node is not None and node in ADDS_AND_NORMALIZES and sum_of(node) is vertex


def is_fused_norm(value: Value) -> bool:
    """Return whether a value is the norm of an operator that adds and normalizes."""
    return value.producer is not None and value.producer in ADDS_AND_NORMALIZES and not is_sum(value)


def learned_of_norm(node: Node) -> tuple[int, ...]:
    """The inputs of such an operator with the scale and shift of its norm; the last stored one is added to the sum."""
    return node.roles.learned[:-1]


def _captured(node: Node) -> Iterator[Value]:
    """Yield the contents that the bodies of a node read from around it."""
    for body in node.bodies.values():
        read = [value for inner in body.nodes for value in (*contents(inner), *_captured(inner))]
        read += [value for info in body.proto.output if (value := body.lookup(info.name)) is not None]
        yield from (value for value in read if value.scope in node.scope.around and not value.is_constant)


def enclosing(flow: Flow, nodes: Set[Node]) -> list[State]:
    """Return the states that the nodes of one module read from outside and hand to the outside; empty without.

    A state is of the shape of another one across the module. What the module reads of others beside it was computed
    before (an encoder's output, the keys of an earlier layer); what others read of it beside states is of other shapes.
    All that lies between them is the module's.
    """
    made: set[Vertex] = {value for node in nodes for value in node.results}
    made |= {sum_of(node) for node in nodes if node in ADDS_AND_NORMALIZES}
    read = dict.fromkeys(
        item
        for vertex in made
        for item in flow.before.get(vertex, ())
        if item not in made and isinstance(item, Value)
    )
    left = flow.read_outside(made)
    fronts = [value for value in read if any(State(value, other).is_bypass for other in left)]
    behinds = [value for value in left if any(State(value, other).is_bypass for other in fronts)]
    if flow.leaves_more(fronts, made, behinds):
        return []
    states = []
    for behind in sorted(behinds, key=place_of):
        # The stream itself takes the shortest way.
        near = reachable(vertices([behind]), lambda at: flow.before[at] if at in made else ())
        alike = [
            front
            for front in near
            if isinstance(front, Value) and front in fronts and State(front, behind).is_bypass
        ]
        # Where only one operator reads the state in front, no stream goes around it.
        if not alike or len(made.intersection(flow.after[alike[0]])) < 2:
            return []
        states.append(State(alike[0], behind))
        if not nodes >= set(flow.inside(states[-1])):
            return []
    return states


def released(states: Iterable[State], io: Container[Value]) -> set[Node]:
    """Return the nodes that nothing needs once layers are the identity.

    Args:
        io: inputs and outputs that go with them: caches.
    """
    some = list(states)
    cut = {state.behind for state in some}
    fronts = {state.front for state in some} - cut
    # A sum goes without the norm that is computed with it.
    fused = {node for value in cut if is_sum(value) and (node := value.producer) is not None}
    gone: set[Node] = set()

    def is_read(value: Value) -> bool:
        leaves = value.is_graph_output and value not in io
        left = (use for use in value.consumers if use.node not in gone)
        if value in cut:
            return False
        return (
            value in fronts
            or leaves
            or any(use.node not in fused or use.input_index in learned_of_norm(use.node) for use in left)
        )

    heap = [(-node.index, node) for value in cut if (node := value.producer) is not None]
    heapq.heapify(heap)
    seen = {node for _, node in heap}
    while heap:
        node = heapq.heappop(heap)[1]
        if node not in fused and any(map(is_read, node.results)):
            continue
        own = [node, *_inner(node)]
        gone.update(() if node in fused else own)
        for other in (other for item in own for other in item.producers):
            if other not in seen:
                seen.add(other)
                heapq.heappush(heap, (-other.index, other))
    return gone


def _inner(node: Node) -> Iterator[Node]:
    """Yield the nodes in the bodies of a node."""
    for body in node.bodies.values():
        for inner in body.nodes:
            yield inner
            yield from _inner(inner)
