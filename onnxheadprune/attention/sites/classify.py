"""Axes of a product that labels reach: which enumerate heads, which lie within a head, and which are only tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.attention.sites.core import Core, Heads, Trace
from onnxheadprune.attention.sites.evidence import tokens_of, told_apart, without_blind
from onnxheadprune.attention.sites.products import makes_maps
from onnxheadprune.liveness.contraction import Contraction
from onnxheadprune.liveness.live import Array, Live
from onnxheadprune.model.graph.view import Node


def classify(node: Node, product: Contraction, live: Live) -> Trace:
    """Which axes of a product enumerate heads, which lie within one, and which are only tokens."""
    live = _without_positions(node, product, live)
    batch = [axis for axis in live.axes if product.out_axes[axis] in product.batch]
    free = [axis for axis in live.axes if axis not in batch]
    feature = _feature(node, product, live, free)
    if feature is None:
        return Trace(mixes_heads=bool(batch), blocked=(node,))
    # Multi-query attention folds heads into the rows: [B, S*H, D] x [B, D, S].
    own = product.owners(product.out_axes[feature])
    rows = [axis for axis in free if product.owners(product.out_axes[axis]) != own]
    weights = {axis: told_apart(node, axis, live.period(axis)) for axis in rows}
    tokens = [axis for axis in rows if _are_alike(weights[axis])]
    folded = [axis for axis in rows if axis not in tokens]
    head_axes = (*batch, *folded)
    classes = {head_axes.index(axis): known for axis in folded if (known := weights[axis]) is not None}
    heads = _sharing(head_sets(live, head_axes), [live.period(axis) for axis in head_axes], classes)
    features = tuple(axis for axis in free if axis not in rows) or (feature,)
    return Trace((Core(node, heads, head_axes, features, tokens_of(live, tokens)),))


def _are_alike(classes: Sequence[int] | None) -> bool:
    """Whether all positions of an axis are known to read the same weights."""
    return classes is not None and len(set(classes)) == 1


def _without_positions(node: Node, product: Contraction, live: Live) -> Live:
    """Labels without the axes that are no evidence: live labels do not differ there.

    Of heads that are picked one by one only one is live, too; those have weights of their own.
    """
    rows = [axis for axis in live.axes if product.out_axes[axis] not in product.batch]
    live = without_blind(live, rows)
    batch = [axis for axis in live.axes if product.out_axes[axis] in product.batch]
    seen = without_blind(live, batch)
    if any(axis in seen.axes for axis in batch):
        return seen
    classes = {axis: told_apart(node, axis, live.period(axis), stacked=True) for axis in batch}
    picked = [axis for axis in batch if len(set(classes[axis] or ())) > 1]
    return live.only([axis for axis in live.axes if axis not in batch or axis in picked])


def _feature(node: Node, product: Contraction, live: Live, free: Sequence[int]) -> int | None:
    """An axis within heads, None if the product makes attention maps: of axes of two operands heads are the slower."""
    owners = {product.owners(product.out_axes[axis]) for axis in free}
    if len(owners) > 1:
        return min(free, key=lambda axis: _stride(live, axis))
    single = _single_feature(node, product)
    if single is None or product.owners(product.out_axes[single]) in owners:
        return free[0] if free else None
    # Rows of the map are what is told apart beside heads of one channel, unless weights tell them apart.
    tokens = all(_are_alike(told_apart(node, axis, live.period(axis))) for axis in free)
    return single if tokens else free[0]


def _single_feature(node: Node, product: Contraction) -> int | None:
    """The axis of a context whose heads have one channel each, None if the product makes attention maps.

    A context is made of a map, and values that have an axis of size 1 of their own.
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
    """Label sets of head positions, united over positions that read the same weights.

    Args:
        heads: one set per position of the head axes, row-major.
        sizes: lengths of the head axes.
        classes: per head axis (its place among them) the class of each of its positions.
    """
    united: dict[tuple[int, ...], frozenset[int]] = {}
    keys = [
        tuple(classes[axis][at] if axis in classes else at for axis, at in enumerate(position))
        for position in np.ndindex(*sizes)
    ]
    for key, labels in zip(keys, heads, strict=True):
        united[key] = united.get(key, frozenset()) | labels
    return tuple(united[key] for key in keys)


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
