"""Heads in a row: the context of one head is an input of another, through weights that sum over all of them.

Such weights read the context like an output projection. But what they make goes into queries, keys or values, or is
multiplied with the context on its way to the projection (squeeze and excite, a gate on the merged heads). One that is
silent at the projection alone would still speak through the others, one that is silent at its core would change them:
two different models, so none of them is "the head removed".
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.unit import Projection
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.model.graph.facts import ELEMENTWISE
from onnxheadprune.model.graph.view import Node, Value


def cascade(block: Block) -> Refusal | None:
    """Why one head of a block cannot go without another one noticing, None if it can."""
    for projection in block.projections:
        for core in block.cores:
            if core.node.scope is projection.node.scope and _is_upstream(projection.node, core.node):
                return _refusal(projection, core.node)
    for reader in block.projections if len(block.projections) > 1 else ():
        beside = [producer for value in _beside(reader, block) if (producer := value.producer) is not None]
        for projection in block.projections:
            if projection.node.scope is not reader.node.scope or projection is reader:
                continue
            if any(_is_upstream(projection.node, node) for node in beside):
                return _refusal(projection, block.cores[0].node)
    return None


def is_beside(node: Node, block: Block) -> bool:
    """Whether a node has no part in the heads: no core reads it, and it reads no core.

    What it makes of the stream may weigh heads against each other (a router, a softmax over gates). That stays as it
    is when a head goes, and the weights of those that are left are picked from it.
    """
    cores = [core.node for core in block.cores]
    return all(core.scope is node.scope for core in cores) and not any(
        _is_upstream(node, core) or _is_upstream(core, node) for core in cores
    )


def _refusal(projection: Projection, core: Node) -> Refusal:
    sentence = f"the context of one head is also an input of another head, through {projection.node.label}"
    return Refusal(Reason.COUPLED, core.label, core.out.name, sentence)


def _is_upstream(node: Node, of: Node) -> bool:
    """Whether `of` is `node`, or reads something that it made."""
    stack, seen = [of], {of}
    while stack:
        current = stack.pop()
        if current is node:
            return True
        for producer in _producers(current):
            if producer not in seen and producer.index >= node.index:
                seen.add(producer)
                stack.append(producer)
    return False


def _beside(reader: Projection, block: Block) -> Iterator[Value]:
    """What meets the context, element by element, on its way to a projection."""
    way = _way(reader, block)
    for node in way:
        if node in ELEMENTWISE:
            yield from (value for value in node.inputs if value is not None and value.producer not in way)


def _way(reader: Projection, block: Block) -> frozenset[Node]:
    """The cores, and the nodes between them and a projection, other projections left out."""
    cores = [core.node for core in block.cores]
    first, others = min(node.index for node in cores), {item.node for item in block.projections}
    leads: dict[Node, bool] = dict.fromkeys(cores, True)
    start = reader.node.inputs[reader.activation[0]]
    stack = [start.producer] if start is not None and start.producer is not None else []
    while stack:
        node = stack[-1]
        ahead = [] if node in others or node.index < first else list(_producers(node))
        missing = [producer for producer in ahead if producer not in leads]
        if node not in leads and missing:
            stack += missing
            continue
        stack.pop()
        leads.setdefault(node, any(leads[producer] for producer in ahead))
    return frozenset(node for node, is_on_it in leads.items() if is_on_it)


def _producers(node: Node) -> Iterator[Node]:
    return (value.producer for value in node.inputs if value is not None and value.producer is not None)
