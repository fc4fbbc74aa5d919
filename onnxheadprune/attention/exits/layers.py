"""The places of layers: in which bodies, and behind which choices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxheadprune.attention.exits.decisions import Settled, given_by
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.graph.walks import reachable

Layers = tuple[Node, ...]
"""The projections of all sites of one kind: a layer runs where they run."""


def layers_of(sites: Iterable[Site]) -> Layers:
    """The nodes that stand for the layers of these sites."""
    return tuple(projection.node for site in sites for projection in site.projections)


def inside(layers: Layers, body: Scope) -> int:
    """Return how many of the layers lie in a body, or in bodies inside of it."""
    return sum(1 for node in layers if body in node.scope.around)


def running(view: GraphView, settled: Settled) -> set[Node]:
    """The nodes that the outputs of a model need, where some conditions are known.

    Args:
        view: an annotated view of the model.
        settled: what is known; of an If whose condition is known only one body runs.
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


def reached_from(view: GraphView, starts: Sequence[Node]) -> Mapping[Node, int]:
    """Return which of some nodes each node depends on, as bits: bit `i` for `starts[i]`.

    A node depends on what it reads and on what its bodies read, and whatever is in a body on what its owner reads.
    """
    bits = {node: 1 << position for position, node in enumerate(starts)}
    values: dict[Value, int] = {}
    found: dict[Node, int] = {}

    def walk(scope: Scope, outside: int) -> int:
        """Notes all nodes of a scope; what its outputs and its nodes depend on together."""
        together = outside
        for value in scope.values.values():
            if value.is_graph_input:
                values[value] = outside
        for node in scope.nodes:
            read = 0
            for item in node.inputs:
                read |= values.get(item, 0) if item is not None else 0
            made = read
            for body in node.bodies.values():
                made |= walk(body, read)
            found[node] = made
            made |= bits.get(node, 0)
            for output in node.outputs:
                if output is not None:
                    values[output] = made
            together |= made
        return together

    walk(view.main, 0)
    return found
