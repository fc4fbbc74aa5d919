"""The sites of a merged model where numbers can be read: in the model that one answer of its flag leaves."""

from __future__ import annotations

from collections.abc import Iterator

from onnxheadprune.attention.analysis import Analysis, analysis_of
from onnxheadprune.attention.sites.site import AttentionSite, Sites
from onnxheadprune.edit.branches import BRANCHES, answered, asking
from onnxheadprune.model.bodies import has_bodies
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel

FIRST_TOKENS = False
"""The answer for tokens that come before there is a cache: `use_cache_branch` is false."""


def branch(view: GraphView, sites: Sites, answer: bool) -> Analysis | None:
    """The model that one answer of the flag leaves, if its sites are those of the whole.

    Returns:
        The model with its sites, which have the numbers that they have in the whole; None where the model asks no flag,
        or some of its sites are not in that branch.
    """
    made = answered(view, answer)
    if made is None:
        return None
    found = analysis_of(LoadedModel(made, sites.model, view.sources))
    refs = {f"{node.ref}.{BRANCHES[answer]}" for node in asking(view)}
    alike = len(found.sites.sites) == len(sites.sites) and all(
        _names(whole, refs) == set(part.projection_names)
        for whole, part in zip(sites.sites, found.sites.sites, strict=True)
    )
    return found if alike else None


def first_tokens(loaded: LoadedModel) -> LoadedModel | None:
    """Of a merged decoder the model for the first tokens, with the sites of the whole; None for any other model.

    Raises:
        ModelError: if the graph is not valid.
    """
    if not has_bodies(loaded.proto):
        return None
    analysis = analysis_of(loaded)
    found = branch(analysis.view, analysis.sites, FIRST_TOKENS)
    return None if found is None else loaded.changed(found.model)


def branches(view: GraphView, sites: Sites) -> Iterator[Analysis]:
    """The models that the answers of the flag leave; none for a model without one."""
    for answer in BRANCHES:
        found = branch(view, sites, answer)
        if found is not None:
            yield found


def _names(site: AttentionSite, refs: set[str]) -> set[str]:
    """Return what the projections of a site give in the branches with these references."""
    return {projection.node.out.name for projection in site.projections if projection.node.scope.ref in refs}
