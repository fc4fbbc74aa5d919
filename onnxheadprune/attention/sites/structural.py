"""Finding sites by structure: contractions with weights whose summed axis comes from a product of activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np

from onnxheadprune.attention.sites.attention_near_misses import (
    MAX_BELOW,
    LeftOut,
    Refused,
    attention_products,
    left_out,
    shared_by_heads,
)
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.core import Core, Trace
from onnxheadprune.attention.sites.describe import Anatomy, anatomy
from onnxheadprune.attention.sites.evidence import rows_of_stored_queries
from onnxheadprune.attention.sites.grouping import Block, Candidate, group, merge_branches
from onnxheadprune.attention.sites.head_channels import foreign
from onnxheadprune.attention.sites.obstacles import held_caches, obstacle, read_elsewhere
from onnxheadprune.attention.sites.products import (
    MAX_CONTRACTED,
    is_product,
    is_weight,
    reaches,
    summed,
    weight_contraction,
)
from onnxheadprune.attention.sites.projection import named_apart
from onnxheadprune.attention.sites.score_products import features
from onnxheadprune.attention.sites.shared_layers import are_heads
from onnxheadprune.attention.sites.site import caller_demands, united
from onnxheadprune.attention.sites.stored_weights import units_together, weights_of, why_not_cut
from onnxheadprune.attention.sites.summed_heads import blended
from onnxheadprune.attention.sites.trace import Tracer
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.consumers import content_uses
from onnxheadprune.liveness.contraction import contraction_of, operands
from onnxheadprune.liveness.domain import POSITIONS, Masks
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask, ask_about
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import ADDS, MULTIPLIES, OBSERVES, REDUCES, WEIGHS
from onnxheadprune.model.graph.reductions import reduced_axes
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.graph.walks import reachable


def _in_a_row(candidates: Iterable[Candidate], tracer: Tracer) -> list[Candidate]:
    """Add to each candidate the earlier cores whose contexts its own cores weigh head by head.

    Agent attention gathers tokens by one product and spreads them by another. Where both contexts have a projection,
    and the heads of both are aligned, a head is a head of both: silenced in one alone it would still act through the
    other.
    """
    found = list(candidates)
    projected = {core.node: core for item in found for core in item.cores}
    return [replace(item, cores=tuple(_with_earlier(item.cores, projected, tracer))) for item in found]


def _with_earlier(cores: Iterable[Core], projected: Mapping[Node, Core], tracer: Tracer) -> Iterator[Core]:
    waiting = list(cores)
    seen = {core.node for core in waiting}
    while waiting:
        core = waiting.pop(0)
        yield core
        for earlier in _weighed(core, tracer):
            known = projected.get(earlier.node)
            if known is not None and earlier.node not in seen and known.head_axes == earlier.head_axes:
                seen.add(earlier.node)
                waiting.append(earlier)


def _weighed(core: Core, tracer: Tracer) -> Iterator[Core]:
    """The cores whose contexts are the values of a core, with that core's labels, if heads are aligned."""
    product, shape = is_product(core.node), core.node.out.shape
    if product is None or shape is None or not core.head_axes or len(core.feature_axes) != 1:
        return
    width, (values, *others) = (
        shape[core.feature_axes[0]],
        product.owners(product.out_axes[core.feature_axes[0]]),
    )
    source = core.node.input(values)
    if not isinstance(width, int) or others or source is None:
        return
    labels = np.arange(1, len(core.heads) * width + 1)
    answer = ask(core.node, [core.labelled(labels, width)], POSITIONS)
    if isinstance(answer, Refusal) or values not in answer.inputs:
        return
    for earlier in tracer.follow(source, answer.inputs[values]).cores:
        owners = [{(label - 1) // width for label in labels} for labels in earlier.heads]
        if owners == [{head} for head in range(len(core.heads))]:
            yield replace(earlier, heads=core.heads, channels=core.channels, layers=core.layers)


def find_structural(
    view: GraphView, named: Container[str] = (), fixed: Callable[[Node], bool] | None = None
) -> tuple[list[AttentionSite], LeftOut]:
    """All sites in graph order of their cores, and attention that is no site.

    Args:
        named: known outputs of attention projections, since a last head may not look like one.
        fixed: tries whether the heads of a product are found once the inputs have fixed sizes; None where they have.
    """
    candidates, mixers, refused = _scan(view)
    grouped = merge_branches(group(candidates))
    folded = [block for block in grouped if _has_folded_heads(block)]
    pools = [
        block
        for block in grouped
        if block not in folded
        and block.num_heads == 1
        and not any(projection.node.out.name in named for projection in block.projections)
        and not _attends(block.cores[0])
    ]
    known: dict[Block, Anatomy] = {}
    reasons: dict[Block, Refusal] = {}
    for block in grouped:
        if block in folded or block in pools:
            continue
        blend = blended(block) if block.num_heads == 1 else None
        if blend is not None:
            block = blend.block
            reasons[block] = blend.reason
        parts = anatomy(block)
        if isinstance(parts, Refusal):
            refused.append(Refused(block.projections[0].node, block.cores[0].node, parts))
        else:
            known[block] = parts
    blocks = list(known)
    sites = []
    makers = ((block.projections, [core.node for core in block.cores]) for block in blocks)
    names = named_apart(makers, AttentionSite.UNNAMED)
    for index, (block, name) in enumerate(zip(blocks, names, strict=True)):
        site = _site(index, name, block, known[block])
        sites.append(_planned(view, _judged(site, block, known[block], mixers, reasons.get(block))))
    claimed = {core.node for block in blocks for core in block.cores}
    return sites, left_out(view, claimed, refused, folded, pools, fixed)


def _has_folded_heads(block: Block) -> bool:
    """Return whether there is only one head, but with more channels than its context has features.

    Then different pieces of the context, along an axis without labels, feed different channels: heads
    that were folded into an axis of symbolic length (`[heads * batch, S, D]`, split into `batch` again).
    """
    if block.num_heads > 1 or len(block.cores) != 1:
        return False
    core = block.cores[0]
    width = features(core)
    if width is None:
        return False
    return any(len(item.channels[0]) > width * core.tokens for item in block.projections)


def _scan(view: GraphView) -> tuple[list[Candidate], frozenset[Node], list[Refused]]:
    tracer = Tracer()
    candidates: list[Candidate] = []
    reduced: dict[tuple[Node, tuple[int, tuple[int, ...]]], Candidate] = {}
    mixers: set[Node] = set()
    refused: list[Refused] = []
    for node in view.needed:
        read = summed(node, is_weight, afterwards=True)
        if read is None:
            continue
        trace = tracer.trace(read.value, read.activation[1], read.sizes)
        if not trace.cores and (
            trace.mixes_heads or (mixers and reaches(node, read.activation[0], mixers.__contains__))
        ):
            mixers.add(node)
        # A sum over an axis is weaker evidence of heads than weights: streams are added up, too.
        # Every layer that reads the stream leads to the same ones.
        added = [item for item in _reduced_heads(trace, tracer) if all(map(_attends, item.cores))]
        reduced |= {(item.node, item.activation): item for item in added}
        if trace.cores and trace.is_alike and (trace.shared or tracer.treats_heads_alike(node)):
            cores = (core.node for core in trace.cores)
            refused += [Refused(node, core, shared_by_heads(node, core)) for core in cores]
            continue
        if trace.cores and all(_is_of_contents(core.node) for core in trace.cores):
            candidates.append(Candidate(node, read.activation, read.weight, read.sizes, trace.cores))
        elif trace.refusals and (behind := _attention_behind(trace.blocked)) is not None:
            # Mixed heads are the better reason.
            first = min(trace.refusals, key=lambda item: item.reason is not Reason.COUPLED)
            refused.append(Refused(node, behind, first))
    found = [*candidates, *reduced.values()]
    below = {(item.node, item.activation): item for item in _reduced_below(view, found, tracer)}
    return _in_a_row([*found, *below.values()], tracer), frozenset(mixers), refused


def _reduced_heads(trace: Trace, tracer: Tracer) -> Iterator[Candidate]:
    """The reductions over heads in a trace that does not distinguish heads.

    A reduction that adds heads up, or averages them, before any weights is their projection (the interpretable
    attention of the Temporal Fusion Transformer).
    """
    for node, live in trace.reduced if trace.is_alike else ():
        answer = ask_about(node.out, live, POSITIONS)
        if not isinstance(answer, Refusal):
            yield from _over_heads(node, answer.inputs[0].axes, tracer)


def _reduced_below(view: GraphView, candidates: Iterable[Candidate], tracer: Tracer) -> Iterator[Candidate]:
    """Yield reductions over the heads of products that no layer below leads to, as where the model ends with them."""
    known = {core.node for item in candidates for core in item.cores}
    products = attention_products(view)
    for product in products:
        if product in known:
            continue
        for node in _reductions_below(product):
            shape = node.shape(0) or ()
            over = reduced_axes(node) or ()
            channels = [axis for axis, dim in enumerate(shape) if axis not in over and isinstance(dim, int)]
            for axis in reversed(channels):
                found = [
                    item
                    for item in _over_heads(node, (axis,), tracer)
                    if all(core.node in products for core in item.cores)
                ]
                if any(product is core.node for item in found for core in item.cores):
                    yield from found
                    break


def _reductions_below(product: Node) -> Iterator[Node]:
    """Yield the nearest reductions below a product, through views, linear layers and elementwise operators."""

    def below(node: Node) -> list[Node]:
        ends = node in REDUCES or (node is not product and is_product(node) is not None)
        return [] if ends else [use.node for use in content_uses(node.out) if len(use.node.outputs) == 1]

    return (node for node in reachable([product], below, MAX_BELOW) if node in REDUCES)


def _over_heads(node: Node, channels: tuple[int, ...], tracer: Tracer) -> Iterator[Candidate]:
    """Yield a reduction as the projection of the heads that it sums; nothing if it reduces something else.

    Args:
        channels: axes of what it reads that are left, with the features of heads.
    """
    value, shape = node.inputs[0], node.shape(0)
    if value is None or shape is None:
        return
    for reduced in reduced_axes(node) or ():
        # Heads first, wherever they lie: of two axes they are the slower one.
        axes = (reduced, *channels)
        sizes = [dim for axis in axes if isinstance(dim := shape[axis], int)]
        heads = shape[reduced]
        if len(sizes) < len(axes) or math.prod(sizes) > MAX_CONTRACTED or not isinstance(heads, int):
            continue
        cores = tracer.trace(value, axes, tuple(sizes)).cores
        if any(core.node is value.producer and core.node in MULTIPLIES for core in cores):
            # A product that is written as Mul and ReduceSum: this is its own sum.
            continue
        if are_heads(cores, heads):
            yield Candidate(node, (0, axes), None, tuple(sizes), cores)


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


def _attention_behind(blocked: tuple[Node, ...]) -> Node | None:
    """The product of activations that feeds a node at which tracing stopped, None if none does."""

    def above(node: Node) -> list[Node]:
        if node not in blocked and contraction_of(node) is not None:
            return []
        values = node.inputs[:1] if node in blocked else node.inputs
        producers = [value.producer for value in values if value is not None and value.producer is not None]
        # Adding two computed values is the way back into the residual stream, behind which all layers lie.
        return [item for item in producers if item not in ADDS or len(item.computed) < 2]

    walk = reachable(blocked, above, 64)
    return next((node for node in walk if is_product(node) is not None or is_fused(node)), None)


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
    owner = found.owners(found.out_axes[core.feature_axes[0]])[0]
    return any(
        reaches(node, values, lambda other: weight_contraction(other) is not None)
        and (
            reaches(node, weights, lambda other: is_product(other) is not None) or _weighs_keys(node, weights)
        )
        and (values == owner or reaches(node, weights, lambda other: other in WEIGHS))
        for values, weights in permutations(found.indices, 2)
    )


def _weighs_keys(node: Node, index: int) -> bool:
    """Return whether attention weights are normalised scores of stored queries; gates of streams are not normalised."""
    return reaches(node, index, lambda other: other in WEIGHS) and reaches(node, index, _reads_keys)


def _reads_keys(node: Node) -> bool:
    """Return whether a node multiplies several stored queries by the output of a linear layer."""
    rows = rows_of_stored_queries(node)
    return rows != [] and 1 not in rows


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
        free=parts.free,
        lying=parts.lying,
        maps=parts.maps,
        original_num_units=block.num_heads,
        original_kv_num_heads=kv,
    )


def _judged(
    site: AttentionSite, block: Block, parts: Anatomy, mixers: frozenset[Node], blended: Refusal | None
) -> AttentionSite:
    """The site, with the reason why no single head can be removed, if there is one."""
    if blended is not None:
        elements, size, flops = weights_of(_trial(site, tuple(range(block.num_heads))))
        own = _is_own(site, block, parts)
        return replace(site, reason=blended, whole=own, params=elements, bytes=size, flops_per_token=flops)
    if block.num_heads == 1:
        trial = _trial(site, (0,))
        mixed = foreign(block, trial, (0,), parts.probability_nodes)
        elsewhere = read_elsewhere(block, trial, (0,))
        alone = elsewhere is not None and mixed is None
        elements, size, flops = weights_of(trial, _layers(site))
        return replace(
            site,
            reason=mixed or elsewhere,
            read_elsewhere=alone,
            params=elements,
            bytes=size,
            flops_per_token=flops,
        )
    site = replace(site, units=units_together(block.projections, block.num_heads, block.mixed))
    reason = why_not_cut(site)
    if reason is not None:
        return replace(site, reason=reason, whole=_is_own(site, block, parts))
    return _tried(site, block, parts, mixers)


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


def _tried(site: AttentionSite, block: Block, parts: Anatomy, mixers: frozenset[Node]) -> AttentionSite:
    """A site after a trial removal: whether its heads can be removed, and their total size."""
    removed = united(next(iter(parts.groups)), site.units)
    if len(removed) == block.num_heads:
        removed = site.units[0]
    trial = _trial(site, removed)
    kept = held_caches(site, trial)
    if kept is not None:
        site = replace(site, held=kept)
        trial = _trial(site, removed)
    found = obstacle(
        block, trial, removed, mixers, parts.probability_nodes, lambda node: _trial(site, removed, node)
    )
    elsewhere = None if found is not None else read_elsewhere(block, trial, removed)
    mixed = None if found is not None else foreign(block, trial, removed, parts.probability_nodes)
    counted = removed
    if any(not labels for core in block.cores for labels in core.heads):
        # The first cut also removes what no projection reads, which must not count once per head.
        counted = tuple(range(block.num_heads))
    elements, size, flops = weights_of(trial if counted is removed else _trial(site, counted))
    scale = block.num_heads / len(counted)
    reason = found or elsewhere or mixed
    return replace(
        site,
        reason=reason,
        whole=reason is None or _is_own(site, block, parts),
        read_elsewhere=elsewhere is not None and mixed is None,
        params=round(elements * scale),
        bytes=round(size * scale),
        flops_per_token=round(flops * scale),
    )


def _layers(site: AttentionSite) -> frozenset[Node]:
    """The nodes that a cut of some heads narrows: from the projections to the nearest linear layers that compute heads.

    Without any head what these layers read is unused, too, such as their norm: it belongs to no head.
    """
    last = [item.node for item in site.projections]

    def above(node: Node) -> list[Node]:
        return [] if node not in last and summed(node, is_weight) is not None else node.producers

    return frozenset(reachable(last, above))


def _is_own(site: AttentionSite, block: Block, parts: Anatomy) -> bool:
    """Return whether the projections read only heads, so that only their biases are left when all are removed."""
    every = tuple(range(block.num_heads))
    return foreign(block, _trial(site, every), every, parts.probability_nodes) is None


def _trial(site: AttentionSite, heads: tuple[int, ...], through: Node | None = None) -> Sweep:
    """The sweep in which some heads are removed."""
    handed = caller_demands([site], {site.index: heads})
    masks = Masks(site.UNITS)
    return sweep(list(site.seeds(heads)), site.movable | site.maps, masks, through=through, handed=handed)
