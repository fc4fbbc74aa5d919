"""Clients that know one number of KV heads for all layers: whether a cut has one, and the nearest that has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnxheadprune.attention.sites.kinds import called
from onnxheadprune.deploying.clients.contract import CachedSite, Deployment
from onnxheadprune.errors import RefusedError


def even_heads(cut: Deployment, client: str) -> tuple[int, int]:
    """The KV heads that every cached layer has after a cut, and the size of one.

    Args:
        cut: the folder and the cut; some cache gets narrower.
        client: how to call the client in errors.

    Raises:
        RefusedError: if layers would have different numbers, with the nearest set of heads that has one.
    """
    staying = [site for site in cut.sites if not site.leaves]
    counts = {site.after for site in staying}
    sizes = {site.head_size for site in staying}
    if len(counts) == 1 and len(sizes) == 1:
        return counts.pop(), sizes.pop()
    layers = sorted(Counter(site.after for site in staying).items())
    told = ", ".join(f"{heads} in {many} {'layer' if many == 1 else 'layers'}" for heads, many in layers)
    keep = "--cache keep leaves the caches as they are, and any set of heads may go then"
    if len(sizes) > 1:
        raise RefusedError(
            f"{client} takes one size of heads for the caches of all layers, and here they differ; {keep}"
        )
    nearest = _nearest(staying)
    better = f'; the nearest set that it can is --heads "{nearest}"' if nearest else ""
    raise RefusedError(
        f"{client} cannot say this cut: it takes one number of KV heads for all layers, and the caches would have"
        f" {told}{better}; {keep}"
    )


def _nearest(sites: Sequence[CachedSite]) -> str:
    """A head spec that takes equally many KV heads from every cached layer, as near as possible to what was asked.

    Empty where layers start with different numbers of KV heads.
    """
    if len({site.before for site in sites}) > 1 or any(not site.groups for site in sites):
        return ""
    total = sum(site.before - site.after for site in sites)
    count = max(1, min(round(total / len(sites)), sites[0].before - 1))
    words = []
    for site in sites:
        others = [position for position in range(len(site.groups)) if position not in site.gone]
        chosen = sorted([*site.gone, *others][:count])
        heads = sorted(head for position in chosen for head in site.groups[position])
        words.append(f"{called(site.index)}:{','.join(map(str, heads))}")
    return " ".join(words)
