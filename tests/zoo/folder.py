"""One folder of the zoo as it lies on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxheadprune.model.load import load_model
from tests.zoo.runs import Array, Arrays

HeadSet = Sequence[Sequence[int]]
"""Query heads to remove, per projection."""
Kept = dict[str, tuple[int, list[int]]]
"""Axis and kept KV heads by the name of a graph input or output."""


class Folder:
    """The model, the description and the PyTorch reference of one case and variant."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.case: dict[str, Any] = json.loads((path / "case.json").read_text())

    @staticmethod
    def is_built(path: Path) -> bool:
        """Whether there is a graph to check."""
        return (path / "case.json").exists() and (path / "model.onnx").exists()

    @property
    def has_model(self) -> bool:
        """Whether there is a graph; else the description says why there is none."""
        return self.is_built(self.path)

    @cached_property
    def arrays(self) -> Arrays:
        """The content of `reference.npz`."""
        with np.load(self.path / "reference.npz") as reference:
            return dict(reference)

    @cached_property
    def model(self) -> ModelProto:
        """The model as the engine reads it."""
        return load_model(self.path / "model.onnx")

    @cached_property
    def passes_checker(self) -> bool:
        """Whether `onnx.checker` takes the file as it is (it knows none of ONNX Runtime's own operators)."""
        try:
            onnx.checker.check_model(self.model)
        except onnx.checker.ValidationError:
            return False
        return True

    @property
    def tolerance(self) -> float | None:
        """Largest relative error against PyTorch, None where the numbers are too coarse to compare."""
        limit: float | None = self.case["tolerance"]
        return limit

    @property
    def projections(self) -> list[dict[str, Any]]:
        """The output projections in order of execution."""
        listed: list[dict[str, Any]] = self.case["projections"]
        return listed

    @property
    def weights(self) -> list[Array]:
        """Their weights, ``[out, in]``."""
        found = [self.arrays[f"weight/{index}"] for index in range(len(self.projections))]
        return [weight.reshape(weight.shape[0], -1) for weight in found]

    @property
    def head_sets(self) -> dict[str, list[list[int]]]:
        """Query heads to remove per projection, by the name of the set."""
        return dict(zip(self.case["head_set_names"], self.case["head_sets"], strict=True))

    def feeds(self) -> list[Arrays]:
        """The inputs of each feed."""
        count = len({key.partition("/")[0] for key in self.arrays if key.startswith("feed")})
        return [{name: self.arrays[f"feed{k}/{name}"] for name in self.case["inputs"]} for k in range(count)]

    def reference(self, head_set: int | None, feed: int) -> Arrays:
        """PyTorch's outputs with a head set silenced, or (None) with all heads."""
        prefix = f"{'full' if head_set is None else f'set{head_set}'}/feed{feed}/"
        return {name: self.arrays[prefix + name] for name in self.case["outputs"]}

    def kept_caches(self, heads: HeadSet) -> Kept:
        """The axis and kept KV heads of each past and present, if `heads` go.

        A KV head stays as long as one of its query heads does. A site that goes as a whole leaves its
        cache as it was.
        """
        kept: Kept = {}
        for cache in self.case["caches"]:
            projection, gone = self.projections[cache["projection"]], heads[cache["projection"]]
            groups = np.arange(projection["num_heads"]).reshape(projection["kv_num_heads"], -1)
            left = [k for k, group in enumerate(groups) if not set(group.tolist()) <= set(gone)]
            whole = left or list(range(len(groups)))
            kept |= {cache[name]: (cache["axis"], whole) for name in ("past", "present")}
        return kept

    def whole_caches(self, model: ModelProto) -> Kept:
        """The same for the pairs whose past `model` declares with all KV heads."""
        declared = {info.name: info.type.tensor_type.shape.dim for info in model.graph.input}
        kept: Kept = {}
        for cache in self.case["caches"]:
            count = self.projections[cache["projection"]]["kv_num_heads"]
            if cache["past"] in declared and declared[cache["past"]][cache["axis"]].dim_value == count:
                kept |= {cache[name]: (cache["axis"], list(range(count))) for name in ("past", "present")}
        return kept


def narrowed(arrays: Arrays, kept: Kept) -> Arrays:
    """Arrays with the cache heads that stay."""
    result = dict(arrays)
    for name in arrays.keys() & kept.keys():
        axis, heads = kept[name]
        result[name] = np.take(arrays[name], heads, axis=axis)
    return result
