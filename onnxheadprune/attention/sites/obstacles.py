"""Obstacles to removing a site's heads: a trial sweep that leaves a part of a head, and the node that keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.head_channels import foreign
from onnxheadprune.attention.sites.heads_in_series import heads_in_series, is_beside
from onnxheadprune.attention.sites.reductions_ahead import reduction_ahead, returns
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import CARRIERS, EXPANDS, FLATTENS, JOINS, SLICES, VIEWS, WRITES_INTO
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import reachable

SAME_ELEMENTS = VIEWS | FLATTENS
HANDS_ON = CARRIERS | FLATTENS | JOINS | SLICES | EXPANDS | WRITES_INTO
"""Operators that may lie between a cache and the node that computes with it."""
MAX_HOPS = 8


def obstacle(
    block: Block,
    trial: Sweep,
    removed: Sequence[int],
    mixers: frozenset[Node],
    probability_nodes: frozenset[Node],
    without: Callable[[Node], Sweep],
) -> Refusal | None:
    """The reason why the trial's heads cannot be removed completely, None if they can.

    Args:
        without: returns the trial as if a node that mixes heads passed them on.
    """
    talking = sorted(mixers & (probability_nodes | set(trial.asked)), key=lambda node: node.index)
    for node in talking:
        sentence = f"{node.op_type} mixes attention maps across heads (talking heads)"
        return Refusal(Reason.COUPLED, node.label, node.out.name, sentence)
    in_a_row = heads_in_series(block)
    if in_a_row is not None:
        # What is added to a residual stream reaches all later layers: the stream is the reason, not what reads it.
        return foreign(block, trial, removed, probability_nodes) or in_a_row
    for node, refusal in trial.refusals.items():
        coupled = refusal.reason is Reason.COUPLED and not is_beside(node, block)
        if coupled and _holds_heads_back(node, trial, without):
            return refusal
    for value, live in trial.kept.items():
        if live.is_full and not value.holds_tensor:
            found = _mixing_consumer(value, trial, block)
            if found is not None:
                return found
    return None


def read_elsewhere(block: Block, trial: Sweep, removed: Sequence[int]) -> Refusal | None:
    """Return another reader of a context whose heads no projection reads any more, None if there is none."""
    owners = {index for head in removed for index, _ in block.members[head]}
    for core in block.cores:
        if core.node.index in owners and trial.kept.get(core.node.out, FULL).is_full:
            return _context_used_elsewhere(core.node, trial)
    return None


def held_caches(site: Site, trial: Sweep) -> Refusal | None:
    """Find the reader that needs all heads of one cache of a site while another cache could be narrowed.

    Keys and values of a head are removed together or not at all: callers have one number for both.
    """
    left: dict[frozenset[int], dict[Value, frozenset[int]]] = {}
    for value, live in site.lying.items():
        if live.axes and not live.is_mask:
            left.setdefault(_owners(live, FULL), {})[value] = _owners(live, trial.kept.get(value, FULL))
    for caches in left.values():
        most = max(caches.values(), key=len)
        wide = [value for value, owners in caches.items() if owners == most]
        if len(wide) < len(caches):
            return _reader_of_all(wide, trial)
    return None


def _owners(live: Live, kept: Live) -> frozenset[int]:
    """The sets of heads, as bits, that own a part of the kept positions of a value."""
    axes = sorted({*live.axes, *kept.axes})
    sizes = [math.lcm(live.period(axis), kept.period(axis)) for axis in axes]
    alive = live.aligned(axes, sizes)[kept.aligned(axes, sizes) != 0]
    return frozenset(int(bits) for bits in alive.reshape(-1)) - {0}


def _reader_of_all(caches: Sequence[Value], trial: Sweep) -> Refusal:
    """Name the reader that needs all heads of some caches: the nearest consumer that does not merely pass them on."""

    def onward(value: Value) -> list[Value]:
        return [use.node.out for use in value.consumers if use.node in HANDS_ON]

    for use in (use for value in reachable(caches, onward) for use in value.consumers):
        if use.node not in HANDS_ON and not looks_only(use) and trial.edge(use).is_full:
            sentence = f"{use.node.label} reads {caches[0].name} with all heads"
            return Refusal(Reason.COUPLED, use.node.label, caches[0].name, sentence)
    sentence = f"{caches[0].name} is needed with all heads"
    return Refusal(Reason.COUPLED, caches[0].name, caches[0].name, sentence)


def _holds_heads_back(node: Node, trial: Sweep, without: Callable[[Node], Sweep]) -> bool:
    """Return whether a node that mixes heads keeps a part of them alive that would otherwise be removed.

    A gate may read the residual stream itself, reshaped to heads: after its quantization a gather picks the remaining
    heads, and nothing of the removed heads is left.
    """
    if node.shape(0) is None or node.shape(0) != node.out.shape:
        return True
    free = without(node)
    if any(free.refusals[other].reason is Reason.COUPLED for other in free.refusals.keys() - trial.refusals):
        return True
    for value, live in free.narrowed():
        made = value.producer is None or value.producer not in SAME_ELEMENTS
        if value.producer is not node and made and trial.kept.get(value, FULL) != live:
            return True
    return False


def _context_used_elsewhere(core: Node, trial: Sweep) -> Refusal:
    """Name other readers that need the whole context."""
    for value, live in trial.kept.items():
        if not live.is_full or value.producer is None or value.producer.index < core.index:
            continue
        if value.producer in trial.refusals:
            return trial.refusals[value.producer]
        if value.is_graph_output:
            sentence = f"the context {value.name} is also an output of the model"
            return Refusal(Reason.NO_PROJECTION, core.label, value.name, sentence)
        for use in value.consumers:
            if (use.node.index, use.input_index) not in trial.edges and not looks_only(use):
                sentence = f"the context also reaches {use.node.label} without passing an output projection"
                return Refusal(Reason.NO_PROJECTION, core.label, value.name, sentence)
    return Refusal(Reason.NO_PROJECTION, core.label, core.out.name, "the context is needed whole elsewhere")


def _mixing_consumer(value: Value, trial: Sweep, block: Block) -> Refusal | None:
    """A reduction over the live axis whose result is used in the same head: a decomposed norm."""
    wanted: Live | None = None
    for use in value.consumers:
        edge = trial.edges.get((use.node.index, use.input_index))
        if edge is not None and not edge.is_full:
            wanted = edge
    if wanted is None:
        return None
    for use in value.consumers:
        if (use.node.index, use.input_index) in trial.edges:
            continue
        reduction = reduction_ahead(use.node, wanted, 3)
        if reduction is None or is_beside(reduction, block):
            continue
        if returns(reduction, trial, MAX_HOPS):
            sentence = (
                f"{reduction.op_type} takes statistics over all heads together (a normalisation across heads),"
                " so removing one would change the others"
            )
            return Refusal(Reason.COUPLED, reduction.label, value.name, sentence)
    return None
