"""The layers of a model: each feed-forward block, and the attention between it and the one before.

Layers are counted by what ends them, so one that goes would shift those behind it. Before the first of them goes, the
model's metadata say which sites make which layer, and the numbers are those of the original for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.layer_records import LAYERS_KEY, layers_text


def layers(sites: Sites) -> dict[int, tuple[Site, ...]]:
    """What is left of the layers of a model, by the numbers that they had in the original.

    Args:
        sites: of the model. Attention behind the last block, of the model or of a stretch of it, is a layer of its own.
            Sites that its record does not know make layers behind those that it knows.
    """
    there = {site.key: site for site in sites.every}
    found = [tuple(there[key] for key in keys if key in there) for keys in sites.layered]
    known = set(chain.from_iterable(sites.layered))
    found += _counted((site for site in sites.every if site.key not in known), sites)
    return {number: layer for number, layer in enumerate(found) if layer}


def layers_kept(sites: Sites, gone: Iterable[Site]) -> list[SetMetadata]:
    """What the pruned model will say of its layers; nothing if it does so already, or they count as they did.

    Args:
        sites: of the model.
        gone: those that go as a whole.
    """
    if sites.layered or all(site.LAYER != "end" for site in gone):
        return []
    keys = [[site.key for site in layer] for layer in _counted(sites.every, sites)]
    return [SetMetadata(LAYERS_KEY, layers_text(keys))]


def _counted(some: Iterable[Site], sites: Sites) -> list[tuple[Site, ...]]:
    """Layers as these sites follow each other in the graph."""
    found: list[tuple[Site, ...]] = []
    waiting: list[Site] = []
    stretch = 0
    for (number, *_), site in sorted(((_place(site, sites), site) for site in some), key=_first):
        if number != stretch and waiting:
            found.append(tuple(waiting))
            waiting = []
        stretch = number
        if site.LAYER:
            waiting.append(site)
        if site.LAYER == "end":
            found.append(tuple(waiting))
            waiting = []
    return [*found, tuple(waiting)] if waiting else found


def _first(item: tuple[tuple[int, ...], Site]) -> tuple[int, ...]:
    return item[0]


def _place(site: Site, sites: Sites) -> tuple[int, ...]:
    """The stretch of the model that a site is in, and where it is there."""
    return sites.places.get(site.index) or (0, min(item.node.index for item in site.projections))
