"""`prune --fuse` and `validate` on fused models: what is recorded, what is proven, what is caught."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import RefusedError, ValidationFailedError, prune, validate
from onnxheadprune.edit.records import record_of
from onnxheadprune.fusion.result import FuseMode
from tests.fusion.blocks import EAGER, HEADS, KEY_MASK, MASKED, block
from tests.graphs.toys import attention, get_initializer, set_initializer

MODES: tuple[FuseMode, ...] = ("contrib", "onnx")
SCORES = "kt = Transpose<perm=[0, 1, 3, 2]>(k)\nraw = MatMul(q, kt)\n"
CAPPED = SCORES + "capped = Tanh(raw)\np = Softmax<axis=-1>(capped)\ncontext = MatMul(p, v)"


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("mode", MODES)
def test_pruned_and_fused(mode: FuseMode, tmp_path: Path) -> None:
    model, output = block(MASKED, inputs=KEY_MASK), tmp_path / "out.onnx"
    result = prune(model, output, heads={0: [1, 3]}, fuse=mode, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    assert "the heads or the fused sites" in result.validation.reason
    written = onnx.load(output)
    assert "Softmax" not in operators(written)
    assert [site.index for site in record_of(written).fused] == [0]
    again = validate(model, output, provider="cpu")
    assert again.verdict == "passed"
    assert again.heads == {0: (1, 3)}


@pytest.mark.parametrize("mode", MODES)
def test_fusion_alone(mode: FuseMode) -> None:
    model = block(EAGER)
    result = prune(model, heads={}, fuse=mode, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    assert result.validation.reason.startswith("equals the original")
    assert result.validation.power > 0.01
    assert [site.removed for site in record_of(result.model).of("heads")] == [()]
    assert validate(model, result.model, provider="cpu").verdict == "passed"


def test_what_was_not_asked_for_is_not_done() -> None:
    result = prune(block(EAGER), heads={0: [1]}, provider="cpu")
    assert result.fusion is None
    assert not record_of(result.model).fused
    assert "Softmax" in operators(result.model)


def test_nothing_to_fuse_and_nothing_to_remove_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"nothing to fuse.*Tanh -> capped stands between"):
        prune(block(CAPPED), tmp_path / "out.onnx", heads={}, fuse="contrib", provider="cpu")
    assert not list(tmp_path.iterdir())


def test_heads_go_even_where_nothing_can_be_fused() -> None:
    result = prune(block(CAPPED), heads={0: [1]}, fuse="contrib", provider="cpu")
    assert result.fusion is not None
    assert not result.fusion.made
    assert "Tanh -> capped" in result.fusion.sites[0].reason


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


@pytest.mark.parametrize("mode", MODES)
def test_weights_beside_the_model_stay_there(mode: FuseMode, tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(
        attention(hidden=96), source, save_as_external_data=True, location="in.bin", size_threshold=1024
    )
    result = prune(source, output, heads={0: [1]}, fuse=mode, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    assert len(list(tmp_path.glob("out*"))) == 2
    assert validate(source, output, provider="cpu").verdict == "passed"
    assert "Softmax" not in operators(onnx.load(output))
