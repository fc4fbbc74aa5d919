"""Following a contracted axis upstream to the products that made it.

Every position of the axis gets a label, and the labels travel through the same rules that liveness
uses, until they reach a product of two activations; `classify.py` reads there what its axes are. Nothing is
recognised by name.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.classify import classify
from onnxheadprune.attention.sites.core import Core, Trace
from onnxheadprune.attention.sites.evidence import without_blind
from onnxheadprune.attention.sites.fused import is_fused_core, split_fused
from onnxheadprune.attention.sites.maps import summed
from onnxheadprune.attention.sites.products import is_product, is_weight, stored_map
from onnxheadprune.attention.sites.shared_layers import SharedLayers
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.attention.sites.within import Classes, within_heads
from onnxheadprune.liveness.asking import ask_about
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.model.graph.facts import JOINS, REDUCES
from onnxheadprune.model.graph.view import Node, Value

HEADS = Labels(units=AttentionSite.UNITS)
"""Labels that number the positions of heads."""


class Step(NamedTuple):
    """The next values of labels; each of them may stand for several of those downstream."""

    value: Value
    live: Live
    classes: Classes | None = None


class Tracer:
    """Traces axes of one model; results are shared, so that tracing all of them stays linear."""

    def __init__(self) -> None:
        self._shared = SharedLayers(self.trace)
        self._known: dict[tuple[Value, tuple[int, ...], bytes], Trace] = {}

    def trace(self, value: Value, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Trace:
        """Return what produced the positions of `axes` (of the given sizes) of `value`."""
        labels = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
        return self.follow(value, Live.over(axes, labels))

    def treats_heads_alike(self, layer: Node) -> bool:
        """Return whether a linear layer computes the same of every head and keeps their axis."""
        return bool(self._shared.axes(layer))

    def follow(self, start: Value, live: Live) -> Trace:
        """Trace labelled positions of a value back to the cores that compute them."""
        # Depth first without recursion: residual streams are thousands of nodes deep.
        stack: list[tuple[Value, Live]] = [(start, live)]
        while stack:
            value, labels = stack[-1]
            key = _key(value, labels)
            if key in self._known:
                stack.pop()
                continue
            own, upstream = _step(value, labels, self._shared)
            missing = [
                (step.value, step.live) for step in upstream if _key(step.value, step.live) not in self._known
            ]
            if missing:
                stack += missing
                continue
            for step in upstream:
                own |= self._known[_key(step.value, step.live)].told_apart(step.classes)
            if not own.cores:
                own |= _by_stored_maps(value, labels)
            self._known[key] = own
            stack.pop()
        return self._known[_key(start, live)]


def _key(value: Value, live: Live) -> tuple[Value, tuple[int, ...], bytes]:
    return value, live.axes, live.array.tobytes()


def _step(value: Value, live: Live, shared: SharedLayers) -> tuple[Trace, list[Step]]:
    """Return what one value says by itself, and where its labels go on."""
    node = value.producer
    if node is None or value.is_constant:
        return Trace(), []
    if is_fused_core(node):
        split = split_fused(node, value.output_index, live)
        return (Trace(), []) if split is None else (Trace((Core(node, *split),)), [])
    product = is_product(node)
    if product is not None:
        return classify(node, product, live), []
    answer = ask_about(value, live, HEADS)
    if isinstance(answer, Refusal) and answer.reason is Reason.NO_RULE:
        return Trace(blocked=(node,)), []
    if isinstance(answer, Refusal):
        return _refused(value, live, answer, shared)
    upstream = []
    for index, labels in answer.inputs.items():
        source = node.input(index)
        if source is None or source.is_constant or not labels.axes or labels.is_full:
            continue
        if node in JOINS or _same_labels(labels, live):
            upstream.append(Step(source, labels))
        elif (within := within_heads(node, index, without_blind(live, live.axes))) is not None:
            upstream.append(Step(source, *within))
    upstream += [Step(source, labels) for source, labels in answer.bodies.items()]
    through = [] if upstream else _through_shared(node, live, shared)
    reduced = ((node, live),) if node in REDUCES else ()
    own = Trace(mixes_heads=_is_map_by_stored(node, live), reduced=reduced, shared=bool(through))
    return own, upstream or through


def _refused(value: Value, live: Live, refusal: Refusal, shared: SharedLayers) -> tuple[Trace, list[Step]]:
    """Return where labels go on that an operator does not let through as they are."""
    node = value.producer
    assert node is not None
    seen = without_blind(live, live.axes)
    if seen.axes != live.axes:
        # Positions that were cut off say nothing; without them the operator may have an answer.
        return _step(value, seen, shared)
    if refusal.reason is Reason.COUPLED and _keeps_shape(node, value):
        # A normalisation mixes positions but moves none. Whether it mixes heads is for a trial sweep to say.
        source = node.inputs[0]
        return Trace(), [Step(source, live)] if source is not None else []
    return Trace(refusals=(refusal,), blocked=(node,)), []


def _through_shared(node: Node, live: Live, shared: SharedLayers) -> list[Step]:
    """Continue labels through a layer that all heads share."""
    axes = shared.axes(node)
    read = summed(node) if axes else None
    if read is None:
        return []
    within = within_heads(node, read.activation[0], without_blind(live, live.axes), axes)
    return [] if within is None else [Step(read.value, *within)]


def _is_map_by_stored(node: Node, live: Live) -> bool:
    """Whether labels lie along heads alone of what a stored tensor per head makes: scores of queries that are stored.

    A class token without a batch is one query for all, so that the exporter stores it.
    """
    found = contraction_of(node)
    if (
        not live.axes
        or found is None
        or not found.contracted
        or not any(is_weight(_operand(node, i)) for i in found.indices)
    ):
        return False
    return {found.out_axes[axis] for axis in live.axes} <= found.batch


def _same_labels(first: Live, second: Live) -> bool:
    """Whether two carry the same labels. A broadcast operand (a scale, a weight) loses some: it made no channel."""
    if first.array is second.array:
        return True
    size = 1 + max(int(live.array.max(initial=0)) for live in (first, second))
    present = np.zeros((2, size), dtype=np.bool_)
    for row, live in zip(present, (first, second), strict=True):
        row[live.array] = True
    return bool(np.array_equal(present[0, 1:], present[1, 1:]))


def _keeps_shape(node: Node, value: Value) -> bool:
    return node.shape(0) is not None and node.shape(0) == value.shape


def _by_stored_maps(value: Value, live: Live) -> Trace:
    """The core that a product with a stored map per head is, where nothing upstream of it is one.

    Labels go on through it as through any weights, since a map of weights may also follow attention.
    """
    node = value.producer
    found = None if node is None else stored_map(node)
    if node is None or found is None:
        return Trace()
    letters = {found.out_axes[axis] for axis in live.axes}
    mixed = next(index for index in found.indices if not is_weight(_operand(node, index)))
    within = letters - found.batch
    if not letters & found.batch or not within or any(found.owners(letter) != (mixed,) for letter in within):
        return Trace()
    return classify(node, found, live)


def _operand(node: Node, index: int) -> Value:
    value = node.inputs[index]
    assert value is not None
    return value


def coupling(trace: Trace) -> Refusal | None:
    """The first refusal because of mixed heads."""
    return next((item for item in trace.refusals if item.reason is Reason.COUPLED), None)
