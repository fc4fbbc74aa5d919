"""Runs of sublayers that go one behind the other, and the map in front of each that can stand in for it.

In a network with a residual stream every sublayer ends in a map that adds to it. If some of them go, what they added is
missing from there on, and the last map in front that adds to the same stream is the one that can bring it: nobody but
the run reads the stream in between (ReplaceMe, Shopkhoev et al. 2025). All of it is found by dataflow: which additions
the stream passes through, and who reads it on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.boundaries import Flow
from onnxheadprune.choosing.activations.linear import Linear, linear_at, linear_of
from onnxheadprune.edit.side_by_side import counts_where
from onnxheadprune.liveness.observers import contents_of
from onnxheadprune.model.graph.view import GraphView, Node, Value


@dataclass(frozen=True, eq=False)
class Run:
    """Sublayers that go one behind the other.

    Attributes:
        front: the map that stays and is the last in front to add to the stream.
        gone: the last maps of the sublayers that go, in the order in which they add to the stream.
        keys: how a spec names the sites of these.
    """

    front: Linear
    gone: tuple[Linear, ...]
    keys: tuple[str, ...]

    @property
    def passed(self) -> tuple[Value, ...]:
        """What tells how the stream goes from the front through the run once that is gone."""
        others = (linear.other for linear in (self.front, *self.gone))
        return (self.front.out, *(other for other in others if other is not None))

    @property
    def values(self) -> tuple[Value, ...]:
        """The same, and what tells how the stream was behind the run."""
        return (*self.passed, self.gone[-1].out)


@dataclass(frozen=True, eq=False)
class Emptied:
    """Layers that nobody reads when sites are removed as a whole.

    Attributes:
        maps: their last maps, which sum over nothing, with the site of each.
        alive: the nodes that outputs still depend on; None where no site goes as a whole.
    """

    maps: Mapping[Node, Site]
    alive: frozenset[Node] | None

    def spares(self, node: Node) -> bool:
        """Return whether a node still matters."""
        return node not in self.maps and (self.alive is None or node in self.alive)


def emptied(view: GraphView, sites: Sequence[Site], heads: Mapping[int, Iterable[int]]) -> Emptied:
    """The maps that sum over nothing once some units are gone, and what still matters behind that.

    Args:
        view: an annotated view of the original.
        sites: its sites.
        heads: present units that go, per site index.
    """
    maps = {
        projection.node: site
        for site in sites
        if (gone := set(heads.get(site.index, ())))
        for projection in site.projections
        if projection.is_emptied_by(gone)
    }
    alive = frozenset(Flow(view).upstream(_outputs(view, maps.values()), maps)) if maps else None
    return Emptied(maps, alive)


def runs(view: GraphView, gone: Emptied) -> list[Run]:
    """The runs that a map in front can stand in for."""
    writers = _writers(view, gone.maps) if gone.maps else {}
    joints = {linear.joint: linear for linear in writers.values() if linear.joint is not None}
    before = {
        linear: _before(linear.other, joints)
        for node, linear in writers.items()
        if node in gone.maps and linear.other is not None
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
        if last in inner or at is None or spoilt or _is_read_between(view, at, last, gone.maps):
            continue
        sites = (gone.maps[linear.node] for linear in reversed(chain))
        found.append(
            Run(at, tuple(reversed(chain)), tuple(dict.fromkeys(site.called(site.number) for site in sites)))
        )
    return found


def _writers(view: GraphView, maps: Mapping[Node, Site]) -> dict[Node, Linear]:
    """The maps that add to a stream, each by an addition of its own."""
    projections = {item.node: item for site in maps.values() for item in site.projections}
    found: dict[Node, Linear] = {}
    for node in view.main.nodes:
        linear = linear_of(projections[node]) if node in projections else linear_at(node)
        if linear is not None and linear.joint is not None:
            found[node] = linear
    joints = Counter(linear.joint for linear in found.values())
    return {node: linear for node, linear in found.items() if joints[linear.joint] == 1}


def _before(value: Value, joints: Mapping[Node, Linear]) -> Linear | None:
    """The one map by whose addition a value of the stream was made, with no other map in between."""
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
        elif linear_at(node) is not None:
            return None
        else:
            waiting += contents_of(node)
    return found.pop() if len(found) == 1 else None


def _is_read_between(view: GraphView, front: Linear, last: Linear, maps: Mapping[Node, Site]) -> bool:
    """Return whether outputs depend on what the front adds by another way than through the stream behind the run."""
    assert last.joint is not None
    stops = {*maps, last.joint}
    return front.node in set(Flow(view).upstream(_outputs(view, maps.values()), stops))


def _outputs(view: GraphView, sites: Iterable[Site]) -> list[Value]:
    """The graph's outputs but for those that belong to sites which go: their caches and maps."""
    own = {value for site in sites for value in (*site.free, *site.maps)}
    return [value for value in view.main.values.values() if value.is_graph_output and value not in own]
