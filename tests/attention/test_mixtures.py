"""Experts in one operator lose neurons as exactly as any block: each of them equally many, whichever they are.

The oracle is arithmetic in float64 that sets what neurons give to zero; it knows nothing of sites, masks or layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import RefusedError, apply_plan, inspect, plan_pruning, prune
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from tests.graphs.mixtures import (
    EXPERTS,
    HIDDEN,
    UNRUNNABLE,
    WIDTH,
    Mixture,
    tokens,
)
from tests.liveness.one_node import run


def _block(model: ModelProto) -> NeuronSite:
    (block,) = inspect(model).neurons
    return block


def _some(block: NeuronSite) -> list[int]:
    """Half of every expert's neurons, others in each expert."""
    each = len(block.units) // block.experts
    order = [np.random.default_rng(expert).permutation(each)[: each // 2] for expert in range(block.experts)]
    units = [block.units[expert * each + at] for expert, chosen in enumerate(order) for at in chosen]
    return sorted(neuron for unit in units for neuron in unit)


def _tensors(model: ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("toy", UNRUNNABLE.values(), ids=UNRUNNABLE)
def test_what_is_left_computes_what_silent_neurons_leave(toy: Mixture) -> None:
    model, x = toy.model(), tokens()
    block = _block(model)
    assert (block.num_units, block.experts, block.reason) == (EXPERTS * toy.width, EXPERTS, None)
    gone = _some(block)
    plan = plan_pruning(model, heads={"ffn.0": gone})
    assert plan.edge_gathers == ()
    cut = apply_plan(plan, model)
    want, got = toy.expected(x, toy.tensors(), gone), toy.expected(x, _tensors(cut))
    np.testing.assert_allclose(got, want, atol=1e-12)
    # Other neurons would be seen.
    assert np.abs(want - toy.expected(x, toy.tensors())).max() > 1e-2
    whole = sum(array.size for array in toy.tensors().values())
    assert sum(array.size for array in _tensors(cut).values()) < 0.7 * whole


def test_all_of_a_mixture_goes_where_nothing_is_left_of_it() -> None:
    model, x = Mixture(bias=False).model(), tokens()
    cut = apply_plan(plan_pruning(model, heads={"ffn.0": "*"}), model)
    assert "MoE" not in {node.op_type for node in cut.graph.node}
    np.testing.assert_array_equal(run(cut, {"x": x})["y"], x)
    with pytest.raises(RefusedError, match=r"each token would get the biases that its experts in .* have"):
        analyse(Mixture().model(), {"ffn.0": "*"}, "the model")


@pytest.mark.parametrize(
    ("toy", "why"),
    [
        (Mixture("QMoE", more={"weights_prepacked": 1}), "in the order of one execution provider"),
        (Mixture("QMoE", more={"quant_type": "nvfp4"}), "are stored as nvfp4"),
        (Mixture("QMoE", block=32), "are stored in one piece"),
    ],
)
def test_what_cannot_be_cut_says_why(toy: Mixture, why: str) -> None:
    block = _block(toy.model())
    assert not block.removable and why in str(block.reason)


def test_experts_that_are_computed_stay() -> None:
    model = Mixture().model()
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "w2"]
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info("w2", 1, list(weight.dims)))
    assert "are computed when the model runs (w2)" in str(_block(model).reason)


def test_rows_that_the_attribute_does_not_explain_are_no_block() -> None:
    """Twice as many rows, and no word of how gates and values lie in them."""
    model = Mixture(activation="swiglu", fused=1).model()
    node = next(node for node in model.graph.node if node.op_type == "MoE")
    kept = [item for item in node.attribute if item.name != "swiglu_fusion"]
    del node.attribute[:]
    node.attribute.extend(kept)
    assert inspect(model).neurons == ()


def test_tensors_that_do_not_fit_are_no_block() -> None:
    """Zero points with a byte per row, where two rows share one."""
    model = Mixture(op="QMoE", zeros=True).model()
    (zeros,) = [tensor for tensor in model.graph.initializer if tensor.name == "z1"]
    assert inspect(model).neurons
    zeros.CopyFrom(numpy_helper.from_array(np.zeros((EXPERTS, WIDTH, 1), np.uint8), "z1"))
    assert inspect(model).neurons == ()


def test_operations_are_those_of_the_chosen_experts() -> None:
    toy = Mixture(activation="swiglu", fused=1)
    assert _block(toy.model()).flops_per_token == 2 * 2 * 3 * HIDDEN * WIDTH


def test_elements_of_a_block_are_those_of_its_experts() -> None:
    tensors = Mixture().tensors()
    owned = sum(tensors[name].size for name in ("w1", "b1", "w2"))
    assert _block(Mixture().model()).params == owned


def test_data_says_nothing_of_neurons_inside_an_operator(tmp_path: Path) -> None:
    onnx.save(Mixture().model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([tokens()] * 8))
    with pytest.raises(RefusedError, match=r"experts that a router chooses, .*: name them"):
        prune(tmp_path / "model.onnx", data=tmp_path / "data.npz", ratio=0.5, units="neurons")
