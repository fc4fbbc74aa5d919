"""The operations that a cut saves, at the sizes that validation has run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from onnxheadprune.benchmarking.flops import concrete_view, count_flops
from onnxheadprune.runtime.feeds.generate import Feed


@dataclass(frozen=True)
class Operations:
    """Floating point operations of one run, before and after (see `benchmarking/flops.py` for what counts).

    Attributes:
        before: of the original.
        after: of the pruned model.
        shapes: of the inputs, by name.
        complete: whether all contractions could be counted in both.
    """

    before: int
    after: int
    shapes: Mapping[str, tuple[int, ...]]
    complete: bool

    @property
    def halved(self) -> bool:
        """True if less than half of the operations are left."""
        return 2 * self.after < self.before

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"before": self.before, "after": self.after, "shapes": shapes, "complete": self.complete}


def operations(
    original: ModelProto, pruned: ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> Operations | None:
    """Counts both models.

    Args:
        original: the model as it was.
        pruned: the model that was made of it.
        shapes: of the original's inputs. Inputs of the pruned model that are narrower keep their declared sizes.

    Returns:
        None where the original has nothing that is counted.
    """
    before, after = (count_flops(concrete_view(model, _feed(model, shapes))) for model in (original, pruned))
    if not before.total:
        return None
    return Operations(before.total, after.total, shapes, not before.uncounted and not after.uncounted)


def _feed(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Feed:
    """An array per input that takes no memory: of these shapes, but for sizes that the model itself declares."""
    feed: Feed = {}
    for info in model.graph.input:
        shape = shapes.get(info.name)
        declared = info.type.tensor_type
        if shape is None or len(declared.shape.dim) != len(shape):
            continue
        sizes = [
            dim.dim_value if dim.HasField("dim_value") else size
            for dim, size in zip(declared.shape.dim, shape, strict=True)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type)
        feed[info.name] = np.broadcast_to(np.zeros((), dtype), sizes)
    return feed
