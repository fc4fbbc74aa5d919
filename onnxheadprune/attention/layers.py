"""The layers of a model, as its own names number them; where those tell nothing, as its structure shows them.

By structure a layer begins at an attention and ends in front of the next one that follows a feed-forward block: two
attentions in a row (a decoder's own and that to its encoder) are one layer. What comes before the first attention (a
stem), behind the last feed-forward block (a head), or lies in a stretch without attention, is in no layer. Of a model
without any attention each feed-forward block is a layer.

Before a site of a layer is removed as a whole, the model's metadata specify which sites make which layer, so that
numbers always refer to the original model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from onnxheadprune.attention.layer_names import Layer, numbered_layers
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.attention.sites.whole import going_whole
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.layer_records import LAYERS_KEY, layers_text
from onnxheadprune.edit.ranges import spelled
from onnxheadprune.errors import RefusedError


def layers(sites: Sites) -> dict[str, Layer]:
    """Return what is left of the layers of a model, by the keys that they had in the original, in order.

    Args:
        sites: of the model. Of a pruned one its record decides; a site that the record does not know is in no layer.

    Raises:
        RefusedError: if only a record of the former numbering tells the layers.
    """
    ordered = sorted(sites.every, key=lambda site: _place(site, sites))
    ordered = [site for site in ordered if site.LAYER]
    begins = any(site.LAYER == "begin" for site in ordered)
    if not begins:
        ordered = [site for site in ordered if site.is_branch]
    numbered = numbered_layers(ordered)
    if sites.layered:
        there = {site.key: site for site in ordered}
        names = {site.key: layer.name for layer in numbered for site in layer.sites}
        recorded = (
            (key, [there[own] for own in keys if own in there]) for key, keys in sites.layered.items()
        )
        return {key: Layer(key, names.get(own[0].key, ""), tuple(own)) for key, own in recorded if own}
    if not numbered and sites.layered is None:
        raise RefusedError(
            "an earlier version of this tool removed layers of this file, which it numbered otherwise, and no name in"
            " the file tells the number of a layer; remove its sites by their own keys, which `inspect`"
            " lists, or prune the original model again"
        )
    found = numbered or [
        Layer(str(number), "", tuple(own)) for number, own in enumerate(_by_structure(ordered, sites, begins))
    ]
    return {layer.key: layer for layer in found}


def layers_kept(sites: Sites, removed: Iterable[Site]) -> list[SetMetadata]:
    """Return the record of the layers of the original; nothing if it is there, or no layer loses a site.

    Args:
        sites: of the model.
        removed: those that are removed as a whole.
    """
    whole = set(removed)
    if not whole or sites.layered or sites.layered is None:
        return []
    found = layers(sites)
    if all(whole.isdisjoint(layer.sites) for layer in found.values()):
        return []
    keys = {key: [site.key for site in layer.sites] for key, layer in found.items()}
    return [SetMetadata(LAYERS_KEY, layers_text(keys))]


def parts_named(sites: Sites, units: Mapping[int, tuple[int, ...]]) -> tuple[str, ...]:
    """Return what a cut removes as people name it: whole layers, whole sublayers, and units of others.

    >>> parts_named(sites, units)  # doctest: +SKIP
    ('layer.3', 'attn.0:1,3', 'ffn.0:0-63', 'ffn.1')

    Args:
        sites: of the model.
        units: present units that are removed, per site index.
    """
    whole = set(going_whole(sites, units))
    try:
        found = layers(sites).values() if whole else ()
    except RefusedError:
        found = ()
    gone = [layer for layer in found if len(layer.sites) > 1 and whole.issuperset(layer.removed)]
    inside = {site for layer in gone for site in layer.removed}
    return (
        *(f"layer.{layer.key}" for layer in gone),
        *(
            site.called(site.number)
            + ("" if site in whole else f":{spelled(site.original(units[site.index]))}")
            for site in sites.losing(units)
            if site not in inside
        ),
    )


def _by_structure(ordered: Sequence[Site], sites: Sites, begins: bool) -> Iterator[list[Site]]:
    """Yield the sites of each layer.

    Args:
        ordered: the sites of the model in graph order.
        sites: the same, with their places.
        begins: whether the model has sites that a layer begins with; else each is a layer.
    """
    for _, stretch in groupby(ordered, lambda site: _place(site, sites)[0]):
        some = list(stretch)
        # Attentions in a row are one layer only where blocks tell where layers end.
        blocks = any(site.LAYER != "begin" for site in some)
        layer: list[Site] = []
        for site in some:
            begin = not begins or site.LAYER == "begin"
            if begin and layer and (not begins or not blocks or layer[-1].LAYER != "begin"):
                yield layer
                layer = []
            if begin or layer:
                layer.append(site)
        while layer and not layer[-1].is_branch:
            layer.pop()
        if layer:
            yield layer


def _place(site: Site, sites: Sites) -> tuple[int, ...]:
    """Return the stretch of the model that a site is in, and where it is there."""
    return sites.places.get(site.index) or (0, min(item.node.index for item in site.projections))
