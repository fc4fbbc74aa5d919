"""Running models of the zoo in ONNX Runtime, and telling how far apart results are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

Array = NDArray[Any]
Arrays = dict[str, Array]

ort.set_default_logger_severity(4)
_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32}


def _unrounded(model: ModelProto) -> ModelProto:
    """The model with MatMulNBits computing in the precision of its inputs.

    At accuracy level 4 activations are rounded to int8 on the way, and two results that differ in the last
    bit may end a whole step apart.
    """
    if all(attribute.name != "accuracy_level" for node in model.graph.node for attribute in node.attribute):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return copy


class Runner:
    """A model as it is written: without ONNX Runtime's optimizations, on one thread."""

    def __init__(self, model: ModelProto) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(
            _unrounded(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._types = {item.name: item.type for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, Array]) -> Arrays:
        """The outputs by name; inputs that the exporter dropped are ignored, floats cast to what is asked."""
        own = {}
        for name, kind in self._types.items():
            if name in feed:
                value = feed[name]
                own[name] = value.astype(_TYPES.get(kind, value.dtype)) if value.dtype.kind == "f" else value
        return dict(zip(self._outputs, self._session.run(self._outputs, own), strict=True))


class DifferentShapeError(Exception):
    """An output has not the shape that was expected."""


def distance(got: Array, want: Array, name: str) -> float:
    """The largest difference, relative to the largest magnitude of `want`.

    Raises:
        DifferentShapeError: if the shapes differ.
    """
    if got.shape != want.shape:
        raise DifferentShapeError(f"{name} has shape {list(got.shape)}, not {list(want.shape)}")
    left, right = got.astype(np.float64), want.astype(np.float64)
    if not right.size:
        return 0.0
    worst = float(np.abs(left - right).max()) / (float(np.abs(right).max()) + 1e-12)
    return worst if np.isfinite(worst) else float("inf")
