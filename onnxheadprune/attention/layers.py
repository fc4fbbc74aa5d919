"""The layers of a model, as its own names number them; where those tell nothing, as its structure shows them.

By structure a layer begins at an attention and ends before the next one that follows a feed-forward block: two
attentions in a row (a decoder's own and that to its encoder) are one layer. What comes before the first attention (a
stem), after the last feed-forward block (a head), or lies in a stretch without attention, is in no layer. Of a model
without any attention each feed-forward block is a layer.

Before a site of a layer is removed as a whole, the model's metadata specify which sites make which layer, so that
numbers always refer to the original model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

from onnxheadprune.attention.cut_edits import going_whole
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.model_records import LAYERS_ENTRY, LAYERS_KEY
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.spelling import spelled

Stack: TypeAlias = tuple[str, ...]
"""The module path that layers have in common, without their numbers: ("encoder", "layers")."""

SPOKEN = ("layer", "layers", "h", "block", "blocks")
"""Names of stacks whose numbers count layers, also where each layer holds a single residual branch."""
_NUMBERED = re.compile(r"(.*?)[._-]*(\d{1,4})")
_REPEATED = re.compile(r"#\d+$")
"""The running number of sites with equal names."""
_UNSAFE = re.compile(r"[\s:*,]+")
"""Characters that separate the parts of a spec, and so cannot be in the key of a layer."""


class _Place(NamedTuple):
    """One number in a module path: the stack that it counts in, the number, and the path up to it."""

    stack: Stack
    number: int
    path: Stack

    @property
    def shape(self) -> Stack:
        """The stack without the numbers in its path: the stages of a pyramid are alike."""
        return tuple("*" if part.isdecimal() else part for part in self.stack)


@dataclass(frozen=True)
class Layer:
    """Sites that are one layer of a model.

    Attributes:
        key: its number, after the name of its stack where a model has several: "3", "encoder.3".
        name: its module path, "" where names tell none.
        sites: its attention and its other residual branches, in graph order.
    """

    key: str
    name: str
    sites: tuple[Site, ...]

    @property
    def removed(self) -> tuple[Site, ...]:
        """The sites that are removed with the layer: all but those that cannot be, and only lead to others of it."""
        return tuple(site for site in self.sites if site.removable_whole or not self._leads_inside(site))

    def _leads_inside(self, site: Site) -> bool:
        """Return whether what a site computes goes nowhere but into other sites of the layer."""
        ends = {item.node for other in self.sites if other is not site for item in other.projections}
        begins = [item.node for item in site.projections if item.node not in ends]
        return bool(ends) and _lead_only_to(begins, ends, max(node.index for node in ends))


def _numbered_layers(sites: Sequence[Site]) -> list[Layer]:
    """Return the layers that the names of sites tell, stack by stack; nothing where they tell none.

    A module path may hold several numbers: T5 calls a sublayer `encoder.block.3.layer.1`, Swin a layer
    `layers.2.blocks.5`, and a `Sequential` numbers whatever it holds. A number counts layers where what it numbers
    holds an attention and something beside it; of several such numbers the innermost does.
    """
    counting = _counting(sites)
    stacks: dict[Stack, dict[int, list[tuple[_Place, Site]]]] = defaultdict(lambda: defaultdict(list))
    for site in sites:
        place = next((place for place in reversed(_places(site)) if place.shape in counting), None)
        if place is not None:
            stacks[place.stack][place.number].append((place, site))
    labels = _labels(list(stacks))
    return [
        Layer(f"{labels[stack]}{number}", ".".join(found[0][0].path), tuple(site for _, site in found))
        for stack, numbers in stacks.items()
        for number, found in sorted(numbers.items())
    ]


def _places(site: Site) -> list[_Place]:
    """Return the numbers in the module path of a site, from the outermost on."""
    parts = [part for part in re.split(r"[./]", _REPEATED.sub("", site.name)) if part]
    places = []
    for position, part in enumerate(parts):
        found = _NUMBERED.fullmatch(part)
        # A bare number counts in the module before it, "layer_3" in the modules "layer" beside it.
        if found is None or not (position or found[1]) or found[1] == site.UNNAMED:
            continue
        word = (found[1],) if found[1] else ()
        places.append(_Place((*parts[:position], *word), int(found[2]), tuple(parts[: position + 1])))
    return places


def _counting(sites: Sequence[Site]) -> Collection[Stack]:
    """Return the shapes of the stacks whose numbers count layers."""
    held: dict[Stack, dict[tuple[Stack, int], list[Site]]] = defaultdict(lambda: defaultdict(list))
    for site in sites:
        for place in _places(site):
            held[place.shape][place.stack, place.number].append(site)
    begins = any(site.LAYER == "begin" for site in sites)
    together, alone = set(), []
    for shape, numbered in held.items():
        beginning = [[not begins or site.LAYER == "begin" for site in found] for found in numbered.values()]
        if len(numbered) == 1 and _is_repeated(numbered):
            continue
        if any(len(found) > 1 and any(found) for found in beginning):
            if not begins or not any(_holds_layers(found, len(shape)) for found in numbered.values()):
                together.add(shape)
        elif all(map(any, beginning)) or (shape[-1] in SPOKEN and not _alternates(numbered)):
            own = [site for found in numbered.values() for site in found]
            if not _are_between(sites, own):
                alone.append(shape)
    # Without a number that holds several sites, the outermost one that holds attention is the layer's.
    return together or set(sorted(alone, key=len)[:1])


def _are_between(sites: Sequence[Site], some: Sequence[Site]) -> bool:
    """Return whether other blocks lie between some sites: their numbers are not those of whole layers."""
    places = [place for place, site in enumerate(sites) if site in some]
    between = sites[places[0] : places[-1]]
    return any(site.LAYER != "begin" and site not in some for site in between)


def _alternates(numbered: Mapping[tuple[Stack, int], Sequence[Site]]) -> bool:
    """Return whether numbers count sublayers: attention and network one after the other, or no attention at all."""
    begins = [found[0].LAYER == "begin" for _, found in sorted(numbered.items())]
    return not any(begins) or all(one != other for one, other in pairwise(begins))


def _holds_layers(sites: Sequence[Site], depth: int) -> bool:
    """Return whether sites of one number are several layers: an attention follows a block, under a number of its own.

    Args:
        sites: in graph order.
        depth: parts of the module path before the number.
    """
    runs = [list(run) for begins, run in groupby(sites, lambda site: site.LAYER == "begin") if begins]
    inner = [
        [
            tuple((place.stack, place.number) for place in _places(site) if len(place.stack) > depth)[-1:]
            for site in run
        ]
        for run in runs
    ]
    # A decoder's layer has two attentions in a row, under one number.
    own = [set(numbers) for numbers in inner]
    apart = sum(map(len, own)) == len(set().union(*own))
    return len(runs) > 1 and apart and all(number for numbers in inner for number in numbers)


def _is_repeated(numbered: Mapping[tuple[Stack, int], Iterable[Site]]) -> bool:
    """Return whether one module runs several times: its number is that of none of its runs."""
    return any(_REPEATED.search(site.name) for found in numbered.values() for site in found)


def _labels(stacks: Sequence[Stack]) -> dict[Stack, str]:
    """Return what stands before the numbers of each stack: what tells its path from those of the others."""
    first = stacks[0] if stacks else ()
    shortest = min(map(len, stacks), default=0)
    front = next((n for n in range(shortest) if any(stack[n] != first[n] for stack in stacks)), shortest)
    back = next(
        (n for n in range(shortest - front) if any(stack[-1 - n] != first[-1 - n] for stack in stacks)),
        shortest - front,
    )
    own = {stack: ".".join(stack[front : len(stack) - back]) for stack in stacks}
    return {stack: f"{_UNSAFE.sub('_', label)}." if label else "" for stack, label in own.items()}


def _lead_only_to(begins: Iterable[Node], ends: Collection[Node], last: int) -> bool:
    """Return whether all that is computed with the results of some nodes goes through others.

    Args:
        begins: some nodes.
        ends: the others.
        last: the index of a node after which nothing else of interest lies.
    """
    for node in reachable(begins, lambda node: [reader for reader in node.readers if reader not in ends]):
        if any(value.is_graph_output for value in node.results):
            return False
        if any(reader.index > last for reader in node.readers):
            return False
    return True


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
    numbered = _numbered_layers(ordered)
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
    """Return the record of the layers of the original; nothing if it is there, or no layer loses a site."""
    whole = set(removed)
    if not whole or sites.layered or sites.layered is None:
        return []
    found = layers(sites)
    if all(whole.isdisjoint(layer.sites) for layer in found.values()):
        return []
    keys = {key: [site.key for site in layer.sites] for key, layer in found.items()}
    return [SetMetadata(LAYERS_KEY, LAYERS_ENTRY.text(keys))]


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
