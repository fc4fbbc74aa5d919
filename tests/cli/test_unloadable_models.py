"""`inspect` says why ONNX Runtime does not load a model, and `prune` without a proof says it before it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from tests.attention.attention_text import MERGED, PROJECTED, attention
from tests.conftest import Command


def unknown_operator() -> ModelProto:
    model = attention(f"{MERGED} {PROJECTED}")
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    model.graph.node.append(helper.make_node("Strange", ["y"], ["z"], domain="elsewhere"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", "s", 8]))
    return model


def wrong_type() -> ModelProto:
    model = attention(f"{MERGED} {PROJECTED}")
    kept = helper.make_node("Cast", ["y"], ["half"], to=TensorProto.BFLOAT16)
    model.graph.node.extend([kept, helper.make_node("Sinh", ["half"], ["z"])])
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.BFLOAT16, ["b", "s", 8]))
    return model


def no_bias() -> ModelProto:
    """ONNX Runtime's kernel on the CPU reads the bias that is not there before 1.32: a segmentation fault."""
    model = attention(f"{MERGED} {PROJECTED}")
    weight = helper.make_tensor("packed", TensorProto.FLOAT, [8, 24], [0.1] * (8 * 24))
    model.graph.initializer.append(weight)
    if all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = helper.make_node("Attention", ["y", "packed"], ["z"], domain="com.microsoft", num_heads=2)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", "s", 8]))
    return model


FAILING = {
    unknown_operator: "elsewhere:Strange(-1) is not a registered function",
    wrong_type: "Sinh",
}
BIAS_IS_OPTIONAL = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 32)
if not BIAS_IS_OPTIONAL:
    FAILING[no_bias] = "on the CPU Attention -> z needs a bias"


@pytest.mark.parametrize("make", FAILING)
def test_inspect_says_why(make: Callable[[], ModelProto], command: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    shown, told = command("inspect", path), command("inspect", path, "--json")
    assert (shown.exit_code, told.exit_code) == (0, 0)
    assert FAILING[make] in told.document["does_not_load"]
    assert "does not load in ONNX Runtime: " in shown.stdout


@pytest.mark.parametrize("words", ["bench {} {}", "validate {} {}", "prune {} --heads 0:1 -o {}.pruned.onnx"])
def test_no_command_runs_a_kernel_that_ends_the_process(command: Command, tmp_path: Path, words: str) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(no_bias(), path)
    told = command(*words.format(path, path).split(), "--provider", "cpu")
    assert told.exit_code in (2, 3) and FAILING[no_bias] in told.stderr
