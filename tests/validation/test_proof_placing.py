"""Where masks go, which feeds run, and whose fault a declared shape is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper

from onnxheadprune import validate
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests import attacks
from tests.graphs import toys

HEADS = [1, 3]


def rounded(signed: bool) -> ModelProto:
    """The toy with every product rounded on all sides, as static quantization in QDQ form writes it."""
    model = toys.attention()
    kind = np.int8 if signed else np.uint8
    zero = np.array(0 if signed else 128, dtype=kind)
    attacks.add_constant(model, "q/scale", np.array(0.05, dtype=np.float32))
    attacks.add_constant(model, "q/zero", zero)
    nodes: list[Any] = []
    pairs = 0

    def pair(name: str) -> str:
        nonlocal pairs
        pairs += 1
        stem = f"q/{pairs}"
        nodes.append(helper.make_node("QuantizeLinear", [name, "q/scale", "q/zero"], [f"{stem}/q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{stem}/q", "q/scale", "q/zero"], [f"{stem}/d"]))
        return f"{stem}/d"

    for item in model.graph.node:
        if item.op_type == "MatMul":
            item.input[0], item.input[1] = pair(item.input[0]), pair(item.input[1])
            name = item.output[0]
            item.output[0] = f"{name}/float"
            nodes.append(item)
            pair(f"{name}/float")
            nodes[-1].output[0] = name
        else:
            nodes.append(item)
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def optimized(model: ModelProto, path: Path) -> Counter[str]:
    """Operators after ONNX Runtime's optimizations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(item.op_type for item in onnx.load(path).graph.node)


@pytest.mark.parametrize("signed", [False, True])
def test_a_mask_stops_no_fusion_of_rounded_products(signed: bool, tmp_path: Path) -> None:
    model = rounded(signed)
    planning = analyse(model, {0: HEADS}, "the model")
    masked = masked_reference(planning.view, planning.sites, planning.heads)
    smaller = apply_plan(planning.plan, model)
    counts = [optimized(item, tmp_path / "o.onnx") for item in (smaller, masked)]
    assert counts[0]["QLinearMatMul"] > 2
    assert counts[0]["QLinearMatMul"] == counts[1]["QLinearMatMul"]
    found = validate(model, smaller, provider="cpu")
    assert found.verdict == "passed"
    assert [case.max_rel_error for case in found.cases if case.settings == "deployed"] == [0.0]


# Sizes


def one_sample(model: ModelProto) -> ModelProto:
    """Exported for one sample, though its input declares any number."""
    for tensor in model.graph.initializer:
        if tensor.name in ("split_shape", "merge_shape"):
            shape = toys.get_initializer(model, tensor.name)
            shape[0], shape[1] = 1, -1
            toys.set_initializer(model, tensor.name, shape)
    return model


def two_declarations(model: ModelProto) -> ModelProto:
    """One input is fixed to one sample, the other leaves it open."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


@pytest.mark.parametrize(
    "model", [one_sample(toys.attention()), two_declarations(one_sample(attacks.text_model()))]
)
def test_models_of_one_sample_need_no_data(model: ModelProto) -> None:
    found = validate(model, attacks.pruned(model), provider="cpu")
    assert found.verdict == "passed", found.reason


def test_a_shape_that_the_original_breaks_itself_is_no_fault() -> None:
    model = toys.attention(cache=True)
    for info in model.graph.output:
        if info.name == "present_key":
            dims = info.type.tensor_type.shape.dim
            dims[1].dim_value, dims[3].dim_value = toys.HEADS, toys.HEAD_SIZE + 1
    assert validate(model, attacks.pruned(model), provider="cpu").verdict == "passed"


def test_a_shape_that_only_the_pruned_model_breaks_is_one() -> None:
    model = toys.attention(cache=True)
    smaller = attacks.pruned(model)
    for info in smaller.graph.output:
        if info.name == "present_key":
            info.type.tensor_type.shape.dim[3].dim_value = toys.HEAD_SIZE + 1
    found = validate(model, smaller, provider="cpu")
    assert found.verdict == "failed" and "present_key" in found.reason


def test_left_padding_and_a_hole_are_run() -> None:
    model = attacks.text_model()
    found = validate(model, attacks.pruned(model), provider="cpu")
    lengths = [case.shapes["input_ids"][1] for case in found.cases if case.settings == "exact"]
    assert 19 in lengths and "wide" not in {case.source for case in found.cases}
