"""The seeds of a sweep, and its result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.carriers import passes_on
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.graph.view import Node, Use, Value


@dataclass(frozen=True)
class Seed:
    """A first demand: input `index` of `node` needs only `live`, because `site` says so."""

    node: Node
    index: int
    live: Live
    site: str


@dataclass
class Sweep:
    """The result of a sweep."""

    # live indices per edge `(node index, input index)`; edges not listed are fully live
    edges: dict[tuple[int, int], Live] = field(default_factory=dict)
    kept: dict[Value, Live] = field(default_factory=dict)  # what each reached value keeps
    # the answers of visited nodes whose outputs are narrowed
    answers: dict[Node, Answer] = field(default_factory=dict)
    refusals: dict[Node, Refusal] = field(default_factory=dict)  # where liveness stopped
    asked: dict[Node, frozenset[str]] = field(default_factory=dict)  # the sites that reached a node
    # values on narrowed edges, in the order they were met
    reached: dict[Value, None] = field(default_factory=dict)
    # demands of nodes with subgraphs on the outputs of these
    body_outputs: dict[Value, Live] = field(default_factory=dict)

    def edge(self, use: Use) -> Live:
        """Return the demand of one consumer."""
        return self.edges.get((use.node.index, use.input_index), FULL)

    def narrowed(self) -> Iterable[tuple[Value, Live]]:
        """Reached values that keep less than everything."""
        return ((value, live) for value, live in self.kept.items() if not live.is_full)


def observes(use: Use, sweep: Sweep) -> bool:
    """Return whether a consumer needs no contents: it reads the shape, or only passes the value on."""
    if (use.node.index, use.input_index) in sweep.edges:
        return False
    # A carrier that was refused, or that stays whole, is a consumer like any other.
    kept = sweep.kept.get(use.node.out, FULL) if passes_on(use.node) else FULL
    return looks_only(use) or (not kept.is_full and use.node not in sweep.answers)
