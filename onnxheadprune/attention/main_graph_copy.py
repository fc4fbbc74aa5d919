"""Other forms of a model: with sites of bodies in its main graph, to read numbers, and with switches of layers.

A stored switch chooses between the state behind a layer and the one in front of it. In this form what removes layers is
another content of stored tensors, as everything else is that a refit compares with the original; the places of its
nodes are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from onnx import GraphProto, numpy_helper

from onnxheadprune.attention.exits import inside, layers_of
from onnxheadprune.attention.masking import graph_at
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.states import State, is_sum, learned_of_norm, place_of
from onnxheadprune.edit import nodes
from onnxheadprune.edit.bodies import BRANCHES, flag_choices, with_answer, with_both_branches
from onnxheadprune.errors import ModelError, RefusedError
from onnxheadprune.model.bodies import has_bodies
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.runtime import Array

FIRST_TOKENS = False
"""The answer for tokens that come before there is a cache: `use_cache_branch` is false."""


def branch_analysis(view: GraphView, sites: Sites, answer: bool) -> Analysis | None:
    """The model that one answer of the flag leaves, if its sites are those of the whole.

    The model with its sites, which have the numbers that they have in the whole; None where the model asks no flag, or
    some of its sites are not in that branch.
    """
    made = with_answer(view, answer)
    if made is None:
        return None
    found = analysis_of(LoadedModel(made, sites.model, view.sources))
    refs = {f"{node.ref}.{BRANCHES[answer]}" for node in flag_choices(view)}
    alike = len(found.sites.sites) == len(sites.sites) and all(
        {item.node.out.name for item in whole.projections if item.node.scope.ref in refs}
        == set(part.projection_names)
        for whole, part in zip(sites.sites, found.sites.sites, strict=True)
    )
    return found if alike else None


def first_tokens(loaded: LoadedModel) -> LoadedModel | None:
    """Of a merged decoder the model for the first tokens, with the sites of the whole; None for any other model."""
    if not has_bodies(loaded.proto):
        return None
    analysis = analysis_of(loaded)
    found = branch_analysis(analysis.view, analysis.sites, FIRST_TOKENS)
    return None if found is None else loaded.changed(found.model)


def branch_analyses(view: GraphView, sites: Sites) -> Iterator[Analysis]:
    """The models that the answers of the flag leave; none for a model without one."""
    for answer in BRANCHES:
        found = branch_analysis(view, sites, answer)
        if found is not None:
            yield found


def main_graph_copy(loaded: LoadedModel) -> LoadedModel | None:
    """Of a model with sites in the bodies of Ifs one with the same sites in its main graph; None for any other model.

    Of a merged decoder that is the model for the first tokens. Where only one of two bodies holds layers (an early
    exit, a layer that may be skipped), both are run, and the condition picks what they give.
    """
    if not has_bodies(loaded.proto):
        return None
    first = first_tokens(loaded)
    if first is not None:
        return first
    analysis = analysis_of(loaded)
    found = _unfolded(analysis.view, analysis.sites)
    return None if found is None else loaded.changed(found.model)


def _unfolded(view: GraphView, sites: Sites) -> Analysis | None:
    """The model in which both bodies of each If run that may skip layers, if its sites are those of the whole."""
    choices = [node for node in view.nodes if is_a(node, "If")]
    if not choices:
        return None
    layers = layers_of(sites.known)
    nodes = [node for node in choices if sum(1 for body in node.bodies.values() if inside(layers, body)) == 1]
    made = with_both_branches(view, nodes) if nodes else None
    if made is None:
        return None
    try:
        found = analysis_of(LoadedModel(made, sites.model, view.sources))
        return found if _names(found.sites) == _names(sites) else None
    except ModelError:
        # Its record speaks of sites by names that two bodies share.
        return None


def others(view: GraphView, sites: Sites) -> Iterator[Analysis]:
    """The other forms of a model that a refit may have been computed on."""
    yield from branch_analyses(view, sites)
    found = _unfolded(view, sites)
    if found is not None:
        yield found


def _names(sites: Sites) -> list[tuple[int, tuple[str, ...]]]:
    return [(site.index, site.projection_names) for site in sites.known if site.projections]


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
        _with_switch(graph_at(made, state.behind.scope), state)
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


def _with_switch(graph: GraphProto, state: State) -> None:
    front, behind = state.front.name, state.behind.name
    node = state.behind.producer
    assert node is not None
    maker = graph.node[node.position]
    graph.initializer.append(numpy_helper.from_array(np.array(True), f"{behind}{ON}"))
    choice = nodes.new("", "Where", (f"{behind}{ON}", f"{behind}{MADE}", front), behind)
    after = [nodes.as_proto(choice, node.scope.opset)]
    if is_sum(state.behind):
        # The norm that is computed with the sum reads the state that is chosen.
        norm = maker.output[0]
        maker.output[0] = f"{norm}{MADE}"
        learned = [value.name for index in learned_of_norm(node) if (value := node.input(index)) is not None]
        after.append(nodes.as_proto(nodes.normalized("", node, behind, learned, norm), node.scope.opset))
    maker.output[state.behind.output_index] = f"{behind}{MADE}"
    for new in reversed(after):
        graph.node.insert(node.position + 1, new)
