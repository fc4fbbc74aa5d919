"""Keys and values: the inputs and outputs of a model that carry them, and the heads that share them.

Unknown is not shared. Heads are known to share a KV head only where their bits meet in one element: an operator that
stops the bits proves nothing. Fused operators specify it in attributes.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

import numpy as np
from onnx import TensorProto

from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.products import stored_weights
from onnxheadprune.liveness.carriers import carried, carrier_outputs, outlet, passes_on
from onnxheadprune.liveness.consumers import MAX_CARRIERS
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.operator import WRITES_INTO
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import Array

_INDICES_AND_CONDITIONS = (
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.BOOL,
)
"""Types that hold neither floats nor quantized values."""
_CACHE_RANK = 3
"""Samples or layers, heads, and tokens or channels: an input with fewer axes is a cache if an output is like it."""


def comes_or_goes(value: Value) -> bool:
    """Return whether a value is an input or output of the model."""
    outside = value.is_graph_output or (value.is_graph_input and not value.is_initializer)
    return outside and value.scope.parent is None


def cache_ends(walk: Sweep, labels: Labels) -> dict[Value, Live]:
    """The cache: graph inputs and outputs that carry heads, outputs after a Cast or an `If` included.

    A cache has one position per head on some axis, and holds vectors for each. Where the channels of all heads lie in
    one axis, as after a projection, it is only recognised as a pair of a past and the present computed from it.
    """
    ends: dict[Value, list[Live]] = defaultdict(list)
    for value in walk.reached:
        if comes_or_goes(value):
            ends[value].append(walk.kept[value])
        # Rules have to be asked for the labels after carriers, and few of these lead anywhere.
        if any(map(comes_or_goes, carrier_outputs(value))):
            for end, live in _carried_on(value, walk.kept[value]):
                if comes_or_goes(end):
                    ends[end].append(live)
        for end, live in _written_on(value, walk.kept[value], labels):
            if comes_or_goes(end):
                ends[end].append(live)
    outputs = [value for value in ends if value.is_graph_output]
    ends = {
        value: lives for value, lives in ends.items() if value.is_graph_output or _is_kept(value, outputs)
    }
    apart = {value for value, lives in ends.items() if any(map(_one_per_head, lives))}
    flat = ends.keys() - apart
    paired = any(value.is_graph_input for value in flat) and any(value.is_graph_output for value in flat)
    found = apart | flat if paired else apart
    return {value: reduce(labels.united, ends[value]) for value in found}


def _is_kept(value: Value, outputs: Sequence[Value]) -> bool:
    """Return whether an input that carries heads is a cache, and not numbers of heads, a condition or scales."""
    if value.elem_type in _INDICES_AND_CONDITIONS or value.shape is None:
        return False
    if sum(dim != 1 for dim in value.shape) >= _CACHE_RANK:
        return True
    return any(item.elem_type == value.elem_type and item.rank == value.rank for item in outputs)


def _one_per_head(live: Live) -> bool:
    """Return whether every position belongs to another head, axes aside along which heads do not differ."""
    if not live.axes or _all_differ(live.array):
        return bool(live.axes)
    told = _read_apart(live.array)
    return told.size > 1 and _all_differ(told)


def _carried_on(value: Value, live: Live, depth: int = MAX_CARRIERS) -> Iterator[tuple[Value, Live]]:
    """Copies of `value` by `carrier_outputs`, each with its own labels."""
    if depth == 0:
        return
    found = [(use.node.out, carried(use.node, live)) for use in value.consumers if passes_on(use.node)]
    output = outlet(value)
    if output is not None:
        found.append((output, live))
    for item, own in found:
        # What is not told of the output is taken to be as it was.
        yield item, live if own is None else own
        yield from _carried_on(item, live if own is None else own, depth - 1)


def _written_on(value: Value, live: Live, labels: Labels) -> Iterator[tuple[Value, Live]]:
    """Yield the successors of `value` as other nodes write into it, each with its remaining labels.

    This is how a cache of all layers passes from layer to layer, each writing only its own rows.
    """
    waiting = [(value, live)]
    while waiting:
        value, live = waiting.pop()
        for use in value.consumers:
            if use.input_index or use.node not in WRITES_INTO:
                continue
            # The rule, asked backwards for the labels of the input, tells which of them the updates replace.
            answer = ask(use.node, [live], labels)
            if not isinstance(answer, Refusal):
                left = use.node.out, answer.inputs.get(0, live)
                yield left
                waiting.append(left)


def _all_differ(labels: Array) -> bool:
    return len(np.unique(labels)) == labels.size


def _read_apart(labels: Array) -> Array:
    """The labels without axes along which heads do not differ.

    In a sliding window nothing reads the oldest token, which does not matter for the other tokens.
    """
    for axis in range(labels.ndim):
        others = tuple(other for other in range(labels.ndim) if other != axis)
        read = labels.compress((labels != 0).any(axis=others), axis)
        first = read[(slice(None),) * axis + (slice(1),)]
        labels = first if (read == first).all() else read
    return labels


class Sharing(enum.Enum):
    """The result of a walk up the values of a core."""

    KNOWN = "known"
    """Heads are told apart at the end of the walk; those whose bits meet were joined."""
    ONE = "one"
    """One KV head serves all heads."""
    UNKNOWN = "unknown"
    """The bits were lost on the way."""


def bits_of(heads: Iterable[int]) -> int:
    """A set of heads as one number: bit `h` stands for head `h`."""
    return reduce(or_, (1 << head for head in heads), 0)


def _heads_of(bits: int) -> Iterator[int]:
    """The heads of such a number; there may be thousands, but few in one number."""
    while bits > 0:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def join_shared(groups: Partition[int], walk: Sweep, num_heads: int, everyone: int) -> Sharing:
    """Heads whose bits meet in one element share that element: they are one KV group."""
    known = labelled = False
    for value, live in _leaves(walk):
        found = _bits(live)
        if live.is_mask or found <= {0, everyone}:
            # Read by all heads, or in part by all of them: tokens that are cut off are nobody's.
            continue
        labelled = True
        known = known or value.producer not in walk.refusals
        for bits in found:
            shared = [head for head in _heads_of(bits) if head < num_heads]
            if len(shared) > 1:
                groups.join(shared)
    if labelled:
        return Sharing.KNOWN if known else Sharing.UNKNOWN
    return Sharing.UNKNOWN if any(_loses(node, walk) for node in walk.answers) else Sharing.ONE


def weights_read(walk: Sweep) -> frozenset[tuple[Value, Hashable]]:
    """The stored tensors at the ends of a walk, with their labels; none where an operator stops it."""
    if walk.refusals:
        return frozenset()
    leaves = ((value, live.as_mask()) for value, live in _leaves(walk) if value.holds_tensor)
    return frozenset((value, live.key) for value, live in leaves)


def _bits(live: Live) -> set[int]:
    return {int(item) for item in live.array.reshape(-1)}


def _leaves(walk: Sweep) -> Iterator[tuple[Value, Live]]:
    """Labels at the ends of a walk: stored tensors, graph inputs, outputs of unknown operators."""
    behind = _behind_weights(walk)
    weighted = any(value.holds_tensor and walk.kept[value].axes for value in walk.reached)
    for value in walk.reached:
        unknown = value.producer in walk.refusals and not weighted
        if value not in behind and (value.producer is None or value.holds_tensor or unknown):
            yield value, walk.kept[value]


def _behind_weights(walk: Sweep) -> set[Value]:
    """Activations multiplied by labelled weights: all heads read them, and sharing those couples nothing."""
    behind: set[Value] = set()

    def hides(use: Use) -> bool:
        weights = stored_weights(use.node)
        read = (walk.edges.get((use.node.index, index)) for index in weights)
        if use.input_index not in weights and any(live is not None and live.axes for live in read):
            return True
        return any(output in behind for output in use.node.outputs)

    # Nearest to the core first, so that all readers of a value were looked at before it.
    for value in sorted(walk.reached, key=lambda item: -1 if item.producer is None else item.producer.index)[
        ::-1
    ]:
        uses = [use for use in value.consumers if (use.node.index, use.input_index) in walk.edges]
        if not value.holds_tensor and uses and all(map(hides, uses)):
            behind.add(value)
    return behind


def _loses(node: Node, walk: Sweep) -> bool:
    """Return whether bits of heads end at a node that passes none to its inputs."""
    asked = [walk.kept[value] for value in node.results if value in walk.kept]
    if not any(live.axes for live in asked):
        return False
    wanted = reduce(or_, (bits for live in asked for bits in _bits(live)), 0)
    answer = walk.answers[node]
    passed = [live for live in (*answer.inputs.values(), *answer.bodies.values()) if not live.is_mask]
    return bool(wanted & ~reduce(or_, (bits for live in passed for bits in _bits(live)), 0))
