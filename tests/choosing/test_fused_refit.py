"""Refits of fused models without value_info, beside their plain twins; and a refit that can write nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from onnxruntime.transformers import optimizer

from onnxheadprune import prune
from tests.conftest import SAMPLES, Outcome
from tests.graphs import toys

HEADS = {0: [0, 1], 1: [2]}


def plain() -> ModelProto:
    return onnx.load(SAMPLES / "tiny" / "bert-torchscript-eager.onnx")


def optimized(tmp_path: Path) -> ModelProto:
    """The output of ONNX Runtime's transformers optimizer: Attention with its projections, SkipLayerNormalization."""
    made = optimizer.optimize_model(plain(), "bert", num_heads=4, hidden_size=32, opt_level=0)
    assert made.get_fused_operator_statistics()["Attention"] == 3
    return made.model


def contrib(tmp_path: Path) -> ModelProto:
    """What our own `fuse` makes."""
    return prune(plain(), fuse="contrib", validate=False, output=tmp_path / "fused.onnx").model


def data() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, (96, 12))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.fixture(scope="module")
def twin() -> Any:
    return prune(plain(), heads=HEADS, data=data(), refit=True, provider="cpu").chosen


@pytest.mark.first_case
@pytest.mark.parametrize("make", [optimized, contrib])
def test_fused_models_are_refitted_as_their_plain_twins(make: Any, twin: Any, tmp_path: Path) -> None:
    model = make(tmp_path)
    del model.graph.value_info[:]
    found = prune(model, heads=HEADS, data=data(), refit=True, provider="cpu").chosen
    own = [item.site for item in twin.compensation.done if item.site is not None]
    assert {item.site for item in found.compensation.done if item.site is not None} == set(own)
    assert len(found.compensation.done) == len(twin.compensation.done)
    assert found.drift == pytest.approx(twin.drift, rel=0.05)


def test_a_refit_that_changes_nothing_is_a_warning(tmp_path: Path, command: Callable[..., Outcome]) -> None:
    model = toys.attention()
    weight = next(item for item in model.graph.initializer if item.name == "attn.out.weight")
    model.graph.node.append(helper.make_node("ReduceSum", [weight.name], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", 1, []))
    onnx.save(model, tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((64, 8, toys.HIDDEN)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    arguments = ["--ratio", "0.5", "--data", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx")]
    result = command("prune", tmp_path / "model.onnx", *arguments, "-v")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "warning nothing was refitted, of 1 linear layer: its weights are shared with another node" in text
    assert "drift after refit" not in text and "trial refits, none of which could be written" in text
