"""The reference of removed layers: the original in which all that reads the state behind one reads the one in front.

It works on names and protos alone, and so shares nothing with the edits of a cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto

from onnxheadprune.attention.sites.states import State, is_sum, place_of
from onnxheadprune.edit import nodes
from onnxheadprune.edit.submodel import needed_nodes
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.messages import replace_all

SKIP = 1
"""The input of an operator that adds and normalizes which a state alone lacks."""


def shorten(graphs: Mapping[State, GraphProto]) -> None:
    """Make layers the identity, in place.

    Args:
        graphs: the graphs of a copy of the viewed model, by the states around layers in them.
    """
    # From behind: a state in front that is removed with another layer is replaced in turn.
    for state in sorted(graphs, key=lambda state: -place_of(state.behind)):
        graph, front, behind = graphs[state], state.front.name, state.behind.name
        place = next(place for place, node in enumerate(graph.node) if behind in node.output)
        for node in nodes_in(graph.node):
            for index, name in enumerate(node.input):
                if name == behind:
                    node.input[index] = front
        maker = graph.node[place]
        made = []
        if state.behind.producer is not None and is_sum(state.behind):
            zeros = f"{behind}/onnxheadprune_zeros"
            maker.input[0], maker.input[SKIP] = front, zeros
            bias = roles_of(state.behind.producer).learned[-1]
            if len(maker.input) > bias:
                maker.input[bias] = ""
            made.append(nodes.as_proto(nodes.subtract("", front, front, zeros)))
        if any(info.name == behind for info in graph.output):
            maker.output[list(maker.output).index(behind)] = f"{behind}/onnxheadprune_before"
            made.append(nodes.as_proto(nodes.same("", front, behind)))
        for node in made:
            graph.node.insert(place, node)
    # A node that nothing reads would keep ONNX Runtime from fusing others.
    for graph in {id(graph): graph for graph in graphs.values()}.values():
        needed, _ = needed_nodes(graph, [info.name for info in graph.output])
        replace_all(graph.node, needed)
