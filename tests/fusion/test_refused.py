"""What is no plain attention stays as it is, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxheadprune import RefusedError
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode
from tests.fusion.blocks import CONDITION, EAGER, HEADS, block

SCORES = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
"""
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "soft-cap": (
        SCORES + "capped = Tanh(scaled)\np = Softmax<axis=-1>(capped)\ncontext = MatMul(p, v)",
        {},
        "Tanh -> capped stands between the scores and the softmax",
    ),
    "scale-per-head": (
        SCORES + "more = Mul(scaled, each)\np = Softmax<axis=-1>(more)\ncontext = MatMul(p, v)",
        {"numbers": {"each": np.linspace(1, 2, HEADS, dtype=np.float32).reshape(HEADS, 1, 1)}},
        "Mul -> more scales the scores by more than one number",
    ),
    "weak-fill": (
        SCORES
        + "masked = Where(visible, scaled, weak)\np = Softmax<axis=-1>(masked)\ncontext = MatMul(p, v)",
        {"inputs": CONDITION, "numbers": {"weak": np.float32(-1e4)}},
        "sets masked scores to -10000",
    ),
    "no-softmax": (
        SCORES + "p = Relu(scaled)\ncontext = MatMul(p, v)",
        {},
        "between the softmax and the values",
    ),
    "softmax-over-queries": (
        SCORES + "p = Softmax<axis=-2>(scaled)\ncontext = MatMul(p, v)",
        {},
        "does not run along the keys alone",
    ),
    "weights-are-an-output": (
        EAGER,
        {"outputs": f"float[batch, {HEADS}, sequence, sequence] p"},
        "its attention weights are used elsewhere too",
    ),
    "weights-masked-after": (
        SCORES + "soft = Softmax<axis=-1>(scaled)\np = Mul(soft, visible2)\ncontext = MatMul(p, v)",
        {"inputs": "float[batch, 1, 1, sequence] visible2"},
        "Mul -> p stands between the softmax and the values",
    ),
    "dropout-in-training": (
        SCORES + "soft = Softmax<axis=-1>(scaled)\np = Dropout(soft, ratio, yes)\ncontext = MatMul(p, v)",
        {"numbers": {"ratio": np.float32(0.5), "yes": np.bool_(True)}},
        "Dropout -> p stands between the softmax and the values",
    ),
    "double": (EAGER, {"dtype": np.float64}, "has no kernel for double"),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", ["contrib", "onnx"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_left_alone_and_says_why(name: str, mode: FuseMode) -> None:
    core, options, reason = REFUSED[name]
    model = block(core, **options)
    result, fusion = fuse(model, mode)
    assert not fusion.made
    assert reason in fusion.sites[0].reason
    assert "fused 0 of 1 sites; attn.0: " in str(fusion)
    assert result is model


def test_an_opset_that_cannot_be_raised_is_refused() -> None:
    model = block(EAGER)
    contrib, _ = fuse(model, "contrib")
    with pytest.raises(RefusedError, match=r"opset 17, Attention needs 23.*com\.microsoft.*`fuse=contrib`"):
        fuse(contrib, "onnx")
