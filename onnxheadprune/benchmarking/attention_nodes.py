"""Which nodes heads run through: what a cut of heads can save at most."""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.liveness.sweep import sweep


def attention_nodes(model: ModelProto) -> frozenset[str] | None:
    """References (`Node.ref`) of all nodes that work on single heads, None where the sites cannot be told.

    These are the projections of Q, K and V, the scores, the contexts and the output projections. They are found
    by a trial removal of one group of heads per site.
    """
    try:
        sites = sites_of(view_of(model), "the model")
    except HeadPruneError:
        return None
    if not sites:
        return None
    seeds = [seed for site in sites for seed in site.seeds(site.groups[0])]
    found = {node.ref for node in sweep(seeds).answers}
    for site in sites:
        found |= {projection.node.ref for projection in site.projections}
        found |= {core.ref for core in site.cores}
    return frozenset(found)
