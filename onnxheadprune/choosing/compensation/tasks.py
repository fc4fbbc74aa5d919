"""The linear layers that a compensation refits, in order, and the removed sublayers that they stand in for.

In a network with a residual stream every sublayer ends in a layer that adds to it. If some of them go, what they
added is missing from there on, and the last remaining layer that adds to the same stream can replace it:
only the run reads the stream in between (ReplaceMe, Shopkhoev et al. 2025). All of it is found by dataflow:
the additions that the stream passes through, and its other readers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.projection import Projection, emptied
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.states import State, place_of, released
from onnxheadprune.choosing.activations.boundaries import Flow
from onnxheadprune.choosing.activations.linear import Linear, feeders
from onnxheadprune.edit.bodies import counts_where
from onnxheadprune.liveness.consumers import contents_of
from onnxheadprune.model.graph.view import GraphView, Node, Value

Which: TypeAlias = Literal["own", "behind", "all"]
"""Layers to refit: those of the sites that lose units alone; with all others after the first cut; or with those that
stand in for what is dropped as a whole too."""
LARGEST, MOST_OUTPUTS = 2**24, 2**16
"""Weights and outputs of a layer that adds to no stream, above which it stays unchanged: those of a vocabulary."""


@dataclass(frozen=True, eq=False)
class Task:
    """One layer to refit."""

    name: str  # of its node
    linear: Linear | None  # the layer, None where its weights cannot be rewritten
    site: Site | None = None  # the site that loses units and whose projection it is, else None
    projection: Projection | None = None
    heads: tuple[int, ...] = ()  # present units of the site to keep
    kept: tuple[int, ...] | None = None  # remaining rows of the matrix, None for all
    run: Run | None = None  # the removed sublayers after it that it replaces, None for none
    only_stands_in: bool = False  # whether it is refitted only to replace them

    @property
    def site_index(self) -> int | None:
        """Index of the site, None for another layer."""
        return None if self.site is None else self.site.index

    def value_maps(self, shared: Collection[int]) -> tuple[Linear, ...]:
        """The layers that may compute the values of the site, likely ones first, without shared nodes."""
        if (
            self.site is None
            or not self.site.unit_cores
            or self.linear is None
            or len(self.site.projections) != 1
        ):
            return ()
        makers = reversed(feeders(self.linear.source))
        return tuple(item for item in makers if item.node.index not in shared and item.is_free)

    def obstacle(self) -> str | None:
        """Return why the layer has to stay unchanged."""
        if self.linear is None:
            return "its weights are stored in a form that cannot be rewritten"
        if self.linear.matrix.shared:
            return "its weights are shared with another node"
        if any(value.scope.parent is not None for value in (self.linear.source, self.linear.out)):
            return "it lives inside the body of a control-flow operator"
        weights, outputs = math.prod(self.linear.matrix.shape), self.linear.matrix.columns
        if self.linear.other is None and (weights > LARGEST or outputs > MOST_OUTPUTS):
            return f"it has {weights:,} weights and adds to no stream: too much for what it gains"
        return None


def attention_maps(sites: Sequence[Site]) -> Counter[int]:
    """Return how many projections read the attention that each layer feeds, by the index of its node."""
    found: Counter[int] = Counter()
    for site in sites:
        for projection in site.projections if site.unit_cores else ():
            context = projection.node.inputs[projection.activation[0]]
            found.update(item.node.index for item in (() if context is None else feeders(context)))
    return found


def tasks(
    view: GraphView,
    sites: Sequence[Site],
    heads: Mapping[int, Iterable[int]],
    attention: Container[int],
    which: Which = "all",
) -> list[Task]:
    """The layers to refit in graph order: those after the first cut, except in sites removed as a whole.

    Projections of the sites that lose units; every other layer that is not read by attention (refits of queries, keys
    and values to their old outputs have not paid off) and that outputs still depend on; and the layers before removed
    runs of sublayers, to replace these.
    """
    found: dict[int, Task] = {}
    gone = Emptied.by(view, sites, heads)
    for site in sites:
        units = set(heads.get(site.index, ()))
        for projection in site.contexts if units else ():
            if projection.node in gone.maps:
                continue
            kept = np.flatnonzero(projection.live_without(units).reshape(-1))
            left = tuple(unit for unit in range(site.num_units) if unit not in units)
            found[projection.node.index] = Task(
                projection.node.label, Linear.of(projection), site, projection, left, tuple(kept.tolist())
            )
    routers = (
        projection.node.index
        for site in sites
        if heads.get(site.index) and not site.contexts
        for projection in site.projections
    )
    first = min((*found, *routers, *(node.index for node in (*gone.maps, *gone.released))), default=None)
    if which == "own" or first is None:
        return [found[index] for index in sorted(found)]
    for node in view.main.nodes:
        at = node.index
        if at > first and at not in found and at not in attention and gone.spares(node):
            linear = Linear.at(node)
            if linear is not None:
                found[at] = Task(node.label, linear)
    for run in gone.runs(view) if which == "all" else ():
        at = run.front.node.index
        other = found.get(at)
        found[at] = replace(
            other or Task(run.front.node.label, run.front), run=run, only_stands_in=other is None
        )
    return [found[index] for index in sorted(found)]


def refittable(view: GraphView, sites: Sequence[Site], heads: Mapping[int, Iterable[int]]) -> frozenset[str]:
    """Names of all stored tensors that a refit of this cut may change.

    Weights and biases of the layers to refit, and of those that compute the values of the remaining heads.
    """
    readers = attention_maps(sites)
    todo = tasks(view, sites, heads, readers)
    # A site may have been refitted before it went as a whole, and its projection's bias stays.
    gone = [site for site in sites if len(set(heads.get(site.index, ()))) == site.num_units]
    todo += [Task(item.node.label, Linear.of(item)) for site in gone for item in site.projections]
    found: set[str] = set()
    for task in todo:
        if task.linear is None or task.obstacle() is not None:
            continue
        found.add(task.linear.matrix.stored.name)
        if task.linear.bias is not None:
            found.add(task.linear.bias.stored.name)
        if task.site is not None and len(task.site.projections) == 1:
            makers = (item for item in feeders(task.linear.source) if readers[item.node.index] < 2)
            found.update(item.matrix.stored.name for item in makers if item.is_free)
    return frozenset(found)


@dataclass(frozen=True, eq=False)
class Emptied:
    """Layers that are unused once sites are removed as a whole."""

    maps: Mapping[Node, Site]  # their last layers, which have no inputs left, with the site of each
    states: Mapping[State, Site]  # the states around removed layers, with these
    released: frozenset[Node]  # the nodes that nothing needs without these
    # the nodes that outputs still depend on; None where no site is removed as a whole
    alive: frozenset[Node] | None

    @classmethod
    def by(cls, view: GraphView, sites: Sequence[Site], heads: Mapping[int, Iterable[int]]) -> Emptied:
        """Return the layers that have no inputs left once some units are removed, and the nodes still in use."""
        losing = [(site, item) for site in sites if heads.get(site.index) for item in site.projections]
        gone = emptied((item, heads[site.index]) for site, item in losing)
        maps = {item.node: site for site, item in losing if item.node in gone}
        states = {state: site for site in sites if heads.get(site.index) for state in site.states}
        without = frozenset(released(states, ()))
        alive = None
        if maps or states:
            alive = frozenset(Flow(view).upstream(_outputs(view, maps.values()), {*maps, *without})) - without
        return cls(maps, states, without, alive)

    def spares(self, node: Node) -> bool:
        """Return whether a node is still in use."""
        return node not in self.maps and (self.alive is None or node in self.alive)

    def runs(self, view: GraphView) -> list[Run]:
        """Return the runs that a layer before them can replace."""
        writers = _writers(view, self.maps) if self.maps or self.states else {}
        joints = {linear.joint: linear for linear in writers.values() if linear.joint is not None}
        before = {
            linear: _before(linear.other, joints)
            for node, linear in writers.items()
            if node in self.maps and linear.other is not None
        }
        inner = {linear for linear in before.values() if linear is not None}
        found = []
        for last in sorted(before, key=lambda linear: linear.node.index):
            chain: list[Linear] = []
            at: Linear | None = last
            while at is not None and at in before:
                chain.append(at)
                at = before[at]
            # What cannot be written as zeros is not silent in the walk.
            spoilt = any(linear.matrix.shared for linear in chain)
            if at is not None:
                # Where a branch decides who runs, what goes must run whenever the front does.
                spoilt = spoilt or any(counts_where(item.node) != counts_where(at.node) for item in chain)
            if last in inner or at is None or spoilt or _is_read_between(view, at, last, self.maps):
                continue
            sites = (self.maps[linear.node] for linear in reversed(chain))
            found.append(
                Run(
                    at,
                    tuple(reversed(chain)),
                    tuple(dict.fromkeys(site.tag for site in sites)),
                )
            )
        found += self._over_layers(view, joints)
        return found

    def _over_layers(self, view: GraphView, joints: Mapping[Node, Linear]) -> Iterator[Run]:
        """Yield the runs of removed layers that follow each other, each with the layer that may replace it."""
        chains: list[list[State]] = []
        for state in sorted(self.states, key=lambda state: place_of(state.behind)):
            for chain in chains:
                if chain[-1].behind in (state.front, *state.front.sources):
                    chain.append(state)
                    break
            else:
                chains.append([state])
        for chain in chains:
            front = _before(chain[0].front, joints)
            if front is None or front.node in self.maps or front.node in self.released:
                continue
            stops = {*self.maps, *self.released, *(use.node for use in chain[-1].behind.consumers)}
            if front.node not in set(Flow(view).upstream(_outputs(view, self.maps.values()), stops)):
                keys = dict.fromkeys(self.states[state].tag for state in chain)
                skipped = tuple(Skipped(state.front, state.behind) for state in chain)
                yield Run(front, skipped, tuple(keys))


class Skipped(NamedTuple):
    """A removed layer: nothing is added to the state in front of it."""

    other: Value  # the state in front
    out: Value  # the state behind


@dataclass(frozen=True, eq=False)
class Run:
    """Consecutive removed sublayers, or layers."""

    front: Linear  # the last remaining layer before them that adds to the stream
    # the last layers of the removed sublayers, in the order in which they add to the stream; or the layers
    gone: tuple[Linear | Skipped, ...]
    keys: tuple[str, ...]  # keys of their sites in a spec

    @property
    def passed(self) -> tuple[Value, ...]:
        """The output of the layer before the run, and the other operands of the additions."""
        others = (linear.other for linear in (self.front, *self.gone))
        return (self.front.out, *(other for other in others if other is not None))

    @property
    def values(self) -> tuple[Value, ...]:
        """The same, and the stream after the run."""
        return (*self.passed, self.gone[-1].out)


def _writers(view: GraphView, maps: Mapping[Node, Site]) -> dict[Node, Linear]:
    """The layers that add to a stream, each by its own addition."""
    projections = {item.node: item for site in maps.values() for item in site.projections}
    found: dict[Node, Linear] = {}
    for node in view.main.nodes:
        linear = Linear.of(projections[node]) if node in projections else Linear.at(node)
        if linear is not None and linear.joint is not None:
            found[node] = linear
    joints = Counter(linear.joint for linear in found.values())
    return {node: linear for node, linear in found.items() if joints[linear.joint] == 1}


def _before(value: Value, joints: Mapping[Node, Linear]) -> Linear | None:
    """The layer whose addition computed a value of the stream, with no other layer in between."""
    found: set[Linear] = set()
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        node = value.producer
        if value in seen or value.is_constant:
            continue
        seen.add(value)
        if node is None or node.bodies:
            return None
        if node in joints:
            found.add(joints[node])
        elif Linear.at(node) is not None:
            return None
        else:
            waiting += contents_of(node)
    return found.pop() if len(found) == 1 else None


def _is_read_between(view: GraphView, front: Linear, last: Linear, maps: Mapping[Node, Site]) -> bool:
    """Return whether outputs depend on the front's addition other than through the stream after the run."""
    assert last.joint is not None
    stops = {*maps, last.joint}
    return front.node in set(Flow(view).upstream(_outputs(view, maps.values()), stops))


def _outputs(view: GraphView, sites: Iterable[Site]) -> list[Value]:
    """The graph's outputs except caches and attention maps of removed sites."""
    own = {value for site in sites for value in (*site.io, *site.maps)}
    return [value for value in view.main.values.values() if value.is_graph_output and value not in own]
