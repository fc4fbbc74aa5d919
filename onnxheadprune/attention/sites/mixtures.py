"""Mixtures of experts: their units are experts, numbered as the router scores them.

A mixture is found where experts are chosen: from a TopK, an ArgMax or a fused mixture operator, labels
walk upstream to the linear layer with one output channel per expert, and from there forward to the weights
(`routing_walk.py`). A TopK that does not pick stored matrices is not a router.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxheadprune.attention.sites.kinds import MixtureSite
from onnxheadprune.attention.sites.origins import origins
from onnxheadprune.attention.sites.products import is_weight, weight_contraction
from onnxheadprune.attention.sites.projection import Projection, named_apart
from onnxheadprune.attention.sites.routing import Routing
from onnxheadprune.attention.sites.routing_values import MATRIX
from onnxheadprune.attention.sites.routing_walk import routing_of
from onnxheadprune.attention.sites.stored import weights_of
from onnxheadprune.attention.sites.streams import MAX_BELOW, SUMS_VALUES, Streams, is_layer, near
from onnxheadprune.attention.sites.unit import Findings, Site
from onnxheadprune.edit.edits import Edit
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.layouts import mixture_of
from onnxheadprune.liveness.live import DEAD
from onnxheadprune.liveness.registry import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.swept import Seed
from onnxheadprune.model.graph.tables import choice_of
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable


@dataclass(frozen=True, eq=False)
class RoutedProjection(Projection):
    """The router of a mixture, which masks experts out of the computation.

    Attributes:
        routing: the path of its scores.
    """

    routing: Routing

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
            if end.expert in gone:
                yield from (Seed(end.node, index, DEAD, site) for index in end.indices)

    def edits(self, units: Iterable[int]) -> list[Edit]:
        """Edits of stored expert numbers, and edits that bypass experts which are separate networks."""
        routing, gone = self.routing, tuple(units)
        left = routing.experts - len(gone)
        found = [edit for item in routing.renumbered for edit in item.edits(left, routing.experts)]
        found += [edit for item in routing.singles for edit in item.edits(gone)]
        return [*found, *routing.bypasses(gone)]

    def why_not_cut(self, sets: Iterable[Sequence[int]]) -> str | None:
        """Experts lie on an axis of their own."""
        return None


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """All mixtures in graph order of their routers.

    Args:
        view: an annotated view.
        known: sites of other kinds; neurons inside experts are theirs.
    """
    streams, seen, sites = Streams(), set[Node](), list[MixtureSite]()
    numbered = {core: site for site in known if site.INSIDE and site.removed for core in site.cores}
    for node in view.needed:
        scores = _scores(node)
        router = None if scores is None else _router(*scores, streams)
        if router is None or router[0] in seen:
            continue
        seen.add(router[0])
        site = _site(routing_of(*router))
        if site is None:
            continue
        before = next((numbered[core] for core in site.cores if core in numbered), None)
        why = "" if before is None else f"{before.label} has lost {before.UNITS} before; remove experts first"
        sites.append(_refused(site, why) if why else site)
    sites.sort(key=lambda site: site.routing.router.index)
    blocks = [site for site in known if site.CHOSEN and site.is_branch and not site.CORED]
    sites = [replace(site, shared=_shared(site.routing.router, blocks)) for site in sites]
    names = named_apart([(site.projections, site.routing.picked) for site in sites], MixtureSite.UNNAMED)
    return Findings(
        [
            replace(site, name=name, index=MixtureSite.FROM + number)
            for number, (site, name) in enumerate(zip(sites, names, strict=True))
        ]
    )


def _scores(node: Node) -> tuple[Value, int, int] | None:
    """The scores by which a node chooses, with the axis of experts and its length; None for other nodes."""
    layout, choice = mixture_of(node), choice_of(node)
    value = node.input(0 if layout is None else layout.read[1])
    if value is None or not value.shape or (layout is None and choice is None):
        return None
    axis = len(value.shape) - 1 if choice is None else choice.axis
    size = value.shape[axis]
    return (value, axis, size) if isinstance(size, int) and size > 1 else None


def _router(value: Value, axis: int, size: int, streams: Streams) -> tuple[Node, int, int] | None:
    """The linear layer that scores experts, the expert axis of its output, and the number of experts."""
    made = origins(value, (axis,), (size,), streams)
    whole = [frozenset({label}) for label in range(1, size + 1)]
    routers = sorted(
        (node for node, rows in made.makers.items() if rows == whole), key=lambda node: node.index
    )
    for router in routers:
        read = weight_contraction(router, is_weight)
        if read is None or router.out.shape is None:
            continue
        product, _, weight = read
        own = [at for at, letter in enumerate(product.out_axes) if product.owners(letter) == (weight,)]
        if len(own) == 1 and router.out.shape[own[0]] == size:
            return router, own[0], size
    return None


def _site(routing: Routing) -> MixtureSite | None:
    """The mixture that a router chooses experts of, None where no stored matrices are chosen."""
    experts, router = routing.units, routing.router
    read = weight_contraction(router, is_weight)
    assert read is not None
    every = tuple((expert,) for expert in range(experts))
    groups, uneven = _groups(routing)
    site = MixtureSite(
        index=MixtureSite.FROM,
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
        return site if routing.picked or routing.ends else None
    return _measured(site, routing)


def _groups(routing: Routing) -> tuple[tuple[tuple[int, ...], ...], Refusal | None]:
    """Experts in the router's groups of equal size, else all in one group, with the reason."""
    every = tuple(range(routing.units))
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
    """A site with the size of its experts, or the reason why none can be removed; None where experts own nothing."""
    label = routing.router.label
    gone = tuple(group[0] for group in site.groups)
    try:
        trial = sweep(list(site.seeds(gone)), answers=site.answers(gone))
    except RefusedError as error:
        return _refused(site, str(error)) if routing.picked else None
    matrices = [
        value
        for value, live in trial.narrowed()
        if value.tensor is not None and len(value.shape or ()) >= (MATRIX if live.is_dead else MATRIX + 1)
    ]
    if not matrices and not routing.picked:
        return None
    if not matrices:
        stored = any(item.node in routing.picked and item.is_stored for item in routing.meetings)
        why = "read by something else, too" if stored else "computed when the model runs"
        return _refused(site, f"the experts that {label} chooses are {why}")
    elements, size, _ = weights_of(trial)
    share = site.num_units / len(gone)
    return replace(site, params=round(elements * share), bytes=round(size * share))


def _shared(router: Node, blocks: Iterable[Site]) -> tuple[str, ...]:
    """The keys of the feed-forward blocks that are shared experts.

    They read the same input as the router, and their outputs are added to those of the experts without a score.
    """
    stream = frozenset(near(router.computed[0]))

    @functools.cache
    def is_routed(value: Value) -> bool:
        return any(item is router.out for item in reachable([value], since))

    def since(value: Value) -> Iterable[Value]:
        node = value.producer
        return () if node is None or node.index <= router.index else node.computed

    def added(value: Value) -> Iterator[Value]:
        """Values computed from one, up to a sum with the output of the experts."""
        for node in (use.node for use in value.consumers if not is_routed(value) and not is_layer(use.node)):
            yield from (made for made in node.results if node in SUMS_VALUES or not is_routed(made))

    def is_beside(block: Site) -> bool:
        ends = [projection.node for projection in block.projections]
        read = [value for node in (*block.cores, *ends) for value in node.computed]
        reads_stream = any(
            not stream.isdisjoint(near(value)) for core in block.cores for value in core.computed
        )
        behind = reachable([node.out for node in ends], added, MAX_BELOW) if reads_stream else ()
        return not any(map(is_routed, read)) and any(map(is_routed, behind))

    return tuple(block.key for block in blocks if is_beside(block))


def _refused(site: MixtureSite, why: str) -> MixtureSite:
    router = site.routing.router
    return replace(site, reason=Refusal(Reason.INEXPRESSIBLE, router.label, router.out.name, why))
