"""Arrays of the original model in the shape that the pruned model has for them."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.liveness.interface import Interface
from onnxheadprune.liveness.live import Live
from onnxheadprune.runtime.feeds.generate import Outputs

Array: TypeAlias = npt.NDArray[Any]


def narrow(array: Array, live: Live) -> Array:
    """The live part of a cache array of the original model, in the pruned model's shape."""
    sizes = [array.shape[axis] for axis in live.axes]
    mask = live.aligned(live.axes, sizes) != 0
    kept = Live(live.axes, mask).dense_shape()
    assert kept is not None
    count = len(live.axes)
    front = np.moveaxis(array, live.axes, range(count))
    rest = front.shape[count:]
    picked = front.reshape(math.prod(sizes), *rest)[np.flatnonzero(mask)].reshape(*kept, *rest)
    return np.moveaxis(picked, range(count), live.axes)


def narrowed(arrays: Outputs, io: Interface) -> dict[str, Array]:
    """All arrays of the original that the pruned model has too, in its shapes and under its names."""
    found = {}
    for name, value in arrays.items():
        after = io.after(name)
        if after is not None:
            found[after] = narrow(value, io.live[name]) if name in io.live else value
    return found
