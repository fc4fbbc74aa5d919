"""Planned nodes of a pruned graph: a one-to-one matching of the nodes of two graphs.

Two nodes may be matched if operator, attributes and stored tensors are the same. Matches are looked for from the
outputs upwards, from the inputs downwards, and from nodes with weights of their own in both directions. A matched node
is the planned one unless it reads what the plan gives to another node: nodes that were inserted before it, or left out,
do not make it another one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnxheadprune.validation.producers import Producer, ProducerKind, Scope, label, own_nodes

MOST_CANDIDATES = 32
"""Planned nodes that are looked at for one node of the pruned graph, where only the operator speaks for them."""


@dataclass(frozen=True)
class Matching:
    """The nodes of a pruned graph that differ, and the labels of planned nodes that it lacks, in their order."""

    differing: tuple[NodeProto, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A node, the graph it is in, and what makes each of its inputs, None where one is omitted."""

    proto: NodeProto
    scope: Scope
    sources: tuple[Producer | None, ...]


Pair = tuple[NodeProto, NodeProto]
Operator = tuple[str, str]
SameNode = Callable[[NodeProto, NodeProto], bool]
"""A comparison of two nodes: operator, attributes, and numbers of inputs and outputs."""
SameValue = Callable[[Producer, Producer], bool]
"""A comparison of two stored tensors or two inputs."""


def matched(
    scopes: tuple[Sequence[Scope], Sequence[Scope]],
    seeds: Iterable[Pair],
    same_node: SameNode,
    same_value: SameValue,
) -> Matching:
    """Match the nodes of a planned graph and a pruned one."""
    matcher = _Matcher(scopes, same_node, same_value)
    matcher.run(seeds)
    return matcher.found()


class _Matcher:
    def __init__(
        self,
        scopes: tuple[Sequence[Scope], Sequence[Scope]],
        same_node: SameNode,
        same_value: SameValue,
    ) -> None:
        self.ours, self.theirs = ({id(item.proto): item for item in _placed(side)} for side in scopes)
        self.readers = _readers(self.ours.values()), _readers(self.theirs.values())
        self.same_node, self.same_value = same_node, same_value
        self.partner: dict[int, Placed] = {}
        """The planned node by the identity of the pruned one."""
        self.taken: set[int] = set()
        self.waiting: list[tuple[Placed, Placed]] = []
        self.by_operator: dict[Operator, deque[Placed]] = defaultdict(deque)
        self.by_tensors: dict[tuple[Operator, frozenset[str]], list[Placed]] = defaultdict(list)
        for item in self.ours.values():
            self.by_operator[_operator(item)].append(item)
            self.by_tensors[_operator(item), _tensors(item)].append(item)

    def run(self, seeds: Iterable[Pair]) -> None:
        for first, second in seeds:
            if id(first) in self.ours and id(second) in self.theirs:
                self._match(self.ours[id(first)], self.theirs[id(second)])
        self._spread()
        # First where all inputs agree, then where stored tensors do, last where nothing speaks against it.
        for certain, own_tensors in ((True, False), (False, True), (False, False)):
            for item in self.theirs.values():
                if id(item.proto) in self.partner or (own_tensors and not _tensors(item)):
                    continue
                for candidate in self._candidates(item, certain=certain):
                    if self._fits(candidate, item, certain=certain):
                        self._match(candidate, item)
                        self._spread()
                        break

    def _candidates(self, item: Placed, *, certain: bool) -> Iterator[Placed]:
        """Planned nodes that read the same at the same place, then some with the same operator."""
        for position, source in enumerate(item.sources):
            partner = (
                None if source is None or source.place is not ProducerKind.NODE else self._partner(source)
            )
            if partner is not None and source is not None:
                readers = self.readers[0].get((id(partner.proto), source.index), ())
                yield from (
                    reader for reader, place in readers if place == position and self._is_free(reader)
                )
        if certain and any(
            source is not None and source.place is ProducerKind.NODE for source in item.sources
        ):
            return
        if _tensors(item):
            yield from filter(self._is_free, self.by_tensors[_operator(item), _tensors(item)])
        listed = self.by_operator[_operator(item)]
        while listed and not self._is_free(listed[0]):
            listed.popleft()
        yield from filter(self._is_free, itertools.islice(listed, MOST_CANDIDATES))

    def _is_free(self, planned: Placed) -> bool:
        return id(planned.proto) not in self.taken

    def _partner(self, made: Producer) -> Placed | None:
        return self.partner.get(id(made.thing))

    def _match(self, planned: Placed, pruned: Placed) -> bool:
        if id(pruned.proto) in self.partner or not self._is_free(planned):
            return False
        self.partner[id(pruned.proto)] = planned
        self.taken.add(id(planned.proto))
        self.waiting.append((planned, pruned))
        return True

    def _spread(self) -> None:
        """Match what matched nodes read, and what reads them."""
        while self.waiting:
            planned, pruned = self.waiting.pop()
            for ours, theirs in self._read_by(planned, pruned):
                if ours.place is theirs.place is ProducerKind.NODE and ours.index == theirs.index:
                    self._try(self.ours[id(ours.thing)], self.theirs[id(theirs.thing)], certain=False)
            for index in range(len(pruned.proto.output)):
                readers = self.readers[0].get((id(planned.proto), index), ())
                for reader, place in self.readers[1].get((id(pruned.proto), index), ()):
                    if id(reader.proto) in self.partner:
                        continue
                    for candidate, position in readers:
                        if place == position and self._try(candidate, reader, certain=True):
                            break

    def _read_by(self, planned: Placed, pruned: Placed) -> Iterator[tuple[Producer, Producer]]:
        """The inputs of two nodes, and the outputs of their bodies."""
        for ours, theirs in zip(planned.sources, pruned.sources, strict=False):
            if ours is not None and theirs is not None:
                yield ours, theirs
        inner = pruned.scope.bodies.get(id(pruned.proto), {})
        for name, body in planned.scope.bodies.get(id(planned.proto), {}).items():
            if name in inner:
                pairs = zip(body.graph.output, inner[name].graph.output, strict=False)
                yield from ((body.source(one.name), inner[name].source(other.name)) for one, other in pairs)

    def _try(self, planned: Placed, pruned: Placed, *, certain: bool) -> bool:
        return self._fits(planned, pruned, certain=certain) and self._match(planned, pruned)

    def _fits(self, planned: Placed, pruned: Placed, *, certain: bool) -> bool:
        """Return whether two nodes may be the same, all inputs known to agree if `certain`."""
        if not self._is_free(planned) or _operator(planned) != _operator(pruned):
            return False
        if len(planned.sources) != len(pruned.sources):
            return False
        pairs = zip(planned.sources, pruned.sources, strict=True)
        agree = all(self._agrees(ours, theirs, certain=certain) for ours, theirs in pairs)
        return agree and self.same_node(planned.proto, pruned.proto)

    def _agrees(self, ours: Producer | None, theirs: Producer | None, *, certain: bool) -> bool:
        """Return whether one input may be the same: what was inserted or left out before it says nothing."""
        if ours is None or theirs is None:
            return ours is theirs
        if ours.place is theirs.place is ProducerKind.NODE:
            partner = self._partner(theirs)
            if partner is not None and partner.proto is ours.thing:
                return ours.index == theirs.index
        elif ours.place is theirs.place:
            return self.same_value(ours, theirs)
        inserted = theirs.place is ProducerKind.NODE and self._partner(theirs) is None
        left_out = ours.place is ProducerKind.NODE and id(ours.thing) not in self.taken
        return not certain and (inserted or left_out)

    def found(self) -> Matching:
        differing = tuple(item.proto for item in self.theirs.values() if not self._is_planned(item))
        missing = (item for item in self.ours.values() if self._is_free(item))
        return Matching(differing, tuple(label(item.proto) for item in missing))

    def _is_planned(self, item: Placed) -> bool:
        planned = self.partner.get(id(item.proto))
        if planned is None:
            return False
        pairs = zip(planned.sources, item.sources, strict=True)
        return all(self._agrees(ours, theirs, certain=False) for ours, theirs in pairs)


def _placed(scopes: Sequence[Scope]) -> Iterator[Placed]:
    for scope in scopes:
        for node in own_nodes(scope.graph):
            names = list(node.input)
            while names and not names[-1]:
                names.pop()
            yield Placed(node, scope, tuple(scope.source(name) if name else None for name in names))


def _readers(nodes: Iterable[Placed]) -> dict[tuple[int, int], list[tuple[Placed, int]]]:
    """The readers of each output of each node, and at which input they read it."""
    found: dict[tuple[int, int], list[tuple[Placed, int]]] = defaultdict(list)
    for item in nodes:
        for position, source in enumerate(item.sources):
            if source is not None and source.place is ProducerKind.NODE:
                found[id(source.thing), source.index].append((item, position))
    return found


def _operator(item: Placed) -> Operator:
    return item.proto.domain, item.proto.op_type


def _tensors(item: Placed) -> frozenset[str]:
    """The names of the stored tensors that a node reads."""
    return frozenset(
        source.name for source in item.sources if source is not None and source.place is ProducerKind.TENSOR
    )
