"""From traced contractions to sites: which contractions share a core, which channels form a head."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from onnxheadprune.attention.sites.core import Core, is_alike
from onnxheadprune.attention.sites.products import Summed, is_product
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask, ask_about
from onnxheadprune.model.graph.operator import VIEWS, is_a
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import stored_behind

T = TypeVar("T", bound=Hashable)
Place: TypeAlias = tuple[int, int]
"""The index of a core's node, and a position of heads in it."""
VALUES = 2
"""The input of the values in fused operators with separate queries, keys and values."""


class Partition(Generic[T]):
    """Disjoint sets (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[T, T] = {}

    def root(self, item: T) -> T:
        """The representative of the item's set."""
        self._parent.setdefault(item, item)
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, items: Iterable[T]) -> None:
        """Put all items into one set."""
        first, *rest = [self.root(item) for item in items]
        for item in rest:
            self._parent[self.root(item)] = first

    def sets(self) -> list[list[T]]:
        """All sets, in order of first appearance."""
        found: dict[T, list[T]] = {}
        for item in self._parent:
            found.setdefault(self.root(item), []).append(item)
        return list(found.values())


@dataclass(frozen=True, eq=False)
class Candidate:
    """A linear layer that sums over axes leading to cores."""

    read: Summed
    cores: tuple[Core, ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Candidates that share cores, with the positions of each head."""

    projections: tuple[Projection, ...]
    cores: tuple[Core, ...]
    members: tuple[frozenset[tuple[int, int]], ...]
    """For each head, the `(node index of core, head position)` pairs that form it."""

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return len(self.members)


def group(candidates: list[Candidate]) -> list[Block]:
    """Blocks in graph order of their first core.

    Two head positions belong to one head if some projection reads a channel that both contribute to:
    this one rule covers gated contexts, summed attentions, heads computed one by one and fixed batches.
    So do two that read one attention map, since a query head makes one map: its values come in pieces.
    """
    candidates = _along_heads(_telling_apart(_without_lone_positions(candidates)))
    by_core: Partition[int] = Partition()
    for candidate in candidates:
        by_core.join(core.node.index for core in candidate.cores)
    blocks: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        blocks.setdefault(by_core.root(candidate.cores[0].node.index), []).append(candidate)
    built = [_build(members) for members in blocks.values()]
    return sorted(built, key=lambda block: min(core.node.index for core in block.cores))


def _without_lone_positions(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates without head axes of which only one position is read by any of them: one is no evidence of several."""
    read: dict[int, set[int]] = {}
    for candidate in candidates:
        for core in candidate.cores:
            alive = {position for position, labels in enumerate(core.heads) if labels}
            read.setdefault(core.node.index, set()).update(alive)
    lone = {index for index, alive in read.items() if len(alive) == 1}

    def seen(core: Core) -> Core:
        if core.node.index not in lone or len(core.heads) == 1:
            return core
        return replace(core, heads=tuple(filter(None, core.heads)), head_axes=())

    return [replace(item, cores=tuple(seen(core) for core in item.cores)) for item in candidates]


def _telling_apart(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates without layers between another one and its cores, or that do not distinguish heads as another does."""
    between = frozenset[Node]().union(*(core.layers for item in candidates for core in item.cores))
    apart = {core.node for item in candidates if not is_alike(item.cores) for core in item.cores}

    def mixes(item: Candidate) -> bool:
        several = sum(1 for core in item.cores for labels in core.heads if labels) > 1
        return several and is_alike(item.cores) and apart.issuperset(core.node for core in item.cores)

    return [item for item in candidates if item.read.node not in between and not mixes(item)]


def _along_heads(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates that read their cores along the head axes.

    A contraction over the tokens (Linformer's projections of a fixed-length sequence) may lead to the same
    core along another axis. It sums over no heads of that core.
    """
    views: dict[int, Core] = {}
    for candidate in candidates:
        for core in candidate.cores:
            known = views.get(core.node.index, core)
            views[core.node.index] = max(known, core, key=lambda item: (len(item.heads), *item.axes[:2]))
    return [
        candidate
        for candidate in candidates
        if all(_lie_alike(views[core.node.index], core) for core in candidate.cores)
    ]


def _lie_alike(first: Core, second: Core) -> bool:
    """Return whether two readings of one core have its heads along the same axes; each may read other features."""
    some, others = {*first.feature_axes}, {*second.feature_axes}
    alike = (first.head_axes, first.repeats) == (second.head_axes, second.repeats)
    return alike and (some == others or not some.isdisjoint(others))


def _build(candidates: list[Candidate]) -> Block:
    heads: Partition[Place] = Partition()
    for candidate in candidates:
        for sharing in (*_contributing(candidate.cores), *_of_one_map(candidate.cores)):
            if sharing:
                heads.join(sharing)
    read = [_channels(candidate) for candidate in candidates]
    members = _in_order([frozenset(some) for some in heads.sets()], read)
    projections = tuple(
        Projection.of(candidate.read, tuple(tuple(sorted(_joined(own, some))) for some in members))
        for candidate, own in zip(candidates, read, strict=True)
    )
    cores: dict[int, Core] = {}
    for candidate in candidates:
        for core in candidate.cores:
            known = cores.setdefault(core.node.index, core)
            if len(known.feature_axes) < len(core.feature_axes):
                cores[core.node.index] = core
    return Block(projections, tuple(cores[index] for index in sorted(cores)), tuple(members))


def _contributing(cores: Iterable[Core]) -> Iterable[list[Place]]:
    """Head positions by what they contribute to; what no projection reads adds nothing: it is no head."""
    owners: dict[int, list[Place]] = {}
    for core in cores:
        for position, own in enumerate(core.heads):
            for label in own:
                owners.setdefault(label, []).append((core.node.index, position))
    return owners.values()


def _in_order(
    heads: list[frozenset[tuple[int, int]]], channels: Iterable[Mapping[tuple[int, int], set[int]]]
) -> list[frozenset[tuple[int, int]]]:
    """Heads in the channel order of a projection that reads all of them, else in the order of the cores."""
    for own in channels:
        first = {members: min(_joined(own, members), default=-1) for members in heads}
        if min(first.values()) >= 0:
            return sorted(heads, key=first.__getitem__)
    return sorted(heads, key=min)


def _of_one_map(cores: Iterable[Core]) -> Iterator[list[tuple[int, int]]]:
    """Yield the head positions of several products that read the same slice of the same attention weights."""
    fused: dict[Hashable, list[Core]] = {}
    readers: dict[Hashable, list[tuple[Core, Live]]] = {}
    for core in cores:
        if is_fused(core.node):
            made = _weights_made(core.node)
            if made is not None:
                fused.setdefault((made, len(core.heads)), []).append(core)
            continue
        read = _weights_read(core)
        if read is not None:
            value, live = read
            readers.setdefault((value, live.axes, live.repeats), []).append((core, live))
    for sharing in fused.values():
        for position in range(len(sharing[0].heads)):
            yield [(core.node.index, position) for core in sharing if core.heads[position]]
    for lying in readers.values():
        axes = lying[0][1].axes
        sizes = [math.lcm(*(live.period(axis) for _, live in lying)) for axis in axes]
        placed = [live.aligned(axes, sizes).reshape(-1).tolist() for _, live in lying]
        for numbers in zip(*placed, strict=True):
            heads = [(core, number - 1) for (core, _), number in zip(lying, numbers, strict=True) if number]
            yield [(core.node.index, head) for core, head in heads if core.heads[head]]


def _weights_made(node: Node) -> Hashable | None:
    """Return the inputs of a fused node's attention weights: all but its values; None where they are packed."""
    past = node.roles.past_values
    if node.input(VALUES) is None:
        return None
    read = tuple(None if index in (VALUES, past) else value for index, value in enumerate(node.inputs))
    stated = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.proto.attribute)
    return node.domain, node.op_type, read, tuple(stated)


def _weights_read(core: Core) -> tuple[Value, Live] | None:
    """The attention weights of a core behind views, with the number of the head position at each of theirs.

    None where they are no separate value or not one per head.
    """
    found = is_product(core.node)
    if found is None or len(found.indices) != 2 or not core.head_axes:
        return None
    weights = next((index for index in found.indices if index not in core.values), None)
    value = None if weights is None else core.node.input(weights)
    heads = core.labelled(np.arange(1, len(core.heads) + 1))
    answer = ask(core.node, [heads], POSITIONS)
    live = FULL if isinstance(answer, Refusal) or weights is None else answer.inputs.get(weights, FULL)
    if value is None or not _numbers_all(live, len(core.heads)):
        return None
    while (node := value.producer) is not None and node in VIEWS and (source := node.input(0)) is not None:
        back = ask_about(value, live, POSITIONS)
        above = FULL if isinstance(back, Refusal) else back.inputs.get(0, FULL)
        if not _numbers_all(above, len(core.heads)):
            break
        value, live = source, above
    return value, live


def _numbers_all(live: Live, count: int) -> bool:
    """Return whether all numbers from 1 to `count` lie in a value."""
    return (
        bool(live.axes) and not live.is_mask and {*live.array.reshape(-1).tolist()} >= {*range(1, count + 1)}
    )


def _channels(candidate: Candidate) -> dict[tuple[int, int], set[int]]:
    """Positions of the contracted axis (labels count from one) that each position of a core contributes to."""
    found: dict[tuple[int, int], set[int]] = {}
    for core in candidate.cores:
        for position, labels in enumerate(core.heads):
            found.setdefault((core.node.index, position), set()).update(label - 1 for label in labels)
    return found


def _joined(channels: Mapping[tuple[int, int], set[int]], members: Iterable[tuple[int, int]]) -> set[int]:
    """The channels of all members of a head."""
    return set().union(*(channels.get(member, ()) for member in members))


def merge_branches(blocks: list[Block]) -> list[Block]:
    """Unite blocks that are one attention layer written twice: in both branches of an `If`, on the same weights.

    Merged decoders hold the network once with and once without a cache. Only one branch ever runs, so
    cutting a head in one of them alone would make no sense.
    """
    merged: list[Block] = []
    uses: dict[tuple[str, str, tuple[str, ...]], int] = {}
    first: dict[tuple[str, tuple[str, ...], int], int] = {}
    for block in blocks:
        place = branch_of(block.projections[0].node)
        if place is None:
            merged.append(block)
            continue
        weights = tuple(weight_name(projection) for projection in block.projections)
        number = uses.get((*place, weights), 0)
        uses[(*place, weights)] = number + 1
        key = (place[0], weights, number)
        if key in first and merged[first[key]].num_heads == block.num_heads:
            other = merged[first[key]]
            members = (mine | theirs for mine, theirs in zip(other.members, block.members, strict=True))
            both = other.projections + block.projections, other.cores + block.cores
            merged[first[key]] = Block(*both, tuple(members))
        else:
            first[key] = len(merged)
            merged.append(block)
    return merged


def branch_of(node: Node) -> tuple[str, str] | None:
    """The outermost `If` around a node and which of its branches the node is in."""
    around = [(owner.ref, scope.ref) for owner, scope in node.scope.owners if is_a(owner, "If")]
    return around[-1] if around else None


def weight_name(projection: Projection) -> str:
    """The stored weight of a projection, with its graph; empty where there is none."""
    value = stored_behind(projection.operand)
    return "" if value is None else f"{value.scope.ref}/{value.name}"
