"""Every pruned model that was tampered with is caught; what honest tools do is not called tampering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import prune
from tests import attacks
from tests.graphs import toys


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        attacks.doubled_beyond(16),
        attacks.doubled_beyond(100),
        attacks.first_token_never_masked,
        attacks.table_cut,
        attacks.table_renamed_and_one_row_changed,
        attacks.weight_corrupted_and_renamed,
        attacks.inputs_swapped,
        attacks.type_changed,
        attacks.residual_dropped,
    ],
    ids=lambda attack: attack.__name__,
)
def test_a_tampered_model_fails(attack: attacks.Attack) -> None:
    model = attacks.text_model()
    smaller = attacks.pruned(model)
    assert attacks.verdict(model, smaller).verdict == "passed"
    attack(smaller)
    onnx.checker.check_model(smaller)
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed", found.reason
    assert found.likeness is not None and not found.likeness.identical


# Bodies, functions, files beside the model


@pytest.mark.slow
def test_an_altered_body_fails() -> None:
    model = attacks.with_body(toys.attention())
    smaller = attacks.pruned(model)
    found = attacks.verdict(model, smaller)
    assert found.verdict == "passed" and found.likeness is not None and found.likeness.identical
    branch = next(item for item in attacks.node(smaller, "If").attribute if item.name == "else_branch")
    branch.g.initializer[0].CopyFrom(numpy_helper.from_array(np.array(2.001, dtype=np.float32), "bias"))
    assert attacks.verdict(model, smaller).verdict == "failed"


@pytest.mark.slow
def test_an_altered_function_fails() -> None:
    model = attacks.with_function(toys.attention())
    smaller = attacks.with_function(attacks.pruned(toys.attention()))
    found = attacks.verdict(model, smaller)
    assert found.verdict == "passed" and found.likeness is not None and found.likeness.identical
    smaller.functions[0].node[0].attribute[0].f = 2.001
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed" and not found.likeness.identical  # type: ignore[union-attr]


@pytest.mark.slow
def test_altered_external_data_fails(tmp_path: Path) -> None:
    model = attacks.text_model()
    onnx.save(model, tmp_path / "model.onnx")
    smaller = attacks.pruned(model)
    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0, "location": "s.data"}
    onnx.save(smaller, tmp_path / "smaller.onnx", **options)
    paths = tmp_path / "model.onnx", tmp_path / "smaller.onnx"
    found = attacks.verdict(*paths)
    assert found.verdict == "passed" and found.likeness is not None and found.likeness.identical
    table = toys.get_initializer(model, "embed.weight").tobytes()
    data = bytearray((tmp_path / "s.data").read_bytes())
    data[data.index(table) + len(table) - 1] ^= 1
    (tmp_path / "s.data").write_bytes(data)
    found = attacks.verdict(*paths)
    assert found.verdict == "failed" and "embed.weight" in found.reason


# What honest tools do


def renamed(model: ModelProto) -> ModelProto:
    for number, item in enumerate(list(model.graph.node)):
        item.name = f"n{number}"
        for name in list(item.output):
            if name != "y":
                attacks.rename(model, name, f"v{number}")
    for number, tensor in enumerate(list(model.graph.initializer)):
        attacks.rename(model, tensor.name, f"w{number}")
    return model


def resorted(model: ModelProto) -> ModelProto:
    """The latest order that is one: every node as far back as its readers allow."""
    waiting, placed, read = list(model.graph.node), [], set[str]()
    while waiting:
        read = {name for item in waiting for name in item.input}
        item = next(item for item in waiting if not read.intersection(item.output))
        placed.append(item)
        waiting.remove(item)
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in reversed(placed)]
    assert [item.name for item in copies] != [item.name for item in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def weights_as_constants(model: ModelProto) -> ModelProto:
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    return model


def with_identities(model: ModelProto) -> ModelProto:
    attacks.behind(model, "context", helper.make_node("Identity", ["context/raw"], ["context"]))
    return model


@pytest.mark.parametrize("tool", [renamed, resorted, weights_as_constants, with_identities])
def test_another_spelling_is_the_same_graph(tool: Any) -> None:
    model = attacks.text_model()
    found = attacks.verdict(model, tool(attacks.pruned(model)))
    assert found.verdict == "passed", found.reason
    assert found.likeness is not None and found.likeness.identical, found.likeness.differences
    assert found.weights_compared == len(model.graph.initializer) and found.exact == "yes"


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_what_onnx_runtime_optimized_rests_on_numbers(level: str, tmp_path: Path) -> None:
    model = attacks.text_model()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    smaller = attacks.pruned(model)
    onnxruntime.InferenceSession(smaller.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    del optimized.metadata_props[:]
    optimized.metadata_props.extend(smaller.metadata_props)
    found = attacks.verdict(model, optimized)
    assert found.verdict == "passed", found.reason
    assert found.exact in ("tried", "yes")


@pytest.mark.parametrize("mode", ["contrib", "onnx"])
def test_fused_attention_is_the_planned_fusion(mode: Any, tmp_path: Path) -> None:
    made = prune(toys.attention(), tmp_path / "fused.onnx", heads="0:1", fuse=mode, provider="cpu")
    found = made.validation
    assert found is not None and found.verdict == "passed"
    assert found.likeness is not None and found.likeness.identical, found.likeness.differences


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_another_order_of_inputs_or_outputs_fails(what: str) -> None:
    """Who reads them by position would get another one under no other name."""
    model = toys.attention(cache=True)
    smaller = attacks.pruned(model)
    listed = smaller.graph.input if what == "inputs" else smaller.graph.output
    turned = list(listed)[::-1]
    del listed[:]
    listed.extend(turned)
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed" and f"lists its {what} in another order" in found.reason


@pytest.mark.parametrize("operator", ["Relu", "com.microsoft.Gelu", "com.microsoft.QuickGelu"])
def test_an_operator_that_is_defined_anew_fails(operator: str) -> None:
    """ONNX Runtime has a kernel for it and passes over the function, in which all is as planned."""
    model = toys.attention()
    smaller = attacks.pruned(model)
    domain, _, name = operator.rpartition(".")
    chosen = attacks.node(smaller, "Softmax")
    body = onnx.NodeProto.FromString(chosen.SerializeToString())
    body.input[:], body.output[:] = ["a"], ["b"]
    function = helper.make_function(domain, name, ["a"], ["b"], [body], [helper.make_opsetid("", 17)])
    smaller.functions.append(function)
    chosen.op_type, chosen.domain = name, domain
    del chosen.attribute[:]
    if domain:
        smaller.opset_import.append(helper.make_opsetid(domain, 1))
    found = attacks.verdict(model, smaller)
    assert found.verdict == "failed" and "computes by its own kernel" in found.reason, found.reason
