"""Numbers of a site: KV groups, head sizes, cache, weights. All read off sweeps, none guessed."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxheadprune.attention.sites.fused import fused_anatomy, is_fused_core
from onnxheadprune.attention.sites.generation import comes_or_goes
from onnxheadprune.attention.sites.grouping import Block, Partition
from onnxheadprune.attention.sites.products import core_product, is_product
from onnxheadprune.attention.sites.trace import Core
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.fused import layout_of
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.observers import branch_outputs, carried, passes_on
from onnxheadprune.liveness.registry import Answer, rule_for
from onnxheadprune.liveness.sweep import Seed, Sweep, sweep
from onnxheadprune.model.graph.view import Node, Value

MAX_UPSTREAM = 512
"""Nodes between a core and the weights above it."""
MAX_VIEWS = 16


@dataclass(frozen=True)
class Anatomy:
    """What lies upstream of the cores of a block.

    Attributes:
        groups: heads per KV head, in order of their first head.
        head_size: width of a query or key head.
        v_head_size: width of a context head.
        free: graph inputs and outputs on the key and value paths.
        probability_nodes: nodes between the score product and the core.
        maps: graph outputs that hand out the maps of fused cores.
    """

    groups: tuple[tuple[int, ...], ...]
    head_size: int | None
    v_head_size: int
    free: frozenset[Value]
    probability_nodes: frozenset[Node]
    maps: frozenset[Value] = frozenset()


def anatomy(block: Block) -> Anatomy:
    """Walks from the cores of a block up both operands."""
    tokens = max(core.tokens for core in block.cores)
    v_head_size = max(len(channels) for channels in block.projections[0].channels) // tokens
    everyone = (1 << block.num_heads) - 1
    groups: Partition[int] = Partition()
    for head in range(block.num_heads):
        groups.root(head)
    free: set[Value] = set()
    maps: set[Value] = set()
    nodes: set[Node] = set()
    head_size: int | None = None
    labelled: list[bool] = []
    for core in block.cores:
        if is_fused_core(core.node):
            fused, owner = fused_anatomy(core.node), _owners(block, core)
            for shared in fused.groups:
                groups.join({owner[position] for position in shared})
            # As below: what one head reads alone says whose it is, what all of several read says nothing.
            own = sum({1 << head for head in owner}) if len(owner) > 1 else everyone
            free |= fused.free | _endpoints(_fused_walk(core, fused.memory, owner, own))
            maps |= fused.maps
            head_size = head_size or fused.head_size
            if fused.value is not None:
                # What repeats KV heads before the node shows upstream of it.
                walk = _fused_walk(core, (fused.value,), owner, own)
                labelled.append(_join_shared(groups, walk, block.num_heads, own))
            continue
        bits = _head_bits(block, core)
        # What all heads of this core read alike says nothing; other cores may have heads of their own.
        own = int(np.bitwise_or.reduce(bits.array, axis=None)) if bits.axes else everyone
        value_walk, weight_walk = _operand_walks(core, bits, own)
        labelled.append(_join_shared(groups, value_walk, block.num_heads, own))
        free |= _endpoints(value_walk)
        products = [node for node in _visited(weight_walk) if _head_product(node)]
        scores = products[0] if products else core.node
        head_size = head_size or _query_width(core)
        nodes |= {node for node in _visited(weight_walk) if products and node.index > scores.index}
        below = _walk_from(scores, weight_walk, own) if products else weight_walk
        free |= _endpoints(below)
    if labelled and not any(labelled):
        # One of several cores may read a table of relative positions, which has no heads: that groups none.
        groups.join(range(block.num_heads))
    found = tuple(tuple(sorted(members)) for members in groups.sets())
    groups_found = tuple(sorted(found))
    return Anatomy(groups_found, head_size, v_head_size, frozenset(free), frozenset(nodes), frozenset(maps))


def _fused_walk(core: Core, indices: Iterable[int], owner: Sequence[int], everyone: int) -> Sweep:
    """A label sweep up some inputs of a fused node, one bit per head; empty where its shapes are unknown."""
    layout, entry = layout_of(core.node), rule_for(core.node)
    if layout is None or entry is None:
        return Sweep()
    bits = np.array([1 << head for head in owner], dtype=object)
    if len(layout.out_axes) == 1:
        bits = np.repeat(bits, layout.v_head_size)
    lives = [Live.over(layout.out_axes[:1], bits), *(DEAD for _ in core.node.outputs[1:])]
    answer = entry.function(core.node, lives)
    if not isinstance(answer, Answer):
        return Sweep()
    return sweep(
        [Seed(core.node, index, answer.inputs[index], "") for index in indices if index in answer.inputs],
        labels=everyone,
    )


def _owners(block: Block, core: Core) -> list[int]:
    """The head that every head position of a core belongs to: a differential head has two of them."""
    owner = {
        position: head
        for head, members in enumerate(block.members)
        for index, position in members
        if index == core.node.index
    }
    return [owner[position] for position in range(len(core.heads))]


def _head_bits(block: Block, core: Core) -> Live:
    """One bit per head at every head position of the core's output."""
    bits = np.array([1 << head for head in _owners(block, core)], dtype=object)
    return Live.over(core.head_axes, bits.reshape(_head_shape(core)))


def _head_shape(core: Core) -> tuple[int, ...]:
    shape = core.node.out.shape
    assert shape is not None
    sizes = [dim if isinstance(dim := shape[axis], int) else 0 for axis in core.head_axes]
    if 0 in sizes:
        # A symbolic axis (batch * heads) carries one period: what the other head axes leave.
        known = math.prod(size for size in sizes if size)
        sizes = [size or len(core.heads) // known for size in sizes]
    return tuple(sizes)


def _operand_walks(core: Core, bits: Live, everyone: int) -> tuple[Sweep, Sweep]:
    """Label sweeps up the operand with the head's own axis (values) and up the other (weights)."""
    found = core_product(core.node)
    entry = rule_for(core.node)
    assert found is not None and entry is not None
    answer = entry.function(core.node, [bits])
    assert isinstance(answer, Answer)
    feature = found.out_axes[core.feature_axes[0]]
    value_index = found.owners(feature)[0]
    others = [index for index in found.indices if index != value_index]
    walks = [
        sweep(
            [Seed(core.node, index, answer.inputs.get(index, FULL), "") for index in indices], labels=everyone
        )
        for indices in ([value_index], others)
    ]
    return walks[0], walks[1]


def _visited(walk: Sweep) -> list[Node]:
    """Computing nodes of a walk, nearest to the core first."""
    nodes = {value.producer for value in walk.reached if value.producer is not None and value.tensor is None}
    return sorted(nodes, key=lambda node: -node.index)


def _query_width(core: Core) -> int | None:
    """The width of a query head; None where there are no queries and keys, or where weights mix maps."""
    found = is_product(core.node)
    if found is None:
        return None  # stored maps have neither queries nor keys
    values = found.owners(found.out_axes[core.feature_axes[0]])[0]
    scores = [
        node for index in found.indices if index != values for node in _first_products(core.node, index)
    ]
    if scores:
        return _contracted_size(scores[0])
    # Queries read a summary of keys and values: the core itself sums over them.
    return _contracted_size(core.node) if _first_products(core.node, values) else None


def _first_products(node: Node, index: int) -> list[Node]:
    """Products upstream of an operand, nearest first, that read no other ones; what lies behind weights is not seen."""
    start = node.inputs[index]
    queue = deque([] if start is None or start.producer is None else [start.producer])
    seen = set(queue)
    products: list[Node] = []
    while queue and len(seen) < MAX_UPSTREAM:
        current = queue.popleft()
        if is_product(current) is not None:
            products.append(current)
        elif contraction_of(current) is not None:
            continue
        for value in current.inputs:
            if value is not None and value.producer is not None and value.producer not in seen:
                seen.add(value.producer)
                queue.append(value.producer)
    return [item for item in products if not _reads_products(item)]


def _reads_products(node: Node) -> bool:
    """Whether a product multiplies what other products made, as an inverse of a matrix does."""
    found = is_product(node)
    return found is not None and any(_product_behind(node.inputs[index]) for index in found.indices)


def _product_behind(value: Value | None) -> bool:
    for _ in range(MAX_VIEWS):
        node = None if value is None else value.producer
        if node is None or not node.inputs:
            return False
        if contraction_of(node) is not None:
            return is_product(node) is not None
        value = node.inputs[0]
    return False


def _head_product(node: Node) -> bool:
    return is_product(node) is not None


def _contracted_size(node: Node) -> int | None:
    found = contraction_of(node)
    if found is None:
        return None
    first = found.indices[0]
    shape = node.shape(first)
    if shape is None:
        return None
    sizes = [shape[axis] for axis, letter in enumerate(found.axes_of(first)) if letter in found.contracted]
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _walk_from(scores: Node, walk: Sweep, everyone: int) -> Sweep:
    """The walk continued from the operands of the score product alone."""
    found = is_product(scores)
    assert found is not None
    return sweep(
        [Seed(scores, index, walk.edges.get((scores.index, index), FULL), "") for index in found.indices],
        labels=everyone,
    )


def _endpoints(walk: Sweep) -> set[Value]:
    """The cache: graph inputs and outputs that carry heads, outputs behind a Cast or an `If` included.

    A cache has one position per head on some axis. Where the channels of all heads lie in one axis, as a
    projection leaves them, only a pair tells it from any other input or output: a past that becomes a present.
    """
    ends: dict[Value, list[Live]] = defaultdict(list)
    for value in walk.reached:
        for end, live in ((value, walk.kept[value]), *_carried_on(value, walk.kept[value])):
            if comes_or_goes(end):
                ends[end].append(live)
    apart = {value for value, lives in ends.items() if any(map(_one_per_head, lives))}
    flat = ends.keys() - apart
    paired = any(value.is_graph_input for value in flat) and any(value.is_graph_output for value in flat)
    return apart | flat if paired else apart


def _one_per_head(live: Live) -> bool:
    """Whether every position belongs to another head."""
    return bool(live.axes) and len(np.unique(live.array)) == live.array.size


def _carried_on(value: Value, live: Live, depth: int = 6) -> Iterator[tuple[Value, Live]]:
    """Values that merely pass `value` on, as `carrier_outputs` has them, each with its own labels."""
    if depth == 0:
        return
    found = [(use.node.out, carried(use.node, live)) for use in value.consumers if passes_on(use.node)]
    found += [(output, live) for output in branch_outputs(value)]
    for output, own in found:
        # What is not told of the output is taken to be as it was.
        yield output, live if own is None else own
        yield from _carried_on(output, live if own is None else own, depth - 1)


def _leaves(walk: Sweep) -> Iterator[Live]:
    """Liveness of what the walk ends at: stored tensors, graph inputs, outputs of unknown operators."""
    weighted = any(value.holds_tensor and walk.kept[value].axes for value in walk.reached)
    for value in walk.reached:
        # Behind labelled weights lie activations that all heads read: sharing those couples nothing.
        unknown = value.producer in walk.refusals and not weighted
        if value.producer is None or value.holds_tensor or unknown:
            yield walk.kept[value]


def _join_shared(groups: Partition[int], walk: Sweep, num_heads: int, everyone: int) -> bool:
    """Heads whose bits meet in one element share that element: they are one KV group.

    Args:
        groups: what is known so far.
        walk: a label sweep up the values of a core.
        num_heads: heads of the block.
        everyone: the bits of all heads of the core.

    Returns:
        Whether the values have heads at all.
    """
    labelled = False
    for live in _leaves(walk):
        found = {int(item) for item in live.array.reshape(-1)}
        if not live.axes and (live.array.dtype.kind == "b" or found == {everyone}):
            continue
        labelled = True
        for bits in found:
            shared = [head for head in range(num_heads) if bits >> head & 1]
            if len(shared) > 1:
                groups.join(shared)
    return labelled


def weights_of(walk: Sweep) -> tuple[int, int, int]:
    """`(elements, bytes, flops per token)` that a mask sweep removes from stored tensors."""
    elements = size_in_bytes = flops = 0
    for value in walk.reached:
        if value.tensor is None or value.shape is None:
            continue
        needs = [walk.edge(use) for use in value.consumers if (use.node.index, use.input_index) in walk.edges]
        # Without a consumer it is what a branch of an `If` hands out.
        live = (needs[0] if needs else walk.kept[value]).as_mask()
        total = math.prod(dim for dim in value.shape if isinstance(dim, int))
        gone = total - round(total * float(np.mean(live.array != 0)))
        elements += gone
        size_in_bytes += gone * element_bits(value.elem_type) // 8
        flops += 2 * gone if len(value.shape) > 1 else 0
    return elements, size_in_bytes, flops


def element_bits(elem_type: int) -> int:
    """Bits per element of an ONNX tensor type."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize) * 8 if name != "UNDEFINED" else 0


def first_group(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The heads of the first KV group: the smallest whole thing that can go."""
    return next(iter(groups))
