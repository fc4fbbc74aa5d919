"""Generation operators, which run a decoder subgraph in a loop and pass its cache from step to step.

BeamSearch and similar operators have one head count for the caches of all layers, so all shrink equally or not at all.
The caches are inputs and outputs of a subgraph, never of the model, so the model's interface does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.model.graph.facts import GENERATES
from onnxheadprune.model.graph.view import Node, Value


def _generator_of(value: Value) -> Node | None:
    """The generation operator whose subgraph directly contains a value, None if there is none."""
    owner = value.scope.owner
    return owner if owner is not None and owner in GENERATES else None


def why_uneven(sites: Iterable[AttentionSite], heads: Mapping[int, Sequence[int]]) -> str | None:
    """Return why a generation operator could not run its decoder after the cut, None if all can."""
    inside: dict[Node, list[AttentionSite]] = {}
    for site in sites:
        owners = {owner for value in site.free if (owner := _generator_of(value)) is not None}
        for owner in owners:
            inside.setdefault(owner, []).append(site)
    for owner, group in inside.items():
        if not any(_shrinks(site, heads) for site in group):
            continue
        if "encoder" in owner.bodies:
            return (
                f"the cache that the encoder in {owner.label} makes for the decoder cannot be narrowed in both;"
                " prune the two models before they are put together"
            )
        found = _differing(group, heads)
        if found is not None:
            what = ", ".join(f"{left} in {site.label}" for site, left in found)
            return (
                f"{owner.label} has one head count for the caches of all layers, and {what} KV heads would be left;"
                " remove equally many everywhere"
            )
        stuck = _left_alone(owner, group)
        if stuck is not None:
            return (
                f"{owner.label} has one head count for the caches of all layers, and {stuck.name}, of attention that"
                " is gone, keeps its own; remove heads before whole layers"
            )
        if any(cut != cuts[0] for cuts in _by_cache(group, heads) for cut in cuts):
            return (
                f"the copies of the decoder in {owner.label} share their caches, so a layer must lose the same heads"
                " in each of them"
            )
    return None


def _left_alone(owner: Node, group: Sequence[AttentionSite]) -> Value | None:
    """A cache input of a generation operator's decoder that belongs to no remaining site."""
    known = {value for site in group for value in site.free}
    ranks = {value.rank for value in known}
    inputs = (
        value for body in owner.bodies.values() for value in body.values.values() if value.is_graph_input
    )
    caches = (value for value in inputs if not value.is_initializer and value.rank in ranks)
    return next((value for value in caches if value not in known), None)


def _shrinks(site: AttentionSite, heads: Mapping[int, Sequence[int]]) -> bool:
    """Return whether a site's cache gets narrower; that of a site removed as a whole stays unchanged."""
    return 0 < len(heads.get(site.index, ())) < site.num_heads and _kv_left(site, heads) < site.kv_num_heads


def _kv_left(site: AttentionSite, heads: Mapping[int, Sequence[int]]) -> int:
    gone = set(heads.get(site.index, ()))
    if len(gone) == site.num_heads:
        return site.kv_num_heads
    return sum(1 for group in site.groups if not set(group) <= gone)


def _differing(
    group: Sequence[AttentionSite], heads: Mapping[int, Sequence[int]]
) -> list[tuple[AttentionSite, int]] | None:
    """Two sites that keep different numbers of KV heads, with the numbers."""
    left = [(site, _kv_left(site, heads)) for site in group]
    other = next((item for item in left if item[1] != left[0][1]), None)
    return None if other is None else [left[0], other]


def _by_cache(
    group: Sequence[AttentionSite], heads: Mapping[int, Sequence[int]]
) -> list[list[tuple[int, ...]]]:
    """The cuts of sites at the same place of several copies of a decoder."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for site in group:
        places = [
            [info.name for info in value.scope.proto.output].index(value.name)
            for value in site.free
            if value.is_graph_output
        ]
        if places:
            found.setdefault(min(places), []).append(tuple(heads.get(site.index, ())))
    return list(found.values())
