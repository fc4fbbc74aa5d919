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
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

from onnxheadprune.attention.sites.layer_names import NumberedPath, Stack, common_prefix, labels, stack_labels
from onnxheadprune.attention.sites.layer_site import SEVERAL, LayerSite
from onnxheadprune.attention.sites.projection import node_path
from onnxheadprune.attention.sites.site import Findings, Site, outermost
from onnxheadprune.attention.sites.states import (
    Block,
    Flow,
    State,
    Vertex,
    enclosing,
    is_sum,
    maker,
    place_of,
    released,
    sum_of,
)
from onnxheadprune.attention.sites.stored_weights import size_of
from onnxheadprune.edit.records import RecordedUnits, units_entry
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.model.graph.facts import ADDS_AND_NORMALIZES, PLAIN_SUMS
from onnxheadprune.model.graph.tables import COSTS
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.tensors import FLOATS

_NUMBER = re.compile(r"([._-]*\d+)+$")
_Chain: TypeAlias = list[Block]


@dataclass(frozen=True)
class _Run:
    """A stretch of a stream that one module computes."""

    state: State
    inner: frozenset[Vertex]
    beside: frozenset[Vertex]  # what blocks of several modules hold of one with this name
    beginning: Vertex


@dataclass
class _Layer:
    """A layer on its way to a site."""

    name: str  # its module path, with its number at the end
    number: int  # in its stack
    beginning: Vertex | None = None  # of its stream, where it is known
    states: list[State] = field(default_factory=list)
    nodes: set[Node] = field(default_factory=set)

    @property
    def stack(self) -> Stack:
        """The module path that it has in common with others."""
        *path, last = self.name.split(".")
        word = _NUMBER.sub("", last)
        return (*path, word) if word else tuple(path)

    @property
    def place(self) -> int:
        """Where in the graph it is."""
        return min(node.index for node in self.nodes)

    def is_module_of(self, nodes: Collection[Node], scope: Scope) -> bool:
        """Return whether it and some nodes of another place of its name are one module: they share a stored tensor.

        So are the nodes in two branches of a choice.
        """
        scopes = {node.scope for node in self.nodes}
        if scope not in scopes and any(other.owner is scope.owner is not None for other in scopes):
            return True
        return not _stored(self.nodes).isdisjoint(_stored(nodes))

    def enclosed(self, flow: Flow, states: Iterable[State]) -> None:
        """Add states, and what lies between them."""
        for state in states:
            if state not in self.states:
                self.states.append(state)
                self.nodes.update(flow.inside(state))


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """The layers of a model; of a pruned one its record decides."""
    record = units_entry(LayerSite.UNITS).read(view.model)
    flows = [Flow(scope, view.dead_ends) for scope in view.scopes]
    layers = _recorded(flows, record) if record else _searched(view, flows, known)
    prefixes = stack_labels(list(dict.fromkeys(layer.stack for layer in layers)))
    several = list(prefixes) if len(prefixes) > 1 else []
    sites = [
        _site(
            known,
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


def _stored(nodes: Iterable[Node]) -> set[Value]:
    """Return the weights that some nodes read."""
    read = (value for node in nodes for value in node.sources)
    return {
        value for value in read if value.holds_tensor and value.elem_type in FLOATS and (value.rank or 0) > 1
    }


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


def _searched(view: GraphView, flows: Sequence[Flow], known: Sequence[Site]) -> list[_Layer]:
    """The layers that names number, or without any those that structure shows, in graph order."""
    branches = [site for site in known if site.in_layers() and site.is_branch]
    named = labels(view, [site for site in known if site.in_layers()])
    layers = _named(flows, named) if named else []
    # Names may number one of several stacks only.
    layers += _structural(flows, branches, named)
    return sorted((layer for layer in layers if layer.nodes), key=lambda layer: layer.place)


def _named(flows: Sequence[Flow], named: Mapping[Node, NumberedPath]) -> list[_Layer]:
    """The layers that names number."""
    layers: dict[NumberedPath, list[_Layer]] = defaultdict(list)
    for flow in flows:
        around = {named.get(owner) for owner, _ in flow.scope.owners}
        own: dict[NumberedPath, list[Node]] = defaultdict(list)
        for node in flow.nodes:
            if (place := named.get(node)) is not None and place not in around:
                own[place].append(node)
        runs = _runs(flow, named, set(own))
        for place, nodes in own.items():
            found: list[tuple[Vertex | None, list[State]]]
            found = [(run.beginning, [run.state]) for run in runs.get(place, ())]
            for beginning, states in found or [(None, enclosing(flow, nodes, named))]:
                inside = {node for state in states for node in flow.inside(state)} or set(nodes)
                same = (item for item in layers[place] if item.is_module_of(inside, flow.scope))
                layer = next(same, None)
                if layer is None:
                    layer = _Layer(".".join(place.path), place.number, beginning)
                    layers[place].append(layer)
                layer.enclosed(flow, states)
                layer.nodes |= inside
    return list(_told_apart(layer for some in layers.values() for layer in some))


def _told_apart(layers: Iterable[_Layer]) -> Iterator[_Layer]:
    """Yield layers, those of stacks with one name by streams and by how often their numbers begin again."""
    last: dict[tuple[Stack, Vertex | None], tuple[int, int]] = {}
    stacks: Counter[Stack] = Counter()
    ordered = sorted(layers, key=lambda layer: layer.place)
    often = Counter((layer.stack, layer.number) for layer in ordered)
    shared = {stack for (stack, _), times in often.items() if times > 1}
    for layer in ordered:
        stack = layer.stack
        if stack not in shared:
            yield layer
            continue
        key = stack, layer.beginning
        number, run = last.get(key, (layer.number, 0))
        if run == 0 or number >= layer.number:
            stacks[stack] += 1
            run = stacks[stack]
        last[key] = layer.number, run
        if run > 1:
            layer.name = ".".join((*stack[:-1], f"{stack[-1]}#{run}", str(layer.number)))
        yield layer


def _runs(
    flow: Flow, named: Mapping[Node, NumberedPath], wanted: set[NumberedPath]
) -> dict[NumberedPath, list[_Run]]:
    """Return the stretches of blocks that names put into one layer, and the states around each."""
    runs: dict[NumberedPath, list[_Run]] = defaultdict(list)
    for beginning in flow.beginnings if wanted else ():
        for chain in flow.chains(beginning):
            for place, blocks, beside in _stretches(chain, named):
                state = _around(blocks, chain) if place in wanted else None
                if state is not None:
                    inner = frozenset(vertex for block in blocks for vertex in block.inner)
                    if not flow.leaves_more(inner, state.behind):
                        runs[place].append(_Run(state, inner, beside, beginning))
        every = [run for some in runs.values() for run in some]
        if runs.keys() == wanted and all(run.state.is_bypass and not run.beside for run in every):
            break
    return {place: list(_apart(flow, some)) for place, some in runs.items()}


def _apart(flow: Flow, runs: Iterable[_Run]) -> Iterator[_Run]:
    """Yield runs that share nothing: from a beginning inside a layer, or up to a cache, only a part of it is seen.

    A run beside which there is more of its name is one only where all that belongs to others of the name.
    """
    seen: set[Vertex] = set()
    for run in sorted(runs, key=lambda run: (bool(run.beside), not run.state.is_bypass, -len(run.inner))):
        # What is computed of another stream for one of the others belongs to it.
        known = set(seen)
        for vertex in sorted(run.beside, key=place_of, reverse=True):
            known.update([vertex] if known.issuperset(flow.after.get(vertex, ())) else [])
        if seen.isdisjoint(run.inner) and known.issuperset(run.beside):
            yield run
            seen |= run.inner


def _stretches(
    chain: _Chain, named: Mapping[Node, NumberedPath]
) -> Iterator[tuple[NumberedPath, _Chain, frozenset[Vertex]]]:
    """Yield the blocks of each layer, one stretch after the other, with what the blocks beside it hold of the layer.

    Blocks that no name puts elsewhere belong to the layer around them; a residual branch, and an operator that only the
    stream goes through, to the one before it.
    """
    runs: list[tuple[set[NumberedPath], _Chain]] = []
    loose: _Chain = []
    behind: list[str] = []
    for block in chain:
        own = _places(block, named)
        if not own:
            loose.append(block)
            continue
        if runs and own == runs[-1][0]:
            runs[-1][1].extend([*loose, block])
        else:
            if runs:
                taken = [at for at, item in enumerate(loose) if _belongs(item, runs[-1][0])]
                loose = loose[: max(taken, default=-1) + 1]
                runs[-1][1].extend(loose)
                behind = [*map(_kind, loose)]
            runs.append((own, [block]))
        loose = []
    # Behind the last layer lies what lies behind the one before.
    if runs and [*map(_kind, loose[: len(behind)])] == behind:
        runs[-1][1].extend(loose[: len(behind)])
    chains: list[_Chain] = [[], *(run for _, run in runs), []]
    neighbours = zip(chains, runs, chains[2:], strict=False)
    for before, (own, run), after in neighbours:
        if len(own) == 1:
            (place,) = own
            inner = (vertex for block in (*before, *after) for vertex in block.inner)
            yield place, run, frozenset(vertex for vertex in inner if _place(vertex, named) == place)


def _belongs(block: Block, places: Collection[NumberedPath]) -> bool:
    """Return whether a block is of the layer before it: a residual branch, or an operator of the stream alone.

    Operators of modules around the layer may be, those of another one are not; the stream keeps its shape.
    """
    front, behind = block.front, block.behind
    nodes = (maker(vertex) for vertex in block.inner)
    paths = [tuple(node_path(node)) for node in nodes if node is not None]
    if any(place.path[: len(path)] != path for place in places for path in paths):
        return False
    if len(block.inner) > 1 or isinstance(front, Node) or isinstance(behind, Node):
        return len(block.inner) > 1
    node = behind.producer
    alone = node is not None and all(value is front or not value.rank for value in node.sources)
    return alone and front.elem_type == behind.elem_type and front.shape == behind.shape


def _places(block: Block, named: Mapping[Node, NumberedPath]) -> set[NumberedPath]:
    """Return the layers that names put a block into; a sum fused with the norm behind it belongs to none."""
    return {place for vertex in block.inner if (place := _place(vertex, named)) is not None}


def _place(vertex: Vertex, named: Mapping[Node, NumberedPath]) -> NumberedPath | None:
    node = None if is_sum(vertex) else maker(vertex)
    # The norm of a sum that others read, too, is that of the next layer: its operator has the name of the sum.
    return (
        None
        if node is None or (node in ADDS_AND_NORMALIZES and sum_of(node) is not node)
        else named.get(node)
    )


def _around(run: _Chain, chain: _Chain) -> State | None:
    """Return the states around some blocks, None if no stream goes around any of them, or one is no value."""
    if all(len(block.inner) == 1 for block in run):
        return None
    front, behind = run[0].front, run[-1].behind
    if isinstance(behind, Node):
        # The sum has no output of its own: the state is its norm.
        behind = next((block.behind for block in chain if block.front is behind), behind)
    return None if isinstance(front, Node) or isinstance(behind, Node) else State(front, behind)


def _structural(
    flows: Sequence[Flow], branches: Sequence[Site], named: Mapping[Node, NumberedPath]
) -> list[_Layer]:
    """The layers of streams that no name numbers."""
    stacks: dict[Stack, dict[Site, _Layer]] = defaultdict(dict)
    claimed: set[tuple[Flow, Site]] = set()
    for flow in flows:
        here = [site for site in branches if any(item.node.scope is flow.scope for item in site.projections)]
        chains = [chain for beginning in flow.beginnings if here for chain in flow.chains(beginning)]
        unnamed = [chain for chain in chains if not any(_places(block, named) for block in chain)]
        for some in sorted((_layers_of(flow, chain, here) for chain in unnamed), key=len, reverse=True):
            new = [(sites, state) for sites, state in some if (flow, sites[0]) not in claimed]
            claimed |= {(flow, site) for sites, _ in some for site in sites}
            stack = _common(sites for sites, _ in new) if named else ()
            for sites, state in new:
                # Both branches of a merged decoder have the layers.
                stacks[stack].setdefault(sites[0], _Layer("", 0)).enclosed(flow, [state])
    found: list[_Layer] = []
    for stack, layers in stacks.items():
        if named and (len(layers) < 2 or not stack):
            continue
        for number, layer in enumerate(sorted(layers.values(), key=lambda layer: layer.place)):
            layer.name, layer.number = ".".join((*stack, f"{LayerSite.UNNAMED}_{number}")), number
            found.append(layer)
    return found


def _common(sites: Iterable[Sequence[Site]]) -> Stack:
    """Return the longest common prefix of the module paths of some sites' nodes."""
    nodes = (item.node for some in sites for site in some for item in site.projections)
    return common_prefix(tuple(path) for node in nodes if (path := node_path(node)))


def _layers_of(flow: Flow, chain: _Chain, branches: Sequence[Site]) -> list[tuple[list[Site], State]]:
    """Return the layers of a chain of blocks with their sites."""
    at = {vertex: place for place, block in enumerate(chain) for vertex in block.inner}
    touched: dict[int, list[Site]] = defaultdict(list)
    for site in branches:
        places = {at.get(node.out) for node in (*(item.node for item in site.projections), *site.cores)}
        inside = {place for place in places if place is not None}
        if len(inside) == 1:
            touched[min(inside)].append(site)
    held: dict[int, list[Site]] = {}
    for place in sorted(touched):
        # Where no stream goes around a branch, it ends: what lies behind is another one's.
        if not flow.passes_by(chain[place]):
            break
        held[place] = touched[place]
    begins = {place for place, sites in held.items() if any(site.begins_layer for site in sites)}
    beside = {place for place, sites in held.items() if any(not site.begins_layer for site in sites)}
    starts: list[int] = []
    full = True
    for place in sorted(held):
        if (place in begins or not begins) and (full or not beside or not begins):
            starts.append(place)
            full = False
        full = full or place in beside
    layers: list[tuple[list[Site], State]] = []
    length = 0
    for start, stop in pairwise([*starts, len(chain)]):
        own = [place for place in held if start <= place < stop]
        # What is added between two layers is neither's. Without attention nothing shows where one begins: each block
        # is a layer.
        added = (place for place in range(max(own) + 1, stop) if _adds(chain[place]))
        stop = min(stop, next(added, stop))
        state = _around(chain[start:stop], chain) if stop < len(chain) and begins else None
        if state is None or not state.is_bypass:
            # Behind the last layer of a stream lies what repeats the one before, or its last block.
            again = chain[start : start + length]
            before = chain[starts[len(layers) - 1] :][:length] if layers else []
            same = bool(again) and [*map(_kind, again)] == [*map(_kind, before)]
            state = _around(again if same else chain[start : max(own) + 1], chain)
        else:
            length = stop - start
        if state is None:
            continue
        last = next(place for place, block in enumerate(chain) if block.behind is state.behind)
        inner = {vertex for block in chain[start : last + 1] for vertex in block.inner}
        if not flow.leaves_more(inner, state.behind):
            layers.append(([site for place in sorted(own) for site in held[place]], state))
    return layers


def _adds(block: Block) -> bool:
    """Return whether a block adds something of another kind than a bias to the stream: position embeddings."""
    node = maker(block.behind)
    return (
        len(block.inner) == 1
        and node is not None
        and node in PLAIN_SUMS
        and any(
            value is not block.front and (not value.is_constant or (value.rank or 0) > 1)
            for value in node.sources
        )
    )


def _kind(block: Block) -> str:
    """The operator that a block ends with."""
    node = maker(block.behind)
    return "" if node is None else node.op_type


def _site(known: Sequence[Site], layer: _Layer, number: int, label: str) -> LayerSite:
    parts = tuple(
        site
        for site in known
        if site.in_layers() and all(item.node in layer.nodes for item in site.projections)
    )
    free = {value for site in parts for value in site.free}
    gone = released(layer.states, free)
    elements, size = size_of(value for node in gone for value in node.sources if _only_in(value, gone))
    inside = outermost(parts)
    weights = (
        value
        for node in gone
        for value in (node.sources if COSTS.of(node) is not None else ())
        if value.is_constant and (value.rank or 0) > 1
    )
    others = max(size_of(weights)[0] - sum(site.params for site in inside), 0)
    reason = _why_not(layer)
    return LayerSite(
        index=LayerSite.FROM + number,
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


def _only_in(value: Value, nodes: set[Node]) -> bool:
    return (
        value.holds_tensor and not value.is_graph_output and all(use.node in nodes for use in value.consumers)
    )


def _why_not(layer: _Layer) -> Refusal | None:
    """Return why a layer cannot be the identity, None if it can."""
    first = min(layer.nodes, key=lambda node: node.index)
    if not layer.states:
        why = "no state of a residual stream lies in front of it and behind it, so it has no identity"
        return Refusal(Reason.NO_PROJECTION, first.label, first.out.name, why)
    for state in layer.states:
        if place_of(state.front) >= place_of(state.behind):
            why = f"{state.front.name}, which it reads, is computed behind {state.behind.name}: it has no identity"
            return Refusal(Reason.NO_PROJECTION, first.label, state.behind.name, why)
        if not state.is_bypass:
            front, behind = (f"{value.name} {_shape(value)}" for value in (state.front, state.behind))
            why = f"the state in front of it is {front}, and the one behind it {behind}: it has no identity"
            return Refusal(Reason.NO_PROJECTION, first.label, state.behind.name, why)
    return None


def _shape(value: Value) -> str:
    return "[?]" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
