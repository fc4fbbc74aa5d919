"""The model that stands for one with sites in bodies where numbers must be read: the same sites, in its main graph."""

from __future__ import annotations

from collections.abc import Iterator

from onnxheadprune.attention.exits.decisions import inside, layers_of
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.edit.both_branches import BRANCHES, with_both_branches
from onnxheadprune.edit.merged_models import flag_choices, with_answer
from onnxheadprune.errors import ModelError
from onnxheadprune.model.bodies import has_bodies
from onnxheadprune.model.graph.facts import CHOOSES
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel

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
    choices = [node for node in view.nodes if node in CHOOSES]
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
