"""The tiny sample models, and what PyTorch says about each of their architectures."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.model.load import load_model
from onnxheadprune.runtime import CPU, Provider
from tests.conftest import SAMPLES

TINY = SAMPLES / "tiny"
TOLERANCE = 1e-5
NAMES = sorted(path.stem for path in TINY.glob("*.onnx"))
PROVIDER = Provider(CPU, "the reference is PyTorch on a CPU")


@dataclass(frozen=True)
class Reference:
    """What PyTorch says about one architecture."""

    head_sets: list[dict[int, list[int]]]
    feeds: dict[str, dict[str, Any]]
    arrays: dict[str, Any]

    def output(self, variant: str, feed: str) -> Any:
        """The model's first output."""
        (key,) = (key for key in self.arrays if key.startswith(f"{variant}/{feed}/"))
        return self.arrays[key]


@functools.cache
def reference(architecture: str) -> Reference:
    with np.load(TINY / f"{architecture}.reference.npz") as file:
        arrays = dict(file)
    sets = [
        {int(layer): heads for layer, heads in item.items()} for item in json.loads(str(arrays["head_sets"]))
    ]
    feeds = {
        name: {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}
        for name in json.loads(str(arrays["feeds"]))
    }
    return Reference(sets, feeds, arrays)


@functools.cache
def sample(name: str) -> ModelProto:
    return load_model(TINY / f"{name}.onnx")


@functools.cache
def analysis(name: str) -> Analysis:
    """Of a sample, made once: many sets of heads are planned with it."""
    return analysis_of(sample(name), name)


def error(output: Any, expected: Any) -> float:
    """Largest difference relative to the scale of the output."""
    return float(np.abs(output - expected).max() / np.abs(expected).max())
