"""The nodes and layers that run where some conditions are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxheadprune.attention.exits.decisions import Settled, given_by
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.graph.walks import reachable

Layers = tuple[Node, ...]
"""The projections of all sites of one kind: a layer runs where they run."""


def layers_of(sites: Iterable[Site]) -> Layers:
    """The nodes that stand for the layers of these sites."""
    return tuple(projection.node for site in sites for projection in site.projections)


def inside(layers: Layers, body: Scope) -> int:
    """Return the number of layers in a body, including nested bodies."""
    return sum(1 for node in layers if body in node.scope.around)


def running(view: GraphView, settled: Settled) -> set[Node]:
    """The nodes that the outputs of a model need, where some conditions are known.

    Args:
        settled: the known conditions; of an If with a known condition only one body runs.
    """

    def needed(value: Value | None) -> Iterator[Value | None]:
        node = None if value is None or value in settled.known else value.producer
        if value is None or node is None:
            return
        chosen = settled.choices.get(node)
        if chosen is not None:
            yield from given_by([chosen], value.output_index)
            return
        yield from node.inputs
        for body in node.bodies.values():
            yield from (body.lookup(info.name) for info in body.proto.output)

    outputs = [view.main.lookup(info.name) for info in view.main.proto.output]
    values = (value for value in reachable(outputs, needed) if value not in settled.known)
    return {value.producer for value in values if value is not None and value.producer is not None}
