"""The nodes that units run through: whose operations are those of attention, or of a layer."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto

from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.operators import view_of


def attention_nodes(model: ModelProto) -> frozenset[str] | None:
    """References (`Node.ref`) of all nodes that work on single heads, None where the sites cannot be told.

    These are the projections of Q, K and V, the scores, the contexts and the output projections.
    """
    try:
        sites = sites_of(view_of(model), "the model")
    except HeadPruneError:
        return None
    if not sites:
        return None
    return nodes_of(sites)


def nodes_of(sites: Iterable[Site]) -> frozenset[str]:
    """Return the references (`Node.ref`) of all nodes that work on single units of some sites.

    They are found by a trial removal of one group of units per site.
    """
    some = list(sites)
    found = {
        node.ref for node in sweep([seed for site in some for seed in site.seeds(site.groups[0])]).answers
    }
    for site in some:
        found |= {projection.node.ref for projection in site.projections}
        found |= {core.ref for core in site.cores}
    return frozenset(found)
