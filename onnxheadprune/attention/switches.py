"""Layers with a switch: a stored number chooses between the state behind a layer and the one in front of it.

In this form of a model, what removes layers is another content of stored tensors, as everything else is that a refit
compares with the original; the places of its nodes are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from onnx import GraphProto, numpy_helper

from onnxheadprune.attention.masking import graph_at
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.states import State, is_sum, learned_of_norm, place_of
from onnxheadprune.edit import nodes
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.runtime import Array

ON = "/onnxheadprune_on"
"""The end of the name of a switch."""
MADE = "/onnxheadprune_made"
"""The end of the name of what a layer computes, which is the state behind it while its switch is on."""


def with_switches(view: GraphView, sites: Sequence[Site]) -> tuple[GraphView, tuple[Site, ...]]:
    """A model whose layers among some sites have switches, all of them on, and these sites of it.

    Without layers, both are what they were. Sites that this form does not have are left out.
    """
    layers = [site for site in sites if site.states]
    if not layers:
        return view, tuple(sites)
    made = copied(view.model)
    states = [state for layer in layers for state in layer.states]
    if any(state.behind.scope.parent is not None for state in states):
        raise RefusedError("layers inside the body of a control-flow operator are removed without a refit")
    # From behind, so that the places of those in front stay.
    for state in sorted(states, key=lambda state: -place_of(state.behind)):
        _switch(graph_at(made, state.behind.scope), state)
    analysis = analysis_of(LoadedModel(made, "the model", view.sources))
    values = {value.name: value for value in analysis.view.main.values.values()}
    # Switches may end what is a site without them, so numbers tell nothing.
    found = {_outline(site): site for site in analysis.sites.known}
    moved: list[Site] = []
    for site in sites:
        if site.states:
            pairs = ((values[item.front.name], values[f"{item.behind.name}{MADE}"]) for item in site.states)
            moved.append(replace(site, states=tuple(State(*pair) for pair in pairs)))
        elif (other := found.get(_outline(site))) is not None:
            moved.append(replace(other, index=site.index))
    return analysis.view, tuple(moved)


def _outline(site: Site) -> tuple[object, ...]:
    """The kind, number of units and projections of a site, by which it is recognized with and without switches."""
    return site.KIND.units, site.num_units, *(name.removesuffix(MADE) for name in site.projection_names)


def choices(site: Site) -> Iterator[Node]:
    """Yield the nodes that choose between what a layer with switches computes and the state in front of it."""
    yield from (use.node for state in site.states for use in state.behind.consumers)


def off(site: Site) -> dict[str, Array]:
    """Return the contents of the switches that make a layer the identity."""
    return {f"{state.behind.name.removesuffix(MADE)}{ON}": np.array(False) for state in site.states}


def _switch(graph: GraphProto, state: State) -> None:
    front, behind = state.front.name, state.behind.name
    node = state.behind.producer
    assert node is not None
    maker = graph.node[node.position]
    graph.initializer.append(numpy_helper.from_array(np.array(True), f"{behind}{ON}"))
    choice = nodes.choose("", f"{behind}{ON}", f"{behind}{MADE}", front, behind)
    after = nodes.as_protos(choice, node.scope.opset)
    if is_sum(state.behind):
        # The norm that is computed with the sum reads the state that is chosen.
        norm = maker.output[0]
        maker.output[0] = f"{norm}{MADE}"
        learned = [value.name for index in learned_of_norm(node) if (value := node.input(index)) is not None]
        after += nodes.as_protos(nodes.normalized("", node, behind, learned, norm), node.scope.opset)
    maker.output[state.behind.output_index] = f"{behind}{MADE}"
    for new in reversed(after):
        graph.node.insert(node.position + 1, new)
