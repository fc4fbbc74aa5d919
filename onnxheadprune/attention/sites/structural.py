"""Finding sites by structure: contractions with weights whose summed axis comes from a product of activations."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import permutations

from onnxheadprune.attention.sites.all_sites import AttentionSite
from onnxheadprune.attention.sites.attention_near_misses import LeftOut, Stop, left_out
from onnxheadprune.attention.sites.core import Core
from onnxheadprune.attention.sites.describe import Anatomy, anatomy, features
from onnxheadprune.attention.sites.grouping import Block, Candidate, group, merge_branches
from onnxheadprune.attention.sites.needed import foreign, held_caches, needed_heads, still_computed
from onnxheadprune.attention.sites.products import (
    is_product,
    is_weight,
    reaches,
    rows_of_stored_queries,
    summed,
    weight_contraction,
)
from onnxheadprune.attention.sites.projection import named_apart
from onnxheadprune.attention.sites.site import caller_demands, united
from onnxheadprune.attention.sites.stored_weights import units_together, weights_of, why_not_cut
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.domain import Masks
from onnxheadprune.liveness.index_notation import contraction_of, operands
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.operator import OBSERVES, WEIGHS
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.settings.units import HEAD


def find_structural(view: GraphView, named: Container[str] = ()) -> tuple[list[AttentionSite], LeftOut]:
    """All sites in graph order of their cores, and attention that is no site.

    Args:
        named: known outputs of attention projections, since a last head may not look like one.
    """
    candidates, mixers, stopped = _scan(view)
    known: dict[Block, Anatomy] = {}
    for block in merge_branches(group(candidates)):
        parts = _stop_of(block, named) or anatomy(block)
        if isinstance(parts, Anatomy):
            known[block] = parts
            continue
        node = block.projections[0].node
        stop = Stop(node, parts) if isinstance(parts, Reason) else Stop(node, parts.reason, parts)
        stopped |= {core.node: stop for core in block.cores}
    sites = []
    makers = ((block.projections, [core.node for core in block.cores]) for block in known)
    names = named_apart(makers, HEAD.unnamed)
    for index, ((block, parts), name) in enumerate(zip(known.items(), names, strict=True)):
        sites.append(_planned(view, _judged(_site(index, name, block, parts), block, parts, mixers)))
    claimed = {core.node for block in known for core in block.cores}
    return sites, left_out(view, claimed, stopped)


def _stop_of(block: Block, named: Container[str]) -> Reason | None:
    """Return why a block of one head may have several, or is no attention; None where it is one."""
    if block.num_heads > 1:
        return None
    if _has_folded_heads(block):
        return Reason.INEXPRESSIBLE
    pools = not any(item.node.out.name in named for item in block.projections)
    return Reason.NO_PROJECTION if pools and not _attends(block.cores[0]) else None


def _has_folded_heads(block: Block) -> bool:
    """Return whether there is only one head, but with more channels than its context has features.

    Then different pieces of the context, along an axis without labels, feed different channels: heads
    that were folded into an axis of symbolic length (`[heads * batch, S, D]`, split into `batch` again).
    """
    if len(block.cores) != 1:
        return False
    core = block.cores[0]
    width = features(core)
    if width is None:
        return False
    return any(len(item.channels[0]) > width * core.tokens for item in block.projections)


def _scan(view: GraphView) -> tuple[list[Candidate], set[Node], dict[Node, Stop]]:
    """The layers that sum over heads, those that mix attention maps, and the nodes that stop heads of products."""
    tracer = Tracer()
    candidates: list[Candidate] = []
    mixers: set[Node] = set()
    stopped: dict[Node, Stop] = {}
    for node in view.needed:
        read = summed(node, is_weight, afterwards=True)
        if read is None:
            continue
        trace = tracer.trace(read.value, read.activation[1], read.sizes)
        if not trace.cores and (trace.of_maps or reaches(node, read.activation[0], mixers.__contains__)):
            mixers.add(node)
        if trace.cores and trace.is_alike and (trace.shared or tracer.treats_heads_alike(node)):
            for core in trace.cores:
                stopped.setdefault(core.node, Stop(node, Reason.NO_PROJECTION))
        elif trace.cores and all(_is_of_contents(core.node) for core in trace.cores):
            candidates.append(Candidate(read, trace.cores))
    return candidates, mixers, stopped


def _is_of_contents(node: Node) -> bool:
    """Return whether a node depends on contents of inputs or on linear layers, unlike position encodings."""

    def above(current: Node) -> list[Node]:
        values = () if current in OBSERVES else current.computed
        return [value.producer for value in values if value.producer is not None]

    for current in reachable([node], above):
        found = contraction_of(current)
        if found is not None and any(map(is_weight, operands(current, found))):
            # Stored queries that attend to each other read nothing of an input but its batch (DETR's first layer).
            return True
        if current not in OBSERVES and any(value.producer is None for value in current.computed):
            return True
    return False


def _attends(core: Core) -> bool:
    """Return whether a core is attention, not pooling: its values are projected, and its weights come from a product.

    Where channels attend to channels the weights have the channel axis; a softmax shows that they are weights.
    """
    node = core.node
    if is_fused(node):
        return True
    found = is_product(node)
    if found is None:
        return False
    return any(
        reaches(node, values, lambda other: weight_contraction(other) is not None)
        and (
            reaches(node, weights, lambda other: is_product(other) is not None) or _weighs_keys(node, weights)
        )
        and (values == core.values[0] or reaches(node, weights, lambda other: other in WEIGHS))
        for values, weights in permutations(found.indices, 2)
    )


def _weighs_keys(node: Node, index: int) -> bool:
    """Return whether attention weights are normalised scores of stored queries; gates of streams are not normalised."""
    # Several stored queries are multiplied by the output of a linear layer.
    return reaches(node, index, lambda other: other in WEIGHS) and reaches(
        node, index, lambda other: 1 not in (rows_of_stored_queries(other) or [1])
    )


def _site(index: int, name: str, block: Block, parts: Anatomy) -> AttentionSite:
    kv = len(parts.groups)
    # Multi-query attention has one KV head for all, grouped-query attention several.
    shared = "mha" if kv == block.num_heads else "mqa" if kv == 1 else "gqa"
    return AttentionSite(
        index=index,
        name=name,
        kind=shared if parts.kv_known else "unknown",
        kv_known=parts.kv_known,
        num_units=block.num_heads,
        kv_num_heads=kv,
        head_size=parts.head_size,
        v_head_size=parts.v_head_size,
        groups=parts.groups,
        projections=block.projections,
        cores=tuple(core.node for core in block.cores),
        block=block,
        io=frozenset(parts.io),
        owners=parts.owners,
        maps=frozenset(parts.maps),
        original_num_units=block.num_heads,
        original_kv_num_heads=kv,
    )


def _judged(site: AttentionSite, block: Block, parts: Anatomy, mixers: Container[Node]) -> AttentionSite:
    """The site with the size of its heads, and the reason why no single head can be removed, if there is one."""
    every = tuple(range(block.num_heads))
    site = replace(site, units=units_together(block.projections, block.num_heads))
    reason = why_not_cut(site) if block.num_heads > 1 else None
    site = _tried(site, block, parts, mixers) if reason is None else replace(site, reason=reason)
    if block.num_heads == 1 or site.reason is None:
        return replace(site, whole=site.reason is None)
    return replace(site, whole=_obstacle(block, _trial(site, every), every, parts) is None)


def _planned(view: GraphView, site: AttentionSite) -> AttentionSite:
    """The site, with the reason why a cut of its first heads cannot be written, if there is one."""
    removed = united(next(iter(site.groups)), site.units)
    if len(removed) == site.num_units:
        removed = site.units[0] if site.units else removed
    if site.reason is not None or len(removed) == site.num_units:
        return site
    try:
        realize(view, _trial(site, removed))
    except RefusedError as error:
        core = site.cores[0]
        return replace(site, reason=Refusal(Reason.INEXPRESSIBLE, core.label, core.out.name, str(error)))
    return site


def _tried(site: AttentionSite, block: Block, parts: Anatomy, mixers: Container[Node]) -> AttentionSite:
    """A site after a trial removal: whether its heads can be removed, and their total size."""
    removed = united(next(iter(parts.groups)), site.units)
    if len(removed) == block.num_heads:
        removed = site.units[0]
    trial = _trial(site, removed)
    stays = still_computed(block, trial, mixers)
    kept = held_caches(site, trial, stays)
    if kept is not None:
        site = replace(site, io_refusal=kept)
        trial = _trial(site, removed)
    counted = removed
    if any(not labels for core in block.cores for labels in core.heads):
        # The first cut also removes what no projection reads, which must not count once per head.
        counted = tuple(range(block.num_heads))
    elements, size, flops = weights_of(
        trial if counted is removed else _trial(site, counted),
        _layers(site) if block.num_heads == 1 else None,
    )
    scale = block.num_heads / len(counted)
    mapped = not any(is_fused(core.node) for core in block.cores)
    return replace(
        site,
        reason=_obstacle(block, trial, removed, parts),
        stays=stays,
        maps_stay=stays is not None
        and mapped
        and all(trial.kept.get(node.out, FULL).is_full for node in parts.scores),
        params=round(elements * scale),
        bytes=round(size * scale),
        flops_per_token=round(flops * scale),
    )


def _obstacle(block: Block, trial: Sweep, removed: Sequence[int], parts: Anatomy) -> Refusal | None:
    """Return why the trial's heads cannot be removed, None if they can."""
    needed = needed_heads(block, trial, removed)
    return needed or foreign(block, trial, removed, parts.probability_nodes)


def _layers(site: AttentionSite) -> frozenset[Node]:
    """The nodes that a cut of some heads narrows: from the projections to the nearest linear layers that compute heads.

    Without any head what these layers read is unused, too, such as their norm: it belongs to no head.
    """
    last = [item.node for item in site.projections]

    def above(node: Node) -> list[Node]:
        return [] if node not in last and summed(node, is_weight) is not None else node.producers

    return frozenset(reachable(last, above))


def _trial(site: AttentionSite, heads: tuple[int, ...]) -> Sweep:
    """The sweep in which some heads are removed."""
    handed = caller_demands([site], {site.index: heads})
    return sweep(list(site.seeds(heads)), site.movable | site.maps, Masks(site.KIND.units), handed=handed)
