"""Every pruned model that was tampered with is caught; what honest tools do is not called tampering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

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
