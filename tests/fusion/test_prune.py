"""`prune --fuse` and `validate` on fused models: what is recorded, what is proven, what is caught."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from onnxheadprune import ValidationFailedError, prune, validate
from tests.fusion.blocks import EAGER, HEADS, block
from tests.graphs.toys import attention, get_initializer, set_initializer


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.slow
def test_swapped_keys_and_values_are_caught() -> None:
    model = block(EAGER)
    result = prune(model, heads={0: [2]}, fuse="contrib", provider="cpu").model
    node = next(node for node in result.graph.node if node.op_type == "MultiHeadAttention")
    node.input[1], node.input[2] = node.input[2], node.input[1]
    assert validate(model, result, provider="cpu").verdict == "failed"


def test_an_altered_weight_of_a_fused_model_is_caught() -> None:
    model = block(EAGER)
    result = prune(model, heads={}, fuse="contrib", provider="cpu").model
    weight = get_initializer(result, "wv")
    weight[0, 0] += 1e-6
    set_initializer(result, "wv", weight)
    verdict = validate(model, result, provider="cpu")
    assert verdict.verdict == "failed"
    assert "wv" in verdict.reason


def test_a_fused_site_that_shows_nowhere_proves_nothing(tmp_path: Path) -> None:
    """All heads write zeros: whatever the fused operator does, the output stays the same."""
    model = attention(silent_heads=tuple(range(HEADS)))
    with pytest.raises(
        ValidationFailedError, match="silencing the fused sites does not move the outputs at all"
    ):
        prune(model, tmp_path / "out.onnx", heads={}, fuse="contrib", provider="cpu")
    assert not list(tmp_path.iterdir())
