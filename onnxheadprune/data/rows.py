"""Activations as rows of features, without those of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input, Role


def counted(shape: tuple[int, ...], feed: Feed, inputs: Sequence[Input]) -> Array | None:
    """Return which positions are no padding, as a mask input of their shape tells; None where none does.

    Args:
        shape: of the positions, also where they lie one behind the other.
        feed: what the model was run on.
        inputs: the graph inputs.
    """
    masks = (
        feed[item.name]
        for item in inputs
        if item.role is Role.MASK
        and (feed[item.name].shape == shape or shape == (feed[item.name].size,))
        and item.dtype.kind in "iu"
    )
    mask = next(masks, None)
    return None if mask is None else mask.reshape(shape) != 0


def token_rows(array: Array, axes: Sequence[int], feed: Feed, inputs: Sequence[Input]) -> Array:
    """An activation as rows of features, padding left out.

    Args:
        array: the activation.
        axes: its axes that hold features, in their order.
        feed: what the model was run on.
        inputs: the graph inputs; a mask among them tells which positions are padding.

    Returns:
        [rows, features] in float32.
    """
    others = [axis for axis in range(array.ndim) if axis not in axes]
    moved = array.transpose(*others, *axes)
    outer = moved.shape[: len(others)]
    features = math.prod(moved.shape[len(others) :])
    rows = moved.reshape(*outer, features).astype(np.float32, copy=False)
    mask = counted(outer, feed, inputs)
    return rows.reshape(math.prod(outer), features) if mask is None else rows[mask]
