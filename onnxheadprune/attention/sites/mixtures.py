"""Mixtures of experts: their units are experts, numbered as the router scores them.

A mixture is found where experts are chosen or weighed: from a TopK, an ArgMax, a fused mixture operator, a Softmax or
another function that is zero at minus infinity, labels walk upstream to the linear layer with an output channel per
expert, and from there forward to the weights (`routing_walk.py`). Experts own matrices: what chooses or weighs
anything smaller, or stored numbers that no activation is multiplied by, is not a router.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxheadprune.attention.sites.origins import origins
from onnxheadprune.attention.sites.products import PICKED_FROM, is_product, is_weight, weight_contraction
from onnxheadprune.attention.sites.projection import Projection, named_apart
from onnxheadprune.attention.sites.routing import Routing
from onnxheadprune.attention.sites.routing_values import MATRIX, PICKS
from onnxheadprune.attention.sites.routing_walk import routing_of
from onnxheadprune.attention.sites.site import Findings, Site
from onnxheadprune.attention.sites.stored_weights import weights_of
from onnxheadprune.attention.sites.streams import MAX_BELOW, Streams, contents, near
from onnxheadprune.edit.edits import Edit
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import (
    Notation,
    contraction_of,
    kernel_of,
    operand_indices,
    operands,
)
from onnxheadprune.liveness.layouts import is_fused, mixture_of
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.packed_blocks import is_packed
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed
from onnxheadprune.model.graph.operator import VANISHES, VIEWS, WEIGHS, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable, stored_behind
from onnxheadprune.settings.units import EXPERT

MOST_WEIGHED = 512
"""Experts that a Softmax or a gate weighs; more are tokens, classes or neurons."""
MAX_BESIDE = 4096
"""Values with the tokens of a router among which its experts are looked for."""
TOKENS = VIEWS | PICKS | kind("Cast", "Expand", "Tile")
"""Operators after which tokens are the same, or some of these."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureSite(Site):
    """The experts that one router chooses from."""

    KIND = EXPERT
    may_lose_groups = False

    routing: Routing  # the path of its scores

    @property
    def only_named(self) -> str | None:
        """The reason that data never selects its experts, None if data shows which experts tokens are routed to."""
        if not self.routing.chosen:
            return "each token goes through all of its experts"
        return None if self.routing.picks else "no value of the graph tells which experts are chosen"

    def answers(self, units: Iterable[int]) -> dict[Node, Answer]:
        """Return the answers of the operators in which scores of experts meet."""
        return self.routing.answers(tuple(units))

    def why_too_few(self, units: Sequence[int]) -> str | None:
        """Return why experts cannot be removed together: enough must remain to choose for each token."""
        return self.routing.why_too_few(units)

    def uneven(self) -> str:
        """Return the error if groups lose different numbers of experts."""
        return f"leave the {len(self.groups)} groups of its router with different numbers of experts, or with none"

    def inner(self, sites: Iterable[Site]) -> tuple[Site, ...]:
        """Those of the given sites that lie inside experts which are separate networks."""
        return tuple(
            site
            for site in sites
            if site is not self and self.routing.holds(item.node for item in site.projections)
        )

    @property
    def details(self) -> dict[str, str]:
        """The number of experts chosen per token, and the size of one in bytes."""
        return {
            "chosen": f"{self.routing.chosen:,}" if self.routing.chosen else "all",
            "bytes each": f"{self.bytes // self.num_units:,}",
        }

    def to_dict(self) -> dict[str, Any]:
        """The mixture as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {
            "chosen_per_token": self.routing.per_token,
            "groups": len(self.groups),
            "bytes_per_expert": self.bytes // self.num_units,
        }


@dataclass(frozen=True, eq=False)
class RoutedProjection(Projection):
    """The router of a mixture, which masks experts out of the computation."""

    routing: Routing  # the path of its scores

    @property
    def context(self) -> tuple[Value, tuple[int, ...]]:
        """The scores, and the axis of experts."""
        return self.node.out, (self.routing.axis,)

    def seeds(self, units: Iterable[int], site: str) -> Iterator[Seed]:
        """The demands of every node with an expert axis in its input."""
        gone = tuple(units)
        for item in self.routing.meetings:
            yield Seed(item.node, item.index, self.routing.left(item.live, gone), site)
        for end in self.routing.ends:
            if end.experts <= set(gone):
                yield from (Seed(end.node, index, DEAD, site) for index in end.indices)

    def edits(self, units: Iterable[int]) -> list[Edit]:
        """Edits of stored expert numbers, and edits that bypass experts which are separate networks."""
        gone = tuple(units)
        renumbered = (edit for item in self.routing.numbers for edit in item.edits(gone))
        return [*renumbered, *self.routing.bypasses(gone)]

    def why_not_cut(self, sets: Iterable[Sequence[int]]) -> str | None:
        """Experts lie on an axis of their own."""
        return None


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """All mixtures in graph order of their routers."""
    streams, seen = Streams(), dict[Node, MixtureSite]()
    for router, live, experts, is_gate in _routers(view, streams):
        if router in seen and seen[router].reason is None:
            continue
        routing = routing_of(router, live, experts)
        routing.is_gate = is_gate
        site = _site(routing)
        if site is None:
            continue
        if router in seen and site.reason is not None:
            # Of what cannot be cut, the first is the finest.
            continue
        seen[router] = site
        before = next((other for other in known if other.removed and other.numbers_by(site)), None)
        why = (
            ""
            if before is None
            else f"{before.label} has lost {before.KIND.units} before; remove experts first"
        )
        if why:
            seen[router] = _refused(site, why)
    sites = sorted(seen.values(), key=lambda site: site.routing.router.index)
    names = named_apart([(site.projections, site.routing.picked) for site in sites], EXPERT.unnamed)
    return Findings(
        [
            replace(site, name=name, index=EXPERT.first + number)
            for number, (site, name) in enumerate(zip(sites, names, strict=True))
        ]
    )


def _layers(matrices: Value) -> Iterator[Node]:
    """Yield the nodes that multiply activations by stored matrices, or by those that are picked of them."""

    def same(value: Value) -> Iterable[Value]:
        for use in value.consumers:
            is_same = use.input_index == 0 and use.node in PICKED_FROM | kind("Expand", "Slice", "Split")
            if is_same or use.node.out.is_constant:
                yield from use.node.results

    for value in reachable([matrices], same, MAX_BELOW):
        for use in value.consumers:
            product = contraction_of(use.node)
            if mixture_of(use.node) is not None:
                yield use.node
            elif product is not None and use.input_index in product.indices:
                letters = product.axes_of(use.input_index)
                is_matrix = any(product.owners(letter) == (use.input_index,) for letter in letters if letter)
                reads = any(not item.is_constant for item in operands(use.node, product) if item is not value)
                if is_matrix and reads and not product.contracted.isdisjoint(letters):
                    yield use.node


def _routers(view: GraphView, streams: Streams) -> Iterator[tuple[Node, Live, int, bool]]:
    """Yield linear layers that may be routers, with the expert of each output, their number, and whether it is a gate.

    Of one layer that may have different numbers of experts, those with most come first: others are groups of these.
    """
    found: dict[tuple[Node, int], Live] = {}
    chosen_among = set[Node]()
    for node in view.needed:
        for value, axis, size in _scores(node):
            read = _router(value, axis, size, streams)
            if read is not None and not _is_of_neurons(node, *read):
                router, live, experts = read
                chosen_among.update([router] if node not in VANISHES else [])
                found.setdefault((router, experts), live)
                if live.array.size > experts:
                    # Groups of experts, or slots of these.
                    found.setdefault((router, live.array.size), Live.numbered(live.axes[0], live.array.size))
    for (node, size), live in sorted(found.items(), key=lambda item: (item[0][0].index, -item[0][1])):
        yield node, live, size, node not in chosen_among


def _scores(node: Node) -> Iterator[tuple[Value, int, int]]:
    """Yield the scores by which a node chooses or weighs, with an axis that may be that of experts, and its length."""
    layout, choice = mixture_of(node), node.choice
    value = node.input(0 if layout is None else layout.read[1])
    if value is None or not value.shape:
        return
    last = len(value.shape) - 1
    if choice is not None:
        axes: Iterable[int] = [choice.axis]
    elif layout is not None:
        axes = [last]
    elif node in WEIGHS | VANISHES and _is_of_layer(value):
        # Slots of experts are weighed among all tokens, or among those of all experts.
        axes = range(last, -1, -1) if node in WEIGHS else [last]
    else:
        return
    for axis in axes:
        size = value.shape[axis]
        if isinstance(size, int) and 1 < size <= (
            MOST_WEIGHED if choice is None and layout is None else math.inf
        ):
            yield value, axis, size


def _is_of_layer(value: Value) -> bool:
    """Return whether a value comes from a linear layer, with no other product of matrices in between."""

    def above(item: Value) -> Iterable[Value]:
        node = item.producer
        return (
            () if node is None or (operand_indices(node) and is_product(node) is not None) else node.computed
        )

    walk = reachable([value], lambda item: () if _is_layer(item) else above(item), MAX_BELOW)
    return any(map(_is_layer, walk))


def _is_layer(value: Value) -> bool:
    return value.producer is not None and weight_contraction(value.producer, is_weight) is not None


def _is_of_neurons(node: Node, layer: Node, live: Live, experts: int) -> bool:
    """Return whether a node is the activation of neurons of stacked or grouped networks.

    A router is one network, and a gate computes one number for each expert.
    """
    read = weight_contraction(layer, is_weight)
    is_stacked = read is not None and len(_own_axes(layer, read[0], read[2])) > 1
    return node in VANISHES and (is_stacked or live.array.size > experts)


def _own_axes(layer: Node, product: Notation, weight: int) -> list[int]:
    """The axes of a linear layer's output that are those of its weight alone."""
    shape = layer.out.shape or ()
    return [
        at
        for at, letter in enumerate(product.out_axes)
        if product.owners(letter) == (weight,) and shape[at] != 1
    ]


def _router(value: Value, axis: int, size: int, streams: Streams) -> tuple[Node, Live, int] | None:
    """The linear layer that scores experts, the expert of each of its outputs, and the number of experts.

    Where only some of its outputs are read, each is an expert: others are read elsewhere.
    """
    made = origins(value, (axis,), (size,), streams)
    for router, rows in sorted(made.makers.items(), key=lambda item: item[0].index):
        read, labels = weight_contraction(router, is_weight), [label for row in rows for label in row]
        if read is None or router.out.shape is None or max(map(len, rows), default=0) > 1:
            continue
        product, _, weight = read
        own = [at for at in _own_axes(router, product, weight) if router.out.shape[at] == len(rows)]
        slots = Counter(labels)
        if product.batch or len(own) != 1 or len(slots) != size or len(set(slots.values())) > 1:
            continue
        if len(labels) == len(rows):
            return router, Live.over(own, np.asarray(labels)), size
        if len(labels) == size:
            return router, Live.numbered(own[0], len(rows)), len(rows)
    return None


def _site(routing: Routing) -> MixtureSite | None:
    """The mixture that a router chooses experts of, None where no stored matrices are chosen."""
    experts, router = routing.experts, routing.router
    read = weight_contraction(router, is_weight)
    assert read is not None
    every = tuple((expert,) for expert in range(experts))
    groups, uneven = _groups(routing)
    site = MixtureSite(
        index=EXPERT.first,
        name="",
        num_units=experts,
        groups=groups,
        projections=(RoutedProjection(router, (read[1], ()), None, (routing.experts,), every, routing),),
        cores=tuple(routing.picked),
        units=every,
        whole=False,
        original_num_units=experts,
        routing=routing,
        reason=routing.stop or uneven,
    )
    if site.reason is not None:
        return site if _chooses_networks(routing) else None
    return _measured(site, routing)


def _chooses_networks(routing: Routing) -> bool:
    """Return whether there are experts that a router may choose from, though it is not known how it does so.

    They are picked or bypassed, stacked, or beside a router that chooses, and read what it reads, or rows of that.
    """
    if len(_own_networks(routing)) > 1 or any(map(_holds_networks, routing.picked)):
        return True
    if routing.is_gate:
        # Neurons have activations, too.
        return False
    layers: list[tuple[object, ...]] = []
    own = _weight_shape(routing.router)

    def tokens(value: Value) -> Iterable[Value]:
        """Yield values with the same tokens, or some of these."""
        for use in value.consumers:
            if use.node in TOKENS and use.input_index == 0:
                yield from use.node.results

    for value in reachable(near(routing.router.computed[0]), tokens, MAX_BESIDE):
        for node in (use.node for use in value.consumers):
            # What is as large as the router may be a layer like it.
            shape = _weight_shape(node)
            if shape is not None and shape != own:
                layers.append(shape)
    counts = {routing.experts, routing.live.array.size}
    if any(len(shape) > MATRIX and not counts.isdisjoint(shape) for shape in layers):
        return True
    return bool(routing.chosen) and max(map(layers.count, layers), default=0) >= routing.experts


def _own_networks(routing: Routing) -> list[int]:
    """The experts that are networks of their own with stored weights."""

    def above(value: Value) -> Iterator[Value]:
        kept = routing.networks.kept
        is_router = value is routing.router.out
        return (item for item in value.sources if kept.get(item, FULL).is_dead and not is_router)

    found = dict[int, None]()
    for end in routing.ends:
        summed = [end.node.inputs[index] for index in end.indices]
        computed = reachable((value for value in summed if value is not None), above)
        if len(end.experts) == 1 and any(item.holds_tensor and any(_layers(item)) for item in computed):
            found |= dict.fromkeys(end.experts)
    return sorted(found)


def _weight_shape(layer: Node) -> tuple[object, ...] | None:
    """Return the shape of the stored weight of a linear layer, None for other nodes."""
    read = weight_contraction(layer, is_weight)
    weight = None if read is None else stored_behind(layer.inputs[read[2]])
    shape = None if weight is None else weight.shape
    return shape[:MATRIX] if shape is not None and _has_more(layer) else shape


def _has_more(layer: Node) -> bool:
    """Return whether the weight has axes behind its matrix: windows of a convolution, or the bytes of a block."""
    return kernel_of(layer) is not None or is_packed(layer)


def _groups(routing: Routing) -> tuple[tuple[tuple[int, ...], ...], Refusal | None]:
    """Experts in the router's groups of equal size, else all in one group, with the reason."""
    every = tuple(range(routing.experts))
    sets = {
        tuple(map(tuple, (item.live.array - 1).tolist()))
        for item in routing.meetings
        if item.live.array.ndim > 1
    }
    if not sets:
        return (every,), None
    groups = next(iter(sets))
    if len(sets) > 1 or sorted(expert for group in groups for expert in np.ravel(group)) != list(every):
        label = routing.router.label
        why = f"the router {label} has its experts in groups of several kinds"
        return (every,), Refusal(Reason.INEXPRESSIBLE, label, routing.router.out.name, why)
    return groups, None


def _measured(site: MixtureSite, routing: Routing) -> MixtureSite | None:
    """A site with the size of its experts, or the reason why none can be removed.

    None if what it weighs or picks is no output of networks with stored weights of their own.
    """
    label, own = routing.router.label, _own_networks(routing)
    if routing.ends and len(own) < 2:
        return None
    gone = (own[0],) if own else tuple(group[0] for group in site.groups)
    try:
        trial = sweep(list(site.seeds(gone)), answers=site.answers(gone))
    except RefusedError as error:
        return _refused(site, str(error)) if _chooses_networks(routing) else None
    held = (value for value, live in trial.narrowed() if _holds_matrix(value, live, len(gone)))
    layers = {layer for value in held for layer in _layers(value)} - {routing.router}
    if routing.picked:
        layers &= {layer for node in routing.picked for layer in (node, *_layers(node.out))}
    elif not routing.ends:
        layers &= _weighed(routing)
    if not layers:
        if not _chooses_networks(routing):
            return None
        stored = any(item.node in routing.picked and item.is_stored for item in routing.meetings)
        why = (
            "read by something else, too" if stored or not routing.picked else "computed when the model runs"
        )
        return _refused(site, f"the experts that {label} chooses are {why}")
    elements, size, _ = weights_of(trial)
    share = site.num_units / len(gone)
    return replace(site, params=round(elements * share), bytes=round(size * share))


def _holds_networks(picked: Node) -> bool:
    """Return whether a node holds experts, or picks matrices that activations are multiplied by."""
    return mixture_of(picked) is not None or any(_layers(picked.out))


def _weighed(routing: Routing) -> set[Node]:
    """Return the nodes that compute what scores are multiplied by, up to an attention; not those of the scores."""

    def factors(node: Node) -> list[Value]:
        multiplies = is_a(node, "Mul") or contraction_of(node) is not None
        return [value for value in contents(node) if multiplies or value in routing.scored]

    def above(value: Value) -> list[Value]:
        node = value.producer
        if node is None or node is routing.router:
            return []
        if value in routing.scored:
            return factors(node)
        mixes = is_fused(node) or (contraction_of(node) is not None and is_product(node) is not None)
        return [] if mixes else list(contents(node))

    met = {item.node for item in routing.meetings}
    values = reachable((value for node in met for value in factors(node)), above)
    return {value.producer for value in values if value.producer is not None} - met


def _holds_matrix(value: Value, live: Live, experts: int) -> bool:
    """Return whether a stored tensor loses a matrix for each of some experts: windows of a convolution are none."""
    if value.tensor is None or value.shape is None:
        return False
    left = [live.narrow(dim, axis) for axis, dim in enumerate(value.shape)]
    lost = [
        (dim - kept) // experts if isinstance(dim, int) and isinstance(kept, int) and dim != kept else dim
        for dim, kept in zip(value.shape, left, strict=True)
    ]
    has_more = any(_has_more(use.node) for use in value.consumers)
    return sum(dim != 1 for dim in lost[: MATRIX if has_more else None]) >= MATRIX


def _refused(site: MixtureSite, why: str) -> MixtureSite:
    router = site.routing.router
    return replace(site, reason=Refusal(Reason.INEXPRESSIBLE, router.label, router.out.name, why))
