"""Following a contracted axis upstream to the products that made it.

Every position of the axis gets a label, and the labels travel through the same rules that liveness
uses. Where they reach a product of two activations and spread over a batch axis and an axis of its
own, the batch axis is the head axis and the other one the head size. Nothing is recognised by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onnxheadprune.graph.view import Node, Value
from onnxheadprune.liveness.contraction import Contraction
from onnxheadprune.liveness.live import DEAD, FULL, Array, Live
from onnxheadprune.liveness.registry import rule_for
from onnxheadprune.liveness.sweep import admissible
from onnxheadprune.refusal import Reason, Refusal
from onnxheadprune.sites.fused import is_fused_core, split_fused
from onnxheadprune.sites.products import is_product, is_weight, stored_map
from onnxheadprune.sites.within import Classes, within_heads


@dataclass(frozen=True, eq=False)
class Core:
    """A product reached by labels.

    Attributes:
        node: the product, or a fused attention node.
        heads: for each position of the head axes, the labels found there.
        head_axes: axes of the core's output that enumerate heads.
        feature_axes: axes of the core's output that lie within a head.
    """

    node: Node
    heads: tuple[frozenset[int], ...]
    head_axes: tuple[int, ...]
    feature_axes: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """Everything that one axis leads to."""

    cores: tuple[Core, ...] = ()
    mixes_heads: bool = False
    refusals: tuple[Refusal, ...] = ()
    blocked: tuple[Node, ...] = ()

    def __or__(self, other: Trace) -> Trace:
        return Trace(
            (*self.cores, *(core for core in other.cores if core not in self.cores)),
            self.mixes_heads or other.mixes_heads,
            (*self.refusals, *(item for item in other.refusals if item not in self.refusals)),
            (*self.blocked, *(item for item in other.blocked if item not in self.blocked)),
        )

    def told_apart(self, classes: Classes | None) -> Trace:
        """The same with every label replaced by those that it stands for."""
        if classes is None or not self.cores:
            return self
        cores = tuple(
            replace(
                core,
                heads=tuple(frozenset().union(*(classes[label] for label in head)) for head in core.heads),
            )
            for core in self.cores
        )
        return replace(self, cores=cores)


class Step(NamedTuple):
    """Where labels go on; each of them may stand for several of those downstream."""

    value: Value
    live: Live
    classes: Classes | None = None


class Tracer:
    """Traces axes of one model; results are shared, so that tracing all of them stays linear."""

    def __init__(self) -> None:
        self._known: dict[tuple[Value, tuple[int, ...], bytes], Trace] = {}

    def trace(self, value: Value, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Trace:
        """What produced the positions of `axes` (of the given sizes) of `value`."""
        labels = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
        return self._follow(value, Live.over(axes, labels))

    def _follow(self, start: Value, live: Live) -> Trace:
        """Depth first without recursion: residual streams are thousands of nodes deep."""
        stack: list[tuple[Value, Live]] = [(start, live)]
        while stack:
            value, labels = stack[-1]
            key = _key(value, labels)
            if key in self._known:
                stack.pop()
                continue
            own, upstream = _step(value, labels)
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


def _step(value: Value, live: Live) -> tuple[Trace, list[Step]]:
    """What one value says by itself, and where its labels go on."""
    node = value.producer
    if node is None or value.is_constant:
        return Trace(), []
    if is_fused_core(node):
        split = split_fused(node, value.output_index, live)
        return (Trace(), []) if split is None else (Trace((Core(node, *split),)), [])
    product = is_product(node)
    if product is not None:
        return _classify(node, product, live), []
    entry = rule_for(node)
    if entry is None:
        return Trace(blocked=(node,)), []
    # The other pieces of a Split have no say in what this one reads.
    others = DEAD if node.op_type == "Split" and not node.domain else FULL
    lives = [live if output is value else others for output in node.outputs]
    answer = entry.function(node, lives)
    if isinstance(answer, Refusal):
        if answer.reason is Reason.COUPLED and _keeps_shape(node, value):
            # A normalisation mixes positions but moves none. Whether it mixes heads is for a trial sweep to say.
            source = node.inputs[0]
            return Trace(), [Step(source, live)] if source is not None else []
        return Trace(refusals=(answer,), blocked=(node,)), []
    upstream = []
    for index, labels in answer.inputs.items():
        source = node.input(index)
        if source is None or source.is_constant or not labels.axes or labels.is_full:
            continue
        checked = admissible(labels, source)
        if checked is None:
            continue
        if node.op_type == "Concat" or _same_labels(checked, live):
            upstream.append(Step(source, checked))
        elif (within := within_heads(node, index, live)) is not None:
            upstream.append(Step(source, *within))
    upstream += [Step(source, labels) for source, labels in answer.bodies.items()]
    return Trace(), upstream


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


def _classify(node: Node, product: Contraction, live: Live) -> Trace:
    """Which axes of a product enumerate heads, which lie within one."""
    letters = {axis: product.out_axes[axis] for axis in live.axes}
    batch = [axis for axis in live.axes if letters[axis] in product.batch]
    free = [axis for axis in live.axes if axis not in batch]
    if not free:
        return Trace(mixes_heads=bool(batch), blocked=(node,))
    owners = {axis: product.owners(letters[axis]) for axis in free}
    if len(set(owners.values())) > 1:
        # Multi-query attention folds heads into the rows: [B, S*H, D] x [B, D, S]. Heads are the slower axis.
        feature = min(free, key=lambda axis: _stride(live, axis))
        batch += [axis for axis in free if owners[axis] != owners[feature]]
        free = [axis for axis in free if axis not in batch]
    return Trace((Core(node, head_sets(live, batch), tuple(batch), tuple(free)),))


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
    return _classify(node, found, live)


def _operand(node: Node, index: int) -> Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _stride(live: Live, axis: int) -> int:
    """How far apart neighbours along `axis` are on the traced axis."""
    labels = np.moveaxis(live.array, live.axes.index(axis), 0).astype(np.int64)
    # All neighbours, not the first two: a group's queries in a row share one label as long as their head lasts.
    return int(np.abs(np.diff(labels, axis=0)).max())


def head_sets(live: Live, head_axes: Sequence[int]) -> tuple[frozenset[int], ...]:
    """The labels found at each position of the head axes."""
    positions = [live.axes.index(axis) for axis in head_axes]
    array: Array = np.moveaxis(live.array, positions, range(len(positions)))
    count = int(np.prod(array.shape[: len(positions)], dtype=np.int64))
    rows = array.reshape(count, -1)
    return tuple(frozenset(int(label) for label in row if label) for row in rows)


def coupling(trace: Trace) -> Refusal | None:
    """The first refusal because of mixed heads."""
    return next((item for item in trace.refusals if item.reason is Reason.COUPLED), None)
