"""The inputs and outputs of a model that carry heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
from onnx import TensorProto

from onnxheadprune.liveness.carriers import carried, carrier_outputs, outlet, passes_on
from onnxheadprune.liveness.consumers import MAX_CARRIERS
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import WRITES_INTO
from onnxheadprune.model.graph.view import Value
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
