"""The layers of a model: what lies between two states of its residual streams.

Names number the layers and say which blocks are in them. Where they tell nothing, structure does: a layer begins at an
attention and ends before the next one that follows a feed-forward block; two attentions in a row (a decoder's own and
that to its encoder) are one layer. What comes before the first attention, or after the last block, is in no layer. Of a
model without any attention each feed-forward block is a layer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias, TypeVar

from onnxheadprune.attention.sites.layer_names import NumberedPath, Stack, labels, stack_labels
from onnxheadprune.attention.sites.projection import common_prefix, node_path
from onnxheadprune.attention.sites.site import Findings, Site, outermost
from onnxheadprune.attention.sites.states import (
    Block,
    Flow,
    State,
    Vertex,
    enclosing,
    is_fused_norm,
    maker,
    place_of,
    released,
)
from onnxheadprune.attention.sites.stored_weights import size_of
from onnxheadprune.edit.records import RecordedUnits, record_of
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph.operator import (
    ADDS_AND_NORMALIZES,
    NORMALIZES,
    PLAIN_SUMS,
)
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.settings.units import LAYER

SEVERAL = 10_000
"""The first number of a layer in the first of several stacks; in the only stack it is that of the name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerSite(Site):
    """A layer, from its input to its output in the residual stream; it has one unit, and is the identity when removed.

    Its cores are the nodes between the states, and those that nothing else needs.
    """

    KIND = LAYER

    short: str  # its number, after the name of its stack where a model has several: "3", "encoder.3"

    def among_several(self, part: str, count: int) -> Self:
        """Return the layer with a name, key and number among those of several models."""
        # No number of a layer in one of them means one in another.
        made = super().among_several(part, SEVERAL + count)
        return replace(made, short=f"{part}.{self.short}")

    @property
    def key(self) -> str:
        """The layer's key in a spec."""
        return f"{self.KIND.key}{self.short}"

    @property
    def tag(self) -> str:
        """The layer's name in tables: "layer.3", "layer.encoder.3"."""
        return self.key

    @property
    def marks(self) -> tuple[Value, ...]:
        """The states behind it, whose names identify the layer in pruned models."""
        return tuple(state.behind for state in self.states)

    def recorded(self) -> RecordedUnits:
        """Return the layer's entry for a record, with the names of its states."""
        names = dict.fromkeys((state.front.name, state.behind.name) for state in self.states)
        return replace(super().recorded(), states=tuple(names))

    def flops_per_unit(self, length: float) -> float:
        """Multiply-adds x 2 per token of the layer, in sequences of a length."""
        inside = outermost(self.parts)
        growing = sum(site.flops_per_unit(length) * site.num_units - site.flops_per_token for site in inside)
        return super().flops_per_unit(length) + growing

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON-ready data (a part of the contract of `inspect --json`)."""
        states = [{"front": state.front.name, "behind": state.behind.name} for state in self.states]
        return super().to_dict() | {"states": states, "sites": [site.tag for site in self.parts]}


_TRAILING = re.compile(r"([._-]*\d+)+$")
_Chain: TypeAlias = list[Block]
_Kind: TypeAlias = tuple[str | None, bool]
_Owner = TypeVar("_Owner")


@dataclass
class _Layer:
    """A layer on its way to a site."""

    name: str  # its module path, with its number at the end
    number: int  # in its stack
    states: list[State] = field(default_factory=list)
    nodes: set[Node] = field(default_factory=set)

    @property
    def stack(self) -> Stack:
        """The module path that it has in common with others."""
        *path, last = self.name.split(".")
        word = _TRAILING.sub("", last)
        return (*path, word) if word else tuple(path)

    @property
    def place(self) -> int:
        """Where in the graph it is."""
        return min(node.index for node in self.nodes)

    def is_in_another_branch(self, scope: Scope) -> bool:
        """Return whether it lies in another branch of the choice that a graph is a branch of."""
        scopes = {node.scope for node in self.nodes}
        return scope not in scopes and any(other.owner is scope.owner is not None for other in scopes)

    def enclosed(self, flow: Flow, states: Iterable[State]) -> None:
        """Add states, and what lies between them."""
        for state in states:
            if state not in self.states:
                self.states.append(state)
                self.nodes.update(flow.inside(state))


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """The layers of a model; of a pruned one its record decides."""
    record = record_of(view.model).of(LAYER.units)
    flows = [Flow(scope, view.dead_ends) for scope in view.scopes]
    some = [site for site in known if site.KIND.in_layers]
    if record:
        layers = _recorded(flows, record)
    else:
        named = labels(view, some)
        layers = (
            _named(flows, named) if named else _structural(flows, [site for site in some if site.is_branch])
        )
        layers = sorted((layer for layer in layers if layer.nodes), key=lambda layer: layer.place)
    prefixes = stack_labels(list(dict.fromkeys(layer.stack for layer in layers)))
    several = list(prefixes) if len(prefixes) > 1 else []
    sites = [
        _site(
            some,
            layer,
            layer.number + (SEVERAL * (1 + several.index(layer.stack)) if several else 0),
            f"{prefixes[layer.stack]}{layer.number}",
        )
        for layer in layers
        if layer.nodes
    ]
    # A module that no stream goes through and that holds no branch of one is no layer.
    sites = [site for site in sites if site.states or any(part.is_branch for part in site.parts)]
    return Findings(sorted(sites, key=lambda site: site.index))


def _recorded(flows: Sequence[Flow], record: Sequence[RecordedUnits]) -> list[_Layer]:
    """The layers of a record; those that are removed have no states."""
    layers = []
    for entry in record:
        layer = _Layer(entry.name, entry.number % SEVERAL)
        for flow in flows if entry.left else ():
            for front, behind in entry.states:
                pair = flow.scope.lookup(front), flow.scope.values.get(behind)
                if pair[0] is not None and pair[1] is not None:
                    layer.enclosed(flow, [State(pair[0], pair[1])])
        layers.append(layer)
    return layers


def _named(flows: Sequence[Flow], named: Mapping[Node, NumberedPath]) -> list[_Layer]:
    """The layers that names number."""
    layers: dict[NumberedPath, list[_Layer]] = defaultdict(list)
    for flow in flows:
        own: dict[NumberedPath, list[Node]] = defaultdict(list)
        for node in flow.nodes:
            if (place := named.get(node)) is not None:
                own[place].append(node)
        runs = _runs(flow, named, set(own))
        for place, nodes in own.items():
            for states in [[state] for state in runs.get(place, ())] or [enclosing(flow, set(nodes))]:
                same = (item for item in layers[place] if item.is_in_another_branch(flow.scope))
                layer = next(same, None)
                if layer is None:
                    layer = _Layer(".".join(place.path), place.number)
                    layers[place].append(layer)
                layer.enclosed(flow, states)
                layer.nodes.update(() if states else nodes)
    found = sorted((layer for some in layers.values() for layer in some), key=lambda layer: layer.place)
    _tell_apart(found)
    return found


def _tell_apart(layers: Collection[_Layer]) -> None:
    """Name layers of stacks with one name by how often their numbers begin again."""
    often = Counter((layer.stack, layer.number) for layer in layers)
    shared = {stack for (stack, _), times in often.items() if times > 1}
    last: dict[Stack, tuple[int, int]] = {}
    for layer in layers:
        stack = layer.stack
        number, run = last.get(stack, (-1, 1))
        run += stack in shared and number >= layer.number
        last[stack] = layer.number, run
        if run > 1:
            layer.name = ".".join((*stack[:-1], f"{stack[-1]}#{run}", str(layer.number)))


def _runs(
    flow: Flow, named: Mapping[Node, NumberedPath], wanted: set[NumberedPath]
) -> dict[NumberedPath, list[State]]:
    """Return the states around the stretches of blocks that names put into one layer.

    From a beginning inside a layer, or up to a cache, only a part of it is seen: of stretches that share something the
    longest one is the layer. What lies beside it of its name has to be of others with the name, or computed for them.
    """
    seen: dict[NumberedPath, dict[State, tuple[frozenset[Vertex], frozenset[Vertex]]]] = defaultdict(dict)
    held = dict[Block, set[NumberedPath]]()
    shown = set[Vertex]()
    for beginning in flow.beginnings if wanted else ():
        for chain in flow.chains(beginning):
            fresh = [block for block in chain if block not in held]
            for block in fresh:
                places = (_place(vertex, named) for vertex in block.inner)
                held[block] = {place for place in places if place is not None}
            inside = {vertex for block in fresh if len(held[block]) == 1 for vertex in block.inner}
            if inside <= shown:
                continue  # The chain begins inside a layer of an earlier one, as that of a cache does.
            shown |= inside
            owners = [held[block] for block in chain]
            paths = {place.path for own in owners for place in own}
            walls = [_is_elsewhere(block, paths) for block in chain]
            if len(paths) == 1 and any(
                _place(vertex, named) is None
                for block, own in zip(chain, owners, strict=True)
                for vertex in block.inner
                if own and vertex is not block.behind
            ):
                continue  # One layer alone shows no pattern, and its names not all of it.
            for place, state, blocks, others in _stretches(flow, chain, owners, walls):
                inner = frozenset(vertex for block in blocks for vertex in block.inner)
                if not flow.leaves_more([state.front], inner, [state.behind]):
                    around = (vertex for block in others for vertex in block.inner)
                    own = frozenset(vertex for vertex in around if _place(vertex, named) == place)
                    seen[place][state] = inner, own
    found: dict[NumberedPath, list[State]] = defaultdict(list)
    for place, states in seen.items():
        taken: set[Vertex] = set()
        for state, (inner, beside) in sorted(
            states.items(), key=lambda item: (bool(item[1][1]), -len(item[1][0]))
        ):
            known = set(taken)
            for vertex in sorted(beside, key=place_of, reverse=True):
                known.update([vertex] if known.issuperset(flow.after.get(vertex, ())) else [])
            if taken.isdisjoint(inner) and known.issuperset(beside):
                found[place].append(state)
                taken |= inner
    return found


def _place(vertex: Vertex, named: Mapping[Node, NumberedPath]) -> NumberedPath | None:
    """Return the layer that names put a vertex into; a sum and its norm have one name, and may be two layers'."""
    node = maker(vertex)
    return None if node is None or node in ADDS_AND_NORMALIZES else named.get(node)


def _is_elsewhere(block: Block, layers: Collection[Stack]) -> bool:
    """Return whether names put a part of a block into a module that is around none of some layers."""
    paths = [tuple(node_path(node)) for vertex in block.inner if (node := maker(vertex)) is not None]
    return any(all(layer[: len(path)] != path for layer in layers) for path in paths)


def _adds_others(block: Block) -> bool:
    """Return whether something is added that is neither a residual branch nor a bias: positions, or a time."""
    node = maker(block.behind)
    others = (value for value in (() if node is None else node.sources) if value is not block.front)
    return (
        node is not None
        and node in PLAIN_SUMS
        and len(block.inner) == 1
        and any(not value.is_constant or (value.rank or 0) > 1 for value in others)
    )


def _stretches(
    flow: Flow, chain: _Chain, owners: Sequence[Collection[_Owner]], walls: Sequence[bool]
) -> Iterator[tuple[_Owner, State, _Chain, _Chain]]:
    """Yield the states around each layer of a chain, its blocks, and those beside them that hold parts of several.

    What lies between two layers may be the end of the first one or the beginning of the second one: it is what also
    lies behind the last one, or in front of the first one. Where a layer begins or ends next to a block that may be
    either's, a stream has to go around the block behind: what is only computed from a value does not make it a state.

    Args:
        owners: the layers of which each block is known to hold a part.
        walls: whether a block is known to be in no layer.
    """
    runs: list[tuple[Collection[_Owner], int, int]] = []
    for place, own in enumerate(owners):
        if own and runs and runs[-1][0] == own:
            runs[-1] = own, runs[-1][1], place + 1
        elif own:
            runs.append((own, place, place + 1))
    parts = [(start, stop) for own, start, stop in runs if len(own) == 1]
    kinds: list[_Kind] = [
        (
            None if (node := maker(block.behind)) is None else node.op_type,
            flow.joins(block) or _adds_others(block),
        )
        for block in chain
    ]
    ends = [place for place, own in enumerate(owners) if own or walls[place]]
    lasts = [min((end for end in ends if end >= stop), default=len(chain)) for _, stop in parts]
    tails = _in_common(
        (kinds[stop - 1], kinds[stop:last]) for (_, stop), last in zip(parts, lasts, strict=True)
    )
    firsts = [max((end + 1 for end in ends if end < start), default=0) for start, _ in parts]
    # The norm behind a sum belongs to the sum, although it also lies in front of the next layer.
    taken = [0, *(stop + (tail or 0) for (_, stop), tail in zip(parts, tails, strict=True))]
    heads = _in_common(
        (kinds[start], kinds[max(first, end) : start][::-1])
        for (start, _), first, end in zip(parts, firsts, taken, strict=False)
    )
    for (start, stop), first, last, head, tail in zip(parts, firsts, lasts, heads, tails, strict=True):
        around = range(start - (head or 0), start)
        front, behind = next((at for at in around if kinds[at][1]), start), stop + (tail or 0)
        # Beside the first and the last layer lie blocks that the others do not have: embeddings, a final norm.
        is_begin = start in (first, parts[0][0])
        is_end = behind == last or (stop == parts[-1][1] and tail is not None)
        state = _around(chain, front, behind)
        if (
            state is not None
            and (is_begin or kinds[front][1])
            and (is_end or kinds[behind][1] or not _is_alike(chain[behind]))
        ):
            (owner,) = owners[start]
            parted = (
                block for block, own in zip(chain, owners, strict=True) if owner in own and len(own) > 1
            )
            yield owner, state, chain[front:behind], [*parted]


def _in_common(pieces: Iterable[tuple[_Kind, list[_Kind]]]) -> list[int | None]:
    """Return with how many kinds of blocks all pieces of one kind begin; None where there is one alone."""
    every = [(kind, tuple(piece)) for kind, piece in pieces]
    alike = {kind: [piece for other, piece in every if other == kind] for kind, _ in every}
    return [len(common_prefix(alike[kind])) if len(alike[kind]) > 1 else None for kind, _ in every]


def _is_alike(block: Block) -> bool:
    """Return whether the values around a block have one shape and type."""
    front, behind = (
        vertex.out if isinstance(vertex, Node) else vertex for vertex in (block.front, block.behind)
    )
    return State(front, behind).is_bypass


def _around(chain: _Chain, front: int, behind: int) -> State | None:
    """Return the states around some blocks, None if no stream goes around any of them, or one is no value."""
    if all(len(block.inner) == 1 for block in chain[front:behind]):
        return None
    # A sum that is no output stands for its norm.
    first, *ends = chain[front].front, *(block.behind for block in chain[behind - 1 : behind + 1])
    last = next((value for value in ends if isinstance(value, Value)), ends[0])
    return None if isinstance(first, Node) or isinstance(last, Node) else State(first, last)


def _structural(flows: Sequence[Flow], branches: Sequence[Site]) -> list[_Layer]:
    """The layers of streams without names."""
    layers: dict[Site, _Layer] = {}
    claimed: set[tuple[Flow, Site]] = set()
    for flow in flows:
        here = [site for site in branches if any(item.node.scope is flow.scope for item in site.projections)]
        chains = [chain for beginning in flow.beginnings if here for chain in flow.chains(beginning)]
        for some in (_layers_of(flow, chain, here) for chain in chains):
            for sites, state in some:
                if (flow, sites[0]) not in claimed:
                    # Both branches of a merged decoder have the layers.
                    layers.setdefault(sites[0], _Layer("", 0)).enclosed(flow, [state])
            claimed |= {(flow, site) for sites, _ in some for site in sites}
    found = sorted(layers.values(), key=lambda layer: layer.place)
    for number, layer in enumerate(found):
        layer.name, layer.number = f"{LAYER.unnamed}_{number}", number
    return found


def _layers_of(flow: Flow, chain: _Chain, branches: Sequence[Site]) -> list[tuple[list[Site], State]]:
    """Return the layers of a chain of blocks with their sites.

    Without attention nothing shows where a layer begins, so that each block with a site is one.
    """
    at = {vertex: place for place, block in enumerate(chain) for vertex in block.inner}
    held: dict[int, list[Site]] = defaultdict(list)
    for site in branches:
        places = {at.get(node.out) for node in (*(item.node for item in site.projections), *site.cores)} - {
            None
        }
        if len(places) == 1:
            held[min(place for place in places if place is not None)].append(site)
    # Where no stream goes around a branch, it ends: what lies behind is another one's.
    chain = chain[: next((place for place in sorted(held) if not flow.joins(chain[place])), len(chain))]
    held = {place: sites for place, sites in sorted(held.items()) if place < len(chain)}
    kinds = {site.KIND.begins_layers for sites in held.values() for site in sites}
    starts: list[int] = []
    full = True
    for place, sites in held.items():
        own = {site.KIND.begins_layers for site in sites}
        if True not in kinds or (full and True in own):
            starts.append(place)
            full = len(kinds) == 1
        full = full or False in own
    if len(starts) < 2:
        return []  # A block alone shows no pattern: it may hold several layers of several streams.
    owners = [[place] if place in starts else [] for place in range(len(chain))]
    layers: list[tuple[list[Site], State]] = []
    for _, state, blocks, _ in _stretches(flow, chain, owners, [False] * len(chain)):
        inner = {vertex for block in blocks for vertex in block.inner}
        if not flow.leaves_more([state.front], inner, [state.behind]):
            layers.append(([site for place in held if chain[place] in blocks for site in held[place]], state))
    return layers


def _site(some: Sequence[Site], layer: _Layer, number: int, label: str) -> LayerSite:
    parts = tuple(site for site in some if all(item.node in layer.nodes for item in site.projections))
    io = {value for site in parts for value in site.io}
    gone = released(layer.states, io)
    stored = (value for node in gone for value in node.sources if value.holds_tensor)
    elements, size = size_of(
        value
        for value in stored
        if not value.is_graph_output and all(use.node in gone for use in value.consumers)
    )
    inside = outermost(parts)
    weights = (
        value
        for node in gone
        for value in (node.sources if node.operator.cost is not None else ())
        if value.is_constant and (value.rank or 0) > 1
    )
    others = max(size_of(weights)[0] - sum(site.params for site in inside), 0)
    reason = _why_not(layer)
    return LayerSite(
        index=LAYER.first + number,
        name=layer.name,
        num_units=1,
        groups=((0,),),
        projections=(),
        cores=tuple(sorted(layer.nodes | gone, key=lambda node: node.index)),
        units=((0,),),
        original_num_units=1,
        reason=reason,
        whole=reason is None,
        params=elements,
        bytes=size,
        flops_per_token=sum(site.flops_per_token for site in inside) + 2 * others,
        short=label,
        states=tuple(layer.states),
        parts=parts,
    )


def _why_not(layer: _Layer) -> Refusal | None:
    """Return why a layer cannot be the identity, None if it can."""
    first = min(layer.nodes, key=lambda node: node.index)
    if not layer.states:
        why = "no state of a residual stream lies in front of it and behind it, so it has no identity"
        return Refusal(Reason.NO_PROJECTION, first.label, first.out.name, why)
    for state in layer.states:
        if not state.is_bypass:
            sizes = (["?"] if value.shape is None else value.shape for value in (state.front, state.behind))
            front, behind = (f"[{', '.join(map(str, some))}]" for some in sizes)
            why = (
                f"the state in front of it is {state.front.name} {front}, and the one behind it"
                f" {state.behind.name} {behind}: it has no identity"
            )
            return Refusal(Reason.NO_PROJECTION, first.label, state.behind.name, why)
        if is_fused_norm(state.behind) and not _is_normalized(state.front):
            why = (
                f"{state.behind.name} is a norm whose sum is no output, and {state.front.name} in front of it is not"
                " normalized: it has no identity"
            )
            last = state.behind.producer or first
            return Refusal(Reason.NO_PROJECTION, last.label, state.behind.name, why)
    return None


def _is_normalized(front: Value) -> bool:
    """Return whether a state is what a norm computes."""
    node = front.producer
    return (node is not None and node in NORMALIZES) or is_fused_norm(front)
