"""Sites whose contexts others read without a projection: their heads can go where these others go in the same cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from onnxheadprune.attention.cut_edits import loses_all
from onnxheadprune.attention.head_specs import HeadSpec
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.unit_specs import resolve_units
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.view import Value


def with_readers(spec: HeadSpec, sites: Sites) -> Sites:
    """The sites, without the reasons of those whose contexts nobody needs any more once all of a spec is gone."""
    if not any(site.read_elsewhere for site in sites):
        return sites
    allowed = _where(sites, lambda site: site.read_elsewhere)
    chosen = resolve_units(spec, allowed)
    gone = {site.index: site.present(chosen[site.index]) for site in allowed.losing(chosen)}
    losing = {site.index: site for site in allowed.losing(gone)}
    free = frozenset[Value]().union(*(site.movable for site in losing.values() if not loses_all(site, gone)))
    walk = sweep([seed for site in losing.values() for seed in site.seeds(gone[site.index])], free)

    def is_free(site: AttentionSite) -> bool:
        return site.read_elsewhere and site.index in losing and _is_free(site, gone[site.index], walk)

    return _where(sites, is_free)


def _where(sites: Sites, condition: Callable[[AttentionSite], bool]) -> Sites:
    """The sites, without the reasons of those that fulfil a condition."""
    return replace(
        sites, sites=tuple(replace(site, reason=None) if condition(site) else site for site in sites.sites)
    )


def _is_free(site: AttentionSite, gone: Sequence[int], walk: Sweep) -> bool:
    """Return whether no reader needs the removed heads: the contexts keep exactly the remaining heads."""
    masks = [walk.kept.get(core.out, FULL).mask for core in site.cores]
    left = sum(Fraction(int(np.count_nonzero(mask)), mask.size) for mask in masks) / len(masks)
    return left == Fraction(site.num_heads - len(gone), site.num_heads)
