"""The layers of a model: what it adds to its residual streams between two states of them.

Names number the layers and name their stacks; where they tell nothing, structure shows where layers begin. What belongs
to a layer is decided by place in the stream: all residual sums from its first one to its last one, and those behind it
that no name puts elsewhere.

By structure a layer begins at an attention and ends before the next one that follows a feed-forward block: two
attentions in a row (a decoder's own and that to its encoder) are one layer. What comes before the first attention (a
stem), after the last feed-forward block (a head), or lies in a stretch without attention, is in no layer. Of a model
without any attention each feed-forward block is a layer.

Before a site of a layer is removed as a whole, the model's metadata specify which sites make which layer, so that
numbers always refer to the original model.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeAlias

from onnxheadprune.attention.cut_edits import sites_losing_all
from onnxheadprune.attention.layer_names import NumberedPath, Stack, common_path, layers_by_name, stack_labels
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.projection import emptied, module_path
from onnxheadprune.attention.sites.residual import Join, State, Term, is_given, lead_only_to, silenced
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.model_records import LAYERS_ENTRY, LAYERS_KEY
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Use
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.spelling import spelled

Places: TypeAlias = Mapping[Site, Sequence[tuple[Join, Term]]]
"""The residual sums that add what sites compute: one for each stream, as a joint attention has several."""


@dataclass(frozen=True)
class Layer:
    """Sites that are one layer of a model."""

    key: str  # its number, after the name of its stack where a model has several: "3", "encoder.3"
    name: str  # its module path, "" where names tell none
    sites: tuple[Site, ...]  # its attention and its other residual branches, in graph order
    # where sites are added to the stream; not those inside a branch
    places: Places = field(default_factory=dict, repr=False)
    # the residual sums between the state of the stream before the layer and the one after it
    joins: tuple[Join, ...] = ()
    gate: Use | None = None  # where the stream itself is multiplied with what the layer computes
    # terms of these sums that are not the layer's: computed in another module, and not from the stream, as position
    # embeddings that are added between layers, or inputs of the model
    beside: frozenset[Use] = frozenset()

    @functools.cached_property
    def removed(self) -> tuple[Site, ...]:
        """The sites that are removed with the layer: all but those that cannot be, and only lead to others of it."""
        terms = self._whole_terms
        return tuple(site for site in self.sites if not self._is_covered(site, terms) and self._goes(site))

    @property
    def counted(self) -> tuple[Site, ...]:
        """Its sites, without those inside another one."""
        terms = self._whole_terms
        return tuple(
            site
            for site in self.sites
            if not self._is_inside(site, terms) or any(item.term is not None for item in site.projections)
        )

    @property
    def _whole_terms(self) -> set[Use]:
        """Residual branches that are removed as a term, whatever computes them."""
        return {term for site in self.sites for item in site.projections if (term := item.term) is not None}

    def _is_covered(self, site: Site, terms: Collection[Use]) -> bool:
        """Return whether a site vanishes with a branch that is removed as a term; heads are removed all the same."""
        ends = any(item.term is not None for item in site.projections)
        return self._is_inside(site, terms) and not ends and not (site.unit_cores and site.removable_whole)

    def _is_inside(self, site: Site, terms: Collection[Use]) -> bool:
        own = self.places.get(site, ())
        return bool(own) and all(term.use in terms for _, term in own)

    def _goes(self, site: Site) -> bool:
        """Return whether a site is removed, or keeps a layer from being removed that no residual sum tells of."""
        return site.removable_whole or not (self.joins or self._leads_inside(site))

    @property
    def obstacle(self) -> str | None:
        """The reason that the layer cannot be removed as a whole, None if it can."""
        if self.gate is not None:
            factor = self.gate.node.inputs[self.gate.input_index]
            assert factor is not None
            return f"{self.gate.node.label} multiplies its stream with {factor.name}, which a layer computes"
        if not self.name and not self.places:
            return f"no residual sum is known to add {self.sites[0].label}, and no name shows what is in the layer"
        whole = self._whole_terms
        for term, state in self._terms.items():
            if term.use not in whole and state not in (State.ZERO, State.BIAS):
                sites = (
                    site
                    for site, own in self.places.items()
                    if site.reason is not None and any(item is term for _, item in own)
                )
                reason = next((f": {site.label}: {site.reason}" for site in sites), "")
                return f"{term.use.node.label} adds {term.value.name}, which nothing removable computes alone{reason}"
        return None

    @property
    def silent(self) -> tuple[Use, ...]:
        """Terms of the layer's residual sums, except branches of which stored biases are left.

        That is all that the layer adds, whatever of it is known as a site.
        """
        return tuple(term.use for term, state in self._terms.items() if state is not State.BIAS)

    @functools.cached_property
    def _terms(self) -> dict[Term, State]:
        """The state of each term of the layer's residual sums without the layer's sites."""
        ends = emptied(item for site in self.removed for item in site.projections if item.term is None)
        return {
            term: silenced(join, term, ends)
            for join in self.joins
            for term in join.terms
            if term.use not in self.beside
        }

    def _leads_inside(self, site: Site) -> bool:
        """Return whether what a site computes goes nowhere but into other sites of the layer."""
        ends = {item.node for other in self.sites if other is not site for item in other.projections}
        begins = [item.node for item in site.projections if item.node not in ends]
        return bool(ends) and lead_only_to(begins, ends)


def _named(
    stacks: Mapping[Stack, Mapping[int, Sequence[tuple[NumberedPath, Site]]]],
    others: Mapping[Stack, Sequence[Sequence[Site]]],
) -> list[Layer]:
    """Return layers, stack by stack."""
    labels = stack_labels([*stacks, *others])
    numbered = [
        Layer(f"{labels[stack]}{number}", ".".join(found[0][0].path), tuple(site for _, site in found))
        for stack, numbers in stacks.items()
        for number, found in sorted(numbers.items())
    ]
    return numbered + [
        Layer(f"{labels[stack]}{number}", "", tuple(own))
        for stack, some in others.items()
        for number, own in enumerate(some)
    ]


def _unnumbered(
    ordered: Sequence[Site],
    known: Set[Site],
    places: Places,
    sites: Sites,
) -> dict[Stack, list[list[Site]]]:
    """Return the layers of streams that no name numbers, by what the names of their sites have in common."""
    streams: dict[Join, list[Site]] = defaultdict(list)
    for site in ordered:
        if site in places:
            streams[_streams(site, places, sites)[0]].append(site)
    found: dict[Stack, list[list[Site]]] = {}
    for some in streams.values():
        layers = (
            []
            if known & {*some}
            else [own for own in _by_structure(some, places, sites, True) if len(own) > 1]
        )
        stack = common_path(site.name for own in layers for site in own)
        if len(layers) > 1 and stack and stack not in found:
            found[stack] = layers
    return found


def layers(sites: Sites) -> dict[str, Layer]:
    """The remaining layers of a model, by the keys that they had in the original, in order.

    Args:
        sites: of the model. Of a pruned one its record decides; a site that the record does not know is in no layer.
    """
    ordered = sorted(sites.every, key=lambda site: _place(site, sites))
    ordered = [site for site in ordered if site.in_layers()]
    begins = any(site.begins_layer for site in ordered)
    if not begins:
        ordered = [site for site in ordered if site.is_branch]
    places = {site: own for site in ordered if (own := _added(site, sites))}
    stacks = layers_by_name(ordered)
    known = {site for numbers in stacks.values() for own in numbers.values() for _, site in own}
    numbered = _named(stacks, _unnumbered(ordered, known, places, sites) if stacks else {})
    if sites.layered:
        there = {site.key: site for site in ordered}
        names = {site.key: layer.name for layer in numbered for site in layer.sites}
        recorded = (
            (key, [there[own] for own in keys if own in there]) for key, keys in sites.layered.items()
        )
        some = [Layer(key, names.get(own[0].key, ""), tuple(own)) for key, own in recorded if own]
        return {layer.key: _apart(layer, places) for layer in _placed(some, places)}
    found = numbered or [
        Layer(str(number), "", tuple(own))
        for number, own in enumerate(_by_structure(ordered, places, sites, begins))
    ]
    return {layer.key: _apart(layer, places) for layer in _completed(found, ordered, places, sites)}


def _added(site: Site, sites: Sites) -> list[tuple[Join, Term]]:
    """Return the sums that add a site's outputs to residual streams."""
    found: dict[tuple[Join, Term], None] = {}
    for item in site.projections:
        if item.term is None:
            place = sites.residuals.added(item.node)
            found |= {} if place is None else {place: None}
        elif (join := sites.residuals.at(item.node)) is not None:
            found |= {(join, term): None for term in join.terms if term.use == item.term}
    return list(found)


def _placed(found: Iterable[Layer], places: Places) -> Iterator[Layer]:
    """Yield layers with the places of their sites in streams; without sums of their own, where two meet in one."""
    some = list(found)
    owners: dict[Join, set[str]] = defaultdict(set)
    for layer in some:
        for site in layer.sites:
            for join, _ in places.get(site, ()):
                owners[join].add(layer.key)
    for layer in some:
        own = {site: places[site] for site in layer.sites if site in places}
        joins = {join for some in own.values() for join, _ in some}
        shared = any(len(owners[join]) > 1 for join in joins)
        inside = () if shared else sorted(joins, key=lambda join: join.node.index)
        yield replace(layer, places=own, joins=tuple(inside))


def _completed(
    found: Sequence[Layer], ordered: Sequence[Site], places: Places, sites: Sites
) -> Iterator[Layer]:
    """Yield layers with all that is added to their streams between their first and last residual sums, and behind."""
    layers = list(_placed(found, places))
    owner = {join: number for number, layer in enumerate(layers) for join in layer.joins}
    owned = {site for layer in layers for site in layer.sites}
    met: dict[Join, dict[Site, Term]] = defaultdict(dict)
    for site, own in places.items():
        for join, term in own:
            met[join].setdefault(site, term)
    more: dict[int, list[Join]] = defaultdict(list)
    gates: dict[int, Use] = {}
    seen: set[Join] = set()
    for join in owner:
        if join in seen:
            continue
        chain = sites.residuals.chain(join)
        seen.update(chain)
        for at, item in enumerate(chain):
            if item in owner or any(site in owned for site in met[item]):
                continue
            before = next((owner[one] for one in reversed(chain[:at]) if one in owner), None)
            after = next((owner[one] for one in chain[at:] if one in owner), None)
            elsewhere = any(_is_named(site) for site in met[item]) and bool(layers[owner[join]].name)
            if before is not None and (before == after or not elsewhere):
                more[before].append(item)
    holder = owner | {join: number for number, some in more.items() for join in some}

    def is_inner(join: Join, number: int) -> bool:
        """Return whether a stream of a branch ends in it (Mamba's scan); what multiplies it goes with the branch."""
        others = holder.keys() - {*sites.residuals.chain(join)}
        return any(holder[other] == number and lead_only_to([join.node], {other.node}) for other in others)

    for join, number in holder.items():
        if is_inner(join, number):
            continue
        state = sites.residuals.before(join)
        # A gate without a name belongs to either layer where it is between two, and to none at the ends of the stream.
        either = [] if state is None else [number, holder.get(state, number)]
        for gate in sites.residuals.gates(join):
            gates |= dict.fromkeys(_holding(gate, layers) or either, gate)
        for gate in sites.residuals.gates_behind(join):
            gates |= dict.fromkeys(_holding(gate, layers), gate)
    rank = {site: place for place, site in enumerate(ordered)}
    for number, layer in enumerate(layers):
        joins = sorted((*layer.joins, *more[number]), key=lambda join: join.node.index)
        new = {
            site
            for join in joins
            for site, term in met[join].items()
            if site not in owned and not _is_beside(site, (join, term), layer)
        }
        yield replace(
            layer,
            sites=tuple(sorted((*layer.sites, *new), key=rank.__getitem__)),
            places={**layer.places, **{site: places[site] for site in new}},
            joins=tuple(joins),
            gate=gates.get(number),
        )


def _is_beside(site: Site, place: tuple[Join, Term], layer: Layer) -> bool:
    """Return whether a term of a layer's residual sum is computed in another module, and not from the stream."""
    inside = not layer.name or re.match(rf"{re.escape(layer.name)}(?![^.#])", site.name)
    return not inside and _is_named(site) and silenced(*place, ()) is not State.STREAM


def _apart(layer: Layer, places: Places) -> Layer:
    """Return a layer with the terms that are not its own in `beside`."""
    uses = (
        term.use
        for site, own in places.items()
        for join, term in own
        if join in layer.joins and site not in layer.sites and _is_beside(site, (join, term), layer)
    )
    given = (term.use for join in layer.joins for term in join.terms if is_given(join, term))
    return replace(layer, beside=frozenset(uses).union(given))


def _holding(gate: Use, layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of the layers whose modules contain a gate."""
    path = ".".join(["", *module_path(gate.node), ""])
    return [number for number, layer in enumerate(layers) if layer.name and f".{layer.name}." in path]


def _is_named(site: Site) -> bool:
    """Return whether a site has the name of a module."""
    return not site.name.startswith(f"{site.UNNAMED}_")


def layers_kept(sites: Sites, removed: Iterable[Site]) -> list[SetMetadata]:
    """Return the record of the layers of the original; nothing if it is there, or no layer loses a site."""
    whole = set(removed)
    if not whole or sites.layered:
        return []
    found = layers(sites)
    if all(whole.isdisjoint(layer.sites) for layer in found.values()):
        return []
    keys = {key: tuple(site.key for site in layer.sites) for key, layer in found.items()}
    return [SetMetadata(LAYERS_KEY, LAYERS_ENTRY.text(keys))]


def removed_layers(sites: Sites, units: Mapping[int, tuple[int, ...]]) -> list[Layer]:
    """Return the layers that a cut removes as a whole."""
    whole = set(sites_losing_all(sites, units))
    try:
        found = layers(sites).values() if whole else ()
    except RefusedError:
        found = ()
    return [layer for layer in found if layer.removed and whole.issuperset(layer.removed)]


def parts_named(sites: Sites, units: Mapping[int, tuple[int, ...]]) -> tuple[str, ...]:
    """The removed parts in the notation of specs: whole layers, whole sublayers, and units of others.

    >>> parts_named(sites, units)  # doctest: +SKIP
    ('layer.3', 'attn.0:1,3', 'ffn.0:0-63', 'ffn.1')
    """
    whole = set(sites_losing_all(sites, units))
    gone = [layer for layer in removed_layers(sites, units) if len(layer.sites) > 1]
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


def _by_structure(
    ordered: Sequence[Site], places: Places, sites: Sites, begins: bool
) -> Iterator[list[Site]]:
    """Yield the sites of each layer.

    Args:
        begins: whether the model has sites that a layer begins with; else each is a layer.
    """
    stretches = groupby(ordered, lambda site: _place(site, sites)[0])
    for some in [own for _, stretch in stretches for own in _by_stream(list(stretch), places, sites)]:
        # Attentions in a row are one layer only where blocks tell where layers end.
        blocks = any(not site.begins_layer for site in some)
        beginning = {site for at, site in enumerate(some) if _begins(some[at:], places)}
        layer: list[Site] = []
        for site in some:
            begin = not begins or site in beginning
            full = layer and (layer[-1] not in beginning or _holds_both(layer, places))
            if begin and layer and (not begins or not blocks or full):
                yield layer
                layer = []
            if begin or layer:
                layer.append(site)
        first = next((site for site in layer if site.begins_layer), None)
        while layer and not _is_in_stream(layer[-1], first or layer[0], places, sites):
            layer.pop()
        if layer:
            yield layer


def _begins(some: Sequence[Site], places: Places) -> bool:
    """Return whether the first of some sites is an attention or in the same layer as the next one.

    One residual sum adds both (parallel blocks), or it leads only to the attention (low-rank queries). A stem leads to
    the first attention, too, and also past it into the stream.
    """
    known = any(site.begins_layer and site in places for site in some)
    begins = (site for site in some if site.begins_layer and (site in places or not known))
    attention = next(begins, None)
    if attention is None:
        return False
    beside = {site for site in places if not _joins(site, places).isdisjoint(_joins(attention, places))}
    if any(site in places and site not in beside for site in some[: some.index(attention)]):
        return False
    sums = {join.node for site in places for join in _joins(site, places)}
    ends = {item.node for item in attention.projections}
    starts = (item.node for item in some[0].projections)
    read = set(reachable(starts, lambda node: () if node in ends or node in sums else node.readers))
    return some[0] in beside or (not ends.isdisjoint(read) and sums.isdisjoint(read))


def _holds_both(layer: Sequence[Site], places: Places) -> bool:
    """Return whether a layer has an attention and a branch beside it."""
    begins = any(site.begins_layer for site in layer)
    return begins and any(site in places and not site.begins_layer for site in layer)


def _joins(site: Site, places: Places) -> set[Join]:
    """The residual sums that add what a site computes."""
    return {join for join, _ in places.get(site, ())}


def _by_stream(ordered: Sequence[Site], places: Places, sites: Sites) -> list[list[Site]]:
    """Return the sites of each residual stream, those of what feeds another one first.

    Nodes of an encoder and a decoder may lie in any order in which each comes after those that it reads. Streams of
    one attention are one; where a stream has no layer of its own, it is a part of one, and all stay together.
    """
    streams: Partition[Join] = Partition()
    own = {site: _streams(site, places, sites) for site in ordered}
    for some in filter(None, own.values()):
        streams.join(some)
    found: dict[Join | None, list[Site]] = defaultdict(list)
    last: Join | None = next((streams.root(some[0]) for some in own.values() if some), None)
    for site in ordered:
        # What is in no stream lies within what is computed around it.
        last = streams.root(own[site][0]) if own[site] else last
        found[last].append(site)
    if any(len({site.begins_layer for site in some}) == 1 for some in found.values()):
        return [list(ordered)]
    return sorted(found.values(), key=lambda some: _place(some[-1], sites))


def _streams(site: Site, places: Places, sites: Sites) -> list[Join]:
    """The first residual sums of the streams that a site adds to."""
    return [sites.residuals.chain(join)[0] for join, _ in places.get(site, ())]


def _is_in_stream(site: Site, first: Site, places: Places, sites: Sites) -> bool:
    """Return whether a site is a branch of the residual stream that a layer's first site is one of."""
    return site.is_branch or not {*_streams(first, places, sites)}.isdisjoint(_streams(site, places, sites))


def _place(site: Site, sites: Sites) -> tuple[int, ...]:
    """Return the stretch of the model that a site is in, and where it is there."""
    return sites.places.get(site.index) or (0, min(item.node.index for item in site.projections))
