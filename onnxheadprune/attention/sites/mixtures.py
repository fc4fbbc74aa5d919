"""Mixtures of experts: their units are experts, numbered as the router scores them.

A mixture is found where experts are chosen or weighed: from a TopK, an ArgMax, a fused mixture operator, a Softmax or
another function that is zero at minus infinity, labels walk upstream to the linear layer with an output channel per
expert, and from there forward to the weights (`routing_walk.py`). Experts own matrices: what chooses or weighs
anything smaller, or stored numbers that no activation is multiplied by, is not a router.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxheadprune.attention.sites.origins import origins
from onnxheadprune.attention.sites.products import PICKED_FROM, is_product, is_weight, weight_contraction
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.routing import Routing, stays
from onnxheadprune.attention.sites.routing_walk import MATRIX, routing_of
from onnxheadprune.attention.sites.site import Findings, Site, numbered
from onnxheadprune.attention.sites.stored_weights import weights_of
from onnxheadprune.attention.sites.streams import MAX_BELOW, Streams, contents
from onnxheadprune.attention.sites.zeros import PICKS
from onnxheadprune.edit.edits import Edit
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import (
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
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.operator import VANISHES, WEIGHS, is_a
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.settings.units import EXPERT

MOST_WEIGHED = 512
"""Experts that a Softmax or a gate weighs; more are tokens, classes or neurons."""


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
        """Return the answers of the operators that no rule lets scores pass."""
        gone = tuple(units)
        return {
            node: Answer(
                {index: stays(source, gone) for index, source in inputs.items()},
                kept=tuple(stays(live, gone) for _ in node.outputs),
            )
            for node, (live, inputs) in self.routing.through.items()
        }

    def why_too_few(self, units: Sequence[int]) -> str | None:
        """Return why experts cannot be removed together: enough must remain to choose for each token."""
        # A choice that follows another one finds its experts taken.
        every = (Live.numbered(0, self.num_units), 0, max(self.routing.chosen, 1))
        for live, axis, count in (*self.routing.least, every):
            alive = ~np.isin(live.array, np.asarray(units, np.int64) + 1)
            left = int(np.count_nonzero(alive, axis=live.axes.index(axis)).min())
            if left < count:
                return f"{left} would be left to choose {count} from for each token"
        return None

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
            yield Seed(item.node, item.index, stays(item.live, gone), site)
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
    seen = dict[Node, MixtureSite]()
    for router, live, experts in _routers(view):
        site = None if router in seen else _site(routing_of(router, live, experts))
        if site is not None:
            before = next((other for other in known if other.removed and other.numbers_by(site)), None)
            seen[router] = site if before is None else _refused(site, _too_late(before))
    return Findings(numbered(seen.values()))


def _too_late(before: Site) -> str:
    return f"{before.label} has lost {before.KIND.units} before; remove experts first"


def _layers(matrices: Value) -> Iterator[Node]:
    """Yield the nodes that multiply activations by stored matrices, or by those that are picked of them."""

    def same(value: Value) -> Iterable[Value]:
        for use in value.consumers:
            if use.input_index == 0 and use.node in PICKED_FROM:
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


def _routers(view: GraphView) -> Iterator[tuple[Node, Live, int]]:
    """Yield linear layers that may be routers, with the expert of each output, and their number.

    Of one layer that may have different numbers of experts, those with most come first: others are groups of these.
    """
    found, streams = dict[tuple[Node, int], Live](), Streams()
    for node in view.needed:
        for value, axis, size in _scores(node):
            read = _router(value, axis, size, streams, is_gate=node in VANISHES)
            if read is not None:
                router, live = read
                found.setdefault((router, size), live)
                # Groups of experts, or slots of these.
                found.setdefault((router, live.array.size), Live.numbered(live.axes[0], live.array.size))
    for (node, size), live in sorted(found.items(), key=lambda item: (item[0][0].index, -item[0][1])):
        yield node, live, size


def _scores(node: Node) -> Iterator[tuple[Value, int, int]]:
    """Yield the scores by which a node chooses or weighs, with an axis that may be that of experts, and its length."""
    layout, choice = mixture_of(node), node.choice
    value = node.input(0 if layout is None else layout.read[1])
    if value is None or not value.shape:
        return
    last, is_choice = len(value.shape) - 1, choice is not None or layout is not None
    # Slots of experts are weighed among all tokens, or among those of all experts.
    weighed = range(last, -1, -1) if node in WEIGHS else [last] if node in VANISHES else []
    for axis in [last if choice is None else choice.axis] if is_choice else weighed:
        size = value.shape[axis]
        if isinstance(size, int) and size > 1 and (is_choice or size <= MOST_WEIGHED):
            yield value, axis, size


def _router(
    value: Value, axis: int, size: int, streams: Streams, *, is_gate: bool
) -> tuple[Node, Live] | None:
    """The linear layer that scores experts, and the expert of each of its outputs.

    A router is one network, and a gate computes one number for each expert: others, stacked or in groups, are neurons.
    """
    made = origins(value, (axis,), (size,), streams)
    for router, rows in sorted(made.makers.items(), key=lambda item: item[0].index):
        read, shape, slots = weight_contraction(router, is_weight), router.out.shape or (), Counter(rows)
        if read is None or read[0].batch or any(len(row) != 1 for row in rows):
            continue
        letters = enumerate(read[0].out_axes)
        own = [at for at, letter in letters if read[0].owners(letter) == (read[2],) and shape[at] != 1]
        axes = [at for at in own if shape[at] == len(rows)]
        if len(axes) == 1 and len(slots) == size and len(set(slots.values())) == 1:
            is_of_neurons = is_gate and (len(own) > 1 or len(rows) > size)
            return (
                None if is_of_neurons else (router, Live.over(axes, np.asarray([min(row) for row in rows])))
            )
    return None


def _site(routing: Routing) -> MixtureSite | None:
    """The mixture that a router chooses experts of; with the reason where none can be removed.

    None where what it weighs or picks is no output of networks with stored weights of their own.
    """
    router, own = routing.router, _own_networks(routing)
    read = weight_contraction(router, is_weight)
    assert read is not None
    if routing.ends and len(own) < 2:
        return None
    every = tuple((expert,) for expert in range(routing.experts))
    groups, uneven = _groups(routing)
    site = MixtureSite(
        index=EXPERT.first,
        name="",
        num_units=routing.experts,
        groups=groups,
        projections=(RoutedProjection(router, (read[1], ()), None, (routing.experts,), every, routing),),
        cores=tuple(routing.picked),
        units=every,
        whole=False,
        original_num_units=routing.experts,
        routing=routing,
        reason=routing.stop or uneven,
    )
    gone = tuple(group[0] for group in groups)
    few = site.why_too_few(gone)
    try:
        trial = sweep(list(site.seeds(gone)), answers=site.answers(gone))
    except RefusedError:
        return None
    if not _layers_of_experts(routing, trial, len(gone)):
        if not _picks_networks(routing):
            return None
        return _refused(site, f"the experts that {router.label} chooses are read by something else, too")
    if few is not None:
        return _refused(site, f"{router.label} needs all of its experts: {few}")
    elements, size, _ = weights_of(trial)
    share = site.num_units / len(gone)
    return replace(site, params=round(elements * share), bytes=round(size * share))


def _layers_of_experts(routing: Routing, trial: Sweep, gone: int) -> set[Node]:
    """The linear layers that lose a matrix for each of some experts, and compute what the router picks or weighs."""
    held = (value for value, live in trial.narrowed() if _holds_matrix(value, live, gone))
    layers = {layer for value in held for layer in _layers(value)} - {routing.router}
    return layers if routing.ends or routing.picked else layers & _weighed(routing)


def _picks_networks(routing: Routing) -> bool:
    """Return whether a router picks experts, with no layer in between, though it may not be known how it does so."""

    def behind(value: Value) -> Iterator[Value]:
        for use in value.consumers:
            yield from () if operand_indices(use.node) else use.node.results

    uses = (use for value in reachable([routing.router.out], behind, MAX_BELOW) for use in value.consumers)
    picked = [use.node for use in uses if use.node in PICKS and use.input_index == 1]
    picked = [node for node in picked if (table := node.input(0)) is not None and table.is_constant]
    return any(mixture_of(node) is not None or any(_layers(node.out)) for node in (*routing.picked, *picked))


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


def _weighed(routing: Routing) -> set[Node]:
    """Return the nodes that compute what scores are multiplied by, up to an attention; not those of the scores.

    An expert outputs several numbers and its score is one: a product over experts of one number each weighs no
    networks, nor does one of several each, as that of queries with the sums of keys times values in linear attention.
    """
    met = {item.node for item in routing.meetings}

    def factors(node: Node) -> list[Value]:
        product, shape = contraction_of(node), node.out.shape or ()
        scores = [value for value in contents(node) if value in routing.scored]
        if product is None:
            return [*(contents(node) if is_a(node, "Mul") else ()), *scores]
        sizes = zip(product.out_axes, shape, strict=False)
        wide = {product.owners(letter) for letter, size in sizes if size != 1}
        several = [value for index, value in enumerate(node.inputs) if (index,) in wide and value is not None]
        others = [value for value in several if value not in routing.scored]
        if node in met and len(others) < len(several) and not all(value.is_constant for value in others):
            return []
        return [*several, *scores]

    def above(value: Value) -> list[Value]:
        node = value.producer
        if node is None or node is routing.router:
            return []
        if value in routing.scored:
            return factors(node)
        mixes = is_fused(node) or (contraction_of(node) is not None and is_product(node) is not None)
        return [] if mixes else list(contents(node))

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
    refusal = Refusal(Reason.INEXPRESSIBLE, router.label, router.out.name, why)
    return replace(site, reason=site.reason or refusal)
