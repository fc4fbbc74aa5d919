"""`prune --fuse` and `validate` on fused models: what is recorded, what is proven, what is caught."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import RefusedError, ValidationFailedError, inspect, prune, validate
from onnxheadprune.cli import main
from onnxheadprune.edit.records import FUSED_ENTRY, FUSED_KEY, units_entry
from onnxheadprune.fusion.result import FuseMode
from tests.fusion.blocks import EAGER, HEADS, KEY_MASK, MASKED, block
from tests.graphs.toys import attention, get_initializer, set_initializer

MODES: tuple[FuseMode, ...] = ("contrib", "onnx")
SCORES = "kt = Transpose<perm=[0, 1, 3, 2]>(k)\nraw = MatMul(q, kt)\n"
CAPPED = SCORES + "capped = Tanh(raw)\np = Softmax<axis=-1>(capped)\ncontext = MatMul(p, v)"


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("mode", MODES)
def test_pruned_and_fused(mode: FuseMode, tmp_path: Path) -> None:
    model, output = block(MASKED, inputs=KEY_MASK), tmp_path / "out.onnx"
    result = prune(model, output, heads={0: [1, 3]}, fuse=mode, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    assert "the heads or the fused sites" in result.validation.reason
    written = onnx.load(output)
    assert "Softmax" not in operators(written)
    assert [site.index for site in FUSED_ENTRY.read(written)] == [0]
    again = validate(model, output, provider="cpu")
    assert again.verdict == "passed"
    assert again.heads == {0: (1, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_fused_model_can_be_pruned_on(mode: FuseMode, tmp_path: Path) -> None:
    model = attention(cache=True)
    first = prune(model, heads={0: [1]}, fuse=mode, provider="cpu")
    second = prune(first.model, tmp_path / "out.onnx", heads={0: [2]}, provider="cpu")
    assert second.validation is not None
    assert second.validation.verdict == "passed"
    site = inspect(tmp_path / "out.onnx")[0]
    assert (site.num_heads, site.removed, site.original_num_heads) == (2, (1, 2), 4)
    assert validate(model, tmp_path / "out.onnx", provider="cpu").verdict == "passed"


@pytest.mark.parametrize("mode", MODES)
def test_fusion_alone(mode: FuseMode) -> None:
    model = block(EAGER)
    result = prune(model, heads={}, fuse=mode, provider="cpu")
    assert result.validation is not None
    assert result.validation.verdict == "passed"
    assert result.validation.reason.startswith("equals the original")
    assert result.validation.power > 0.01
    assert json.loads(metadata(result.model)[units_entry("heads").key])["sites"][0]["removed"] == ""
    assert validate(model, result.model, provider="cpu").verdict == "passed"


def test_what_was_not_asked_for_is_not_done() -> None:
    result = prune(block(EAGER), heads={0: [1]}, provider="cpu")
    assert result.fusion is None
    assert FUSED_KEY not in metadata(result.model)
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


def _attribute(model: ModelProto, name: str, value: float) -> None:
    node = next(node for node in model.graph.node if "Attention" in node.op_type)
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


@pytest.mark.slow
def test_a_wrong_scale_is_caught() -> None:
    model = block(EAGER)
    result = prune(model, heads={}, fuse="contrib", provider="cpu").model
    _attribute(result, "scale", 0.36)
    assert validate(model, result, provider="cpu").verdict == "failed"


@pytest.mark.slow
def test_a_forgotten_mask_is_caught() -> None:
    model = block(MASKED, inputs=KEY_MASK)
    result = prune(model, heads={}, fuse="contrib", provider="cpu").model
    node = next(node for node in result.graph.node if node.op_type == "MultiHeadAttention")
    del node.input[3:]
    assert validate(model, result, provider="cpu").verdict == "failed"


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


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(block(MASKED, inputs=KEY_MASK), source)
    arguments = [str(source), "-o", str(output), "--mode", "contrib", "--provider", "cpu"]
    assert main(["fuse", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fusion"]["operators"] == {"MultiHeadAttention": 1}
    assert document["fusion"]["sites"] == [
        {
            "index": 0,
            "name": document["fusion"]["sites"][0]["name"],
            "fused": True,
            "operator": "MultiHeadAttention",
            "before": False,
            "reason": None,
        }
    ]
    assert main(["validate", str(source), str(output), "--provider", "cpu"]) == 0
    assert "out.onnx   exact" in capsys.readouterr().out
    assert main(["fuse", *arguments]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fused 1 of 1 site 1 MultiHeadAttention" in text and "heads" not in text


def test_a_broken_record_is_an_error() -> None:
    model = block(EAGER)
    result = prune(model, heads={}, fuse="contrib", provider="cpu").model
    for entry in result.metadata_props:
        if entry.key == FUSED_KEY:
            entry.value = "{"
    from onnxheadprune.errors import ModelError

    with pytest.raises(ModelError, match=FUSED_KEY):
        validate(model, result, provider="cpu")


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
