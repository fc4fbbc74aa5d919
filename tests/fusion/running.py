"""Running a block before and after fusion."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from onnxheadprune import Fusion
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode

LIMIT = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 4e-3}
"""How much two orders of summation may differ, as a part of the largest number."""


def run(model: ModelProto, feeds: dict[str, Any], optimize: bool = False) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Any] = session.run(None, feeds)
    return results


def executed(model: ModelProto, folder: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime really runs, all optimizations on."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def fused(model: ModelProto, mode: FuseMode) -> tuple[ModelProto, Fusion]:
    """A fused model, and a check that the given one was not touched."""
    before = model.SerializeToString()
    result = fuse(model, mode)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result[0])
    return result


def assert_same(model: ModelProto, other: ModelProto, feeds: dict[str, Any]) -> None:
    """Equal outputs on a feed, rows that are no number in the original left out."""
    for optimize in (False, True):
        for left, right in zip(run(model, feeds), run(other, feeds, optimize), strict=True):
            assert left.shape == right.shape
            assert left.dtype == right.dtype
            known = np.isfinite(left)
            assert known.any()
            error = np.abs(left[known].astype(np.float64) - right[known]).max()
            assert error <= LIMIT[left.dtype] * np.abs(left[known]).max()
