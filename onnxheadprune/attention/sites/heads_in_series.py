"""Heads in series: the context of one head is an input of another, through weights that sum over all of them.

Such weights read the context like an output projection, but their outputs are queries, keys or values, or are
multiplied with the context before the projection (squeeze and excite, a gate on the merged heads). A head silenced at
the projection would still act through other heads, a head silenced at its core would change them:
two different models, so neither is "the head removed".
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph.facts import ELEMENTWISE
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.graph.walks import reachable


def heads_in_series(block: Block) -> Refusal | None:
    """Return why removing one head of a block would change another one, None if it would not."""
    for projection in block.projections:
        for core in block.cores:
            if core.node.scope is projection.node.scope and _is_upstream(projection.node, core.node):
                return Refusal(
                    Reason.COUPLED,
                    core.node.label,
                    core.node.out.name,
                    f"the context of one head is also an input of another head, through {projection.node.label}",
                )
    for reader in block.projections if len(block.projections) > 1 else ():
        beside = list(_beside(reader, block))
        for projection in block.projections:
            if projection.node.scope is not reader.node.scope or projection is reader:
                continue
            for joint, node in beside:
                if _is_upstream(projection.node, node):
                    sentence = (
                        f"{joint.label} joins the context of each head with what {projection.node.label} computes"
                        " of all heads"
                    )
                    return Refusal(Reason.COUPLED, joint.label, joint.out.name, sentence)
    return None


def is_beside(node: Node, block: Block) -> bool:
    """Return whether a node is independent of the heads: no core reads it, and it reads no core.

    Its outputs may be weights of heads (a router, a softmax over gates). They are computed unchanged
    when a head is removed, and the weights of the remaining heads are picked from them.
    """
    cores = [core.node for core in block.cores]
    return all(core.scope is node.scope for core in cores) and not any(
        _is_upstream(node, core) or _is_upstream(core, node) for core in cores
    )


def _is_upstream(node: Node, of: Node) -> bool:
    """Return whether `of` is `node`, or depends on it."""

    def above(current: Node) -> list[Node]:
        return [producer for producer in current.producers if producer.index >= node.index]

    return node in reachable([of], above)


def _beside(reader: Projection, block: Block) -> Iterator[tuple[Node, Node]]:
    """Yield nodes that combine a value elementwise with the context before a projection, with the value's producer."""
    way = _way(reader, block)
    for node in sorted(way, key=lambda item: item.index):
        beside = [producer for producer in node.producers if producer not in way]
        yield from ((node, producer) for producer in (beside if node in ELEMENTWISE else ()))


def _way(reader: Projection, block: Block) -> frozenset[Node]:
    """The cores, and the nodes between them and a projection, except other projections."""
    cores = [core.node for core in block.cores]
    first, others = min(node.index for node in cores), {item.node for item in block.projections}
    start = reader.node.inputs[reader.activation[0]]

    def above(node: Node) -> list[Node]:
        return [] if node in cores or node in others or node.index < first else node.producers

    way = set(cores)
    makers = [] if start is None or start.producer is None else [start.producer]
    for node in sorted(reachable(makers, above), key=lambda item: item.index):
        if not way.isdisjoint(above(node)):
            way.add(node)
    return frozenset(way)
