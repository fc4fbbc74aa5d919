"""Ways in which a pruned toy can be wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxheadprune.edit.records import HEADS, units_entry
from tests.graphs import toys


def record(model: ModelProto) -> Any:
    """What a pruned model says about its removed heads."""
    return json.loads(
        next(entry.value for entry in model.metadata_props if entry.key == units_entry(HEADS).key)
    )


def set_record(model: ModelProto, data: Any) -> None:
    for entry in model.metadata_props:
        if entry.key == units_entry(HEADS).key:
            entry.value = json.dumps(data)


def wrong_head_in_the_record(model: ModelProto) -> None:
    data = record(model)
    data["sites"][0]["removed"] = "2"
    set_record(model, data)


def one_corrupted_weight(model: ModelProto) -> None:
    weight = toys.get_initializer(model, "attn.v.weight")
    weight[3, 5] += 0.1
    toys.set_initializer(model, "attn.v.weight", weight)


def stale_reshape(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.startswith("split_shape"):
            stale = np.array([0, 0, toys.HEADS, toys.HEAD_SIZE])
            tensor.CopyFrom(numpy_helper.from_array(stale, tensor.name))
