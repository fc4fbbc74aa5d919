"""Tracing a contracted axis upstream to the products that computed it.

Every position of the axis gets a label, and the labels travel through the same rules that liveness
uses, until they reach a product of two activations; `_classify` reads there what its axes are. Nothing is
recognised by name.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.core import (
    Classes,
    Core,
    Heads,
    SharedLayers,
    Trace,
    within_groups,
    within_heads,
)
from onnxheadprune.attention.sites.products import (
    is_product,
    is_state_space,
    is_weight,
    makes_maps,
    stored_map,
    summed,
    tokens_of,
    told_apart,
    without_blind,
)
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import Notation, operands
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask_about
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import Array
from onnxheadprune.settings.units import HEAD


def _classify(node: Node, product: Notation, live: Live) -> Trace:
    """Divide the axes of a product into those of heads, those within a head, and those of tokens."""
    live = _without_positions(node, product, live)
    batch = [axis for axis in live.axes if product.out_axes[axis] in product.batch]
    free = [axis for axis in live.axes if axis not in batch]
    feature = _feature(node, product, live, free)
    if feature is None:
        return Trace(of_maps=is_product(node) is not None)
    # Multi-query attention folds heads into the rows: [B, S*H, D] x [B, D, S].
    own = product.owners(product.out_axes[feature])
    rows = [axis for axis in free if product.owners(product.out_axes[axis]) != own]
    weights = {axis: told_apart(node, axis, live.period(axis), live.repeat(axis)) for axis in rows}
    tokens = [axis for axis in rows if _are_alike(weights[axis])]
    folded = [axis for axis in rows if axis not in tokens]
    head_axes = (*batch, *folded)
    classes = {head_axes.index(axis): known for axis in folded if (known := weights[axis]) is not None}
    sizes = tuple(live.period(axis) for axis in head_axes)
    heads = _sharing(_head_sets(live, head_axes), sizes, classes)
    features = tuple(axis for axis in free if axis not in rows) or (feature,)
    repeats = tuple((axis, run) for axis, run in live.repeats if axis in head_axes)
    return Trace((Core(node, heads, head_axes, sizes, features, tokens_of(live, tokens), repeats),))


def _are_alike(classes: Sequence[int] | None) -> bool:
    """Return whether all positions of an axis are known to read the same weights."""
    return classes is not None and len(set(classes)) == 1


def _without_positions(node: Node, product: Notation, live: Live) -> Live:
    """Labels without the axes along which live labels do not differ, which are no evidence of heads.

    Of heads that are picked one by one only one is live, too; those have separate weights.
    """
    seen = without_blind(live, live.axes)
    queries = _queries(product, seen)
    picked = []
    for axis in live.axes:
        letter = product.out_axes[axis]
        if axis not in seen.axes and (letter in product.batch or product.owners(letter) == queries):
            stacked = letter in product.batch
            classes = told_apart(node, axis, live.period(axis), live.repeat(axis), stacked=stacked)
            picked += [axis] if len(set(classes or ())) > 1 else []
    return live.only([axis for axis in live.axes if axis in seen.axes or axis in picked])


def _queries(product: Notation, live: Live) -> tuple[int, ...] | None:
    """The operand with the axis of the queries' tokens, which labels do not tell apart; None where that is unknown.

    Axes that it alone has may enumerate heads; those that the other operand alone has are channels of values.
    """
    others = (letter for axis, letter in enumerate(product.out_axes) if axis not in live.axes)
    owners = {product.owners(letter) for letter in others if letter not in product.batch}
    return owners.pop() if len(owners) == 1 else None


def _feature(node: Node, product: Notation, live: Live, free: Sequence[int]) -> int | None:
    """An axis within heads, None if the product makes attention maps: of axes of two operands those of the values."""
    owners = {product.owners(product.out_axes[axis]) for axis in free}
    if len(owners) > 1:
        queries = _queries(product, live)
        values = [axis for axis in free if product.owners(product.out_axes[axis]) != queries]
        # Where tokens are told apart, too, heads are the slower ones.
        return min(values, key=lambda axis: _stride(live, axis))
    single = _single_feature(node, product)
    if single is None or product.owners(product.out_axes[single]) in owners:
        return free[0] if free else None
    # Beside heads of one channel each, the free axes are rows of an attention map, unless their weights differ.
    tokens = all(_are_alike(told_apart(node, axis, live.period(axis), live.repeat(axis))) for axis in free)
    return single if tokens else free[0]


def _single_feature(node: Node, product: Notation) -> int | None:
    """The axis of a context whose heads have one channel each, None if the product makes attention maps.

    A context is the product of an attention map and values with a separate axis of size 1.
    """
    shape = node.out.shape
    if shape is None or len(product.indices) != 2:
        return None
    for axis, letter in enumerate(product.out_axes):
        if shape[axis] == 1 and letter not in product.batch:
            (values,) = product.owners(letter)
            (weights,) = set(product.indices) - {values}
            if makes_maps(node, weights) and not makes_maps(node, values):
                return axis
    return None


def _sharing(
    heads: Sequence[frozenset[int]], sizes: Sequence[int], classes: Mapping[int, Sequence[int]]
) -> Heads:
    """Label sets of head positions, united over positions that read the same weights."""
    united: dict[tuple[int, ...], frozenset[int]] = {}
    keys = [
        tuple(classes[axis][at] if axis in classes else at for axis, at in enumerate(position))
        for position in np.ndindex(*sizes)
    ]
    for key, labels in zip(keys, heads, strict=True):
        united[key] = united.get(key, frozenset()) | labels
    return tuple(united[key] for key in keys)


def _stride(live: Live, axis: int) -> int:
    """The largest distance on the traced axis between neighbors along `axis`."""
    labels = np.moveaxis(live.array, live.axes.index(axis), 0).astype(np.int64)
    # All neighbours, not the first two: a group's queries in a row share one label as long as their head lasts.
    return int(np.abs(np.diff(labels, axis=0)).max())


def _head_sets(live: Live, head_axes: Sequence[int]) -> tuple[frozenset[int], ...]:
    """The labels at each position of the head axes."""
    positions = [live.axes.index(axis) for axis in head_axes]
    array: Array = np.moveaxis(live.array, positions, range(len(positions)))
    count = int(np.prod(array.shape[: len(positions)], dtype=np.int64))
    rows = array.reshape(count, -1)
    return tuple(frozenset(int(label) for label in row if label) for row in rows)


HEADS = Labels(units=HEAD.units)
"""Labels that number the positions of heads."""


class TraceStep(NamedTuple):
    """The next values of labels; each label may represent several downstream ones."""

    value: Value
    live: Live
    classes: Classes | None = None


class Tracer:
    """Traces axes of one model; results are shared, so that tracing all of them stays linear."""

    def __init__(self) -> None:
        self._shared = SharedLayers(self.trace)
        self._known: dict[tuple[Value, Hashable], Trace] = {}

    def trace(self, value: Value, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Trace:
        """Return the sources of the positions of `axes` (of the given sizes) of `value`."""
        labels = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
        return self.follow(value, Live.over(axes, labels))

    def treats_heads_alike(self, layer: Node) -> bool:
        """Return whether all heads share a linear layer that keeps their axis."""
        return bool(self._shared.axes(layer))

    def follow(self, start: Value, live: Live) -> Trace:
        """Trace labelled positions of a value back to the cores that compute them."""
        # Depth first without recursion: residual streams are thousands of nodes deep.
        stack: list[tuple[Value, Live]] = [(start, live)]
        while stack:
            value, labels = stack[-1]
            key = value, labels.key
            if key in self._known:
                stack.pop()
                continue
            own, upstream = _step(value, labels, self._shared)
            missing = [
                (step.value, step.live) for step in upstream if (step.value, step.live.key) not in self._known
            ]
            if missing:
                stack += missing
                continue
            for step in upstream:
                own |= self._known[step.value, step.live.key].told_apart(value.producer, step.classes)
            if not own.cores:
                own |= _by_stored_maps(value, labels)
            self._known[key] = own
            stack.pop()
        return self._known[start, live.key]


def _step(value: Value, live: Live, shared: SharedLayers) -> tuple[Trace, list[TraceStep]]:
    """Return the result at one value, and where its labels continue."""
    node = value.producer
    if node is None or value.is_constant:
        return Trace(), []
    if is_fused(node):
        core = _fused_core(node, value.output_index, live)
        return Trace(() if core is None else (core,)), []
    product = is_product(node)
    if product is not None:
        return Trace() if is_state_space(node) else _classify(node, product, live), []
    answer = ask_about(value, live, HEADS)
    if isinstance(answer, Refusal) and answer.reason is Reason.NO_RULE:
        return Trace(), []
    if isinstance(answer, Refusal):
        return _refused(value, live, answer, shared)
    upstream = []
    for index, labels in answer.inputs.items():
        source = node.input(index)
        if source is None or source.is_constant or not labels.axes or labels.is_full:
            continue
        if is_a(node, "Concat") or _same_labels(labels, live):
            upstream.append(TraceStep(source, labels))
        elif within := within_heads(node, index, live) or within_groups(node, index, live):
            upstream.append(TraceStep(source, *within))
    upstream += [TraceStep(source, labels) for source, labels in answer.bodies.items()]
    through = [] if upstream else _through_shared(node, live, shared)
    return Trace(shared=bool(through)), upstream or through


def _fused_core(node: Node, output_index: int, live: Live) -> Core | None:
    """Return the core that labels on a fused node's context reach, None where its layout is unknown."""
    layout = layout_of(node)
    if layout is None or output_index != 0:
        return None
    # What else the labels differ along are tokens: the operator says where its heads are.
    live = without_blind(live, [axis for axis in live.axes if axis not in layout.out_axes])
    sizes = [layout.num_heads, layout.v_head_size]
    if len(layout.out_axes) == 1:
        sizes = [layout.num_heads * layout.v_head_size]
    axes = sorted({*live.axes, *layout.out_axes})
    known = dict(zip(layout.out_axes, sizes, strict=True))
    array = live.aligned(axes, [known.get(axis, live.period(axis)) for axis in axes])
    places = [axes.index(axis) for axis in layout.out_axes]
    rows = np.moveaxis(array, places, range(len(places))).reshape(layout.num_heads, -1)
    heads = tuple(frozenset(int(label) for label in row if label) for row in rows)
    tokens = tokens_of(live, [axis for axis in live.axes if axis not in layout.out_axes])
    return Core(node, heads, layout.out_axes[:1], (len(heads),), layout.out_axes[1:], tokens)


def _refused(
    value: Value, live: Live, refusal: Refusal, shared: SharedLayers
) -> tuple[Trace, list[TraceStep]]:
    """The continuation of labels that an operator's rule refuses."""
    node = value.producer
    assert node is not None
    seen = without_blind(live, live.axes)
    if seen.axes != live.axes:
        # Positions that were cut off say nothing; without them the operator may have an answer.
        return _step(value, seen, shared)
    if refusal.reason is Reason.COUPLED and node.shape(0) is not None and node.shape(0) == value.shape:
        # A normalisation mixes positions but moves none. Whether it mixes heads is for a trial sweep to say.
        source = node.inputs[0]
        return Trace(), [TraceStep(source, live)] if source is not None else []
    return Trace(), []


def _through_shared(node: Node, live: Live, shared: SharedLayers) -> list[TraceStep]:
    """Continue labels through a layer that all heads share."""
    axes = shared.axes(node)
    read = summed(node) if axes else None
    if read is None:
        return []
    within = within_heads(node, read.activation[0], live, axes)
    return [] if within is None else [TraceStep(read.value, *within)]


def _same_labels(first: Live, second: Live) -> bool:
    """Return whether two carry the same labels. A broadcast operand (a scale, a weight) has fewer."""
    if first.array is second.array:
        return True
    size = 1 + max(int(live.array.max(initial=0)) for live in (first, second))
    present = np.zeros((2, size), dtype=np.bool_)
    for row, live in zip(present, (first, second), strict=True):
        row[live.array] = True
    return bool(np.array_equal(present[0, 1:], present[1, 1:]))


def _by_stored_maps(value: Value, live: Live) -> Trace:
    """The core that a product with a stored map per head, or stored values, is, where nothing upstream of it is one.

    Labels continue through it as through any weights, since a map of weights may also follow attention. Values are
    stored that tokens of the model's own have, in an export with a fixed batch.
    """
    node = value.producer
    found = None if node is None else stored_map(node)
    if node is None or found is None:
        return Trace()
    letters = {found.out_axes[axis] for axis in live.axes}
    inputs = zip(found.indices, operands(node, found), strict=True)
    mixed = next(index for index, value in inputs if not is_weight(value))
    owners = {found.owners(letter) for letter in letters - found.batch}
    is_own = owners == {(mixed,)} or (len(owners) == 1 and (mixed,) not in owners and makes_maps(node, mixed))
    return _classify(node, found, live) if letters & found.batch and is_own else Trace()
