"""Running models of the zoo in ONNX Runtime, and telling how far apart results are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.session import exactly

Array = NDArray[Any]
Arrays = dict[str, Array]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)

ort.set_default_logger_severity(4)
_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32}


class Runner:
    """A model as it is written: without ONNX Runtime's optimizations, on one thread.

    Of a model in memory, products that round activations for speed, or saturate on this machine, are computed exactly
    (`runtime/session.py`).
    """

    def __init__(self, model: ModelProto | str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not isinstance(model, str):
            model = exactly(LoadedModel(model, "the model")).proto.SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
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


def distances(got: Arrays, want: Arrays) -> float:
    """Return the largest distance of any output.

    Raises:
        DifferentShapeError: if shapes differ.
    """
    return max((distance(got[name], value, name) for name, value in want.items()), default=0.0)


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
