"""Inputs and outputs that carry units: they follow what is left, or stay where nothing is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import RefusedError, apply_plan
from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.liveness.live import FULL
from tests.graph_text import model_of
from tests.liveness.masks import compact
from tests.liveness.one_node import run

BLOCK = """
<ir_version: 8, opset_import: ["": 17]>
block (float[batch, seq, 6] x, float[1, 4, 1, 1] of_heads) => (float[batch, seq, 6] y)
<float[6, 8] wq, float[6, 8] wk, float[6, 8] wv, float[8, 6] wo, float[6, 8] up, float[8] bias, float[8, 6] down,
 int64[4] split = {0, 0, 4, 2}, int64[3] merge = {0, 0, 8}> {
    qx = MatMul (x, wq) qr = Reshape (qx, split) q = Transpose <perm = [0, 2, 1, 3]> (qr)
    kx = MatMul (x, wk) kr = Reshape (kx, split) k = Transpose <perm = [0, 2, 3, 1]> (kr)
    vx = MatMul (x, wv) vr = Reshape (vx, split) v = Transpose <perm = [0, 2, 1, 3]> (vr)
    scores = MatMul (q, k) p = Softmax <axis = 3> (scores) c = MatMul (p, v)
    gated = Mul (c, of_heads) ct = Transpose <perm = [0, 2, 1, 3]> (gated) merged = Reshape (ct, merge)
    o = MatMul (merged, wo) stream = Add (x, o)
    wide = MatMul (stream, up) biased = Add (wide, bias) act = Tanh (biased)
    small = MatMul (act, down) y = Add (stream, small)
}"""
COMPUTED = [node.output[0] for node in model_of(BLOCK).graph.node if node.output[0] != "y"]
CUTS = {
    "a head": {0: [1]},
    "all heads": {0: "*"},
    "a neuron": {"ffn.0": [2]},
    "all neurons": {"ffn.0": "*"},
    "all of both": {0: "*", "ffn.0": "*"},
}


def handing_out(value: str, carried: bool) -> ModelProto:
    """The block, with one more output: a value, or a copy of it."""
    model = model_of(BLOCK)
    name = f"{value}_copy" if carried else value
    if carried:
        model.graph.node.append(helper.make_node("Identity", [value], [name]))
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def is_refused(value: str, cut: str) -> bool:
    """Whether a reader of this value would still read what the cut silences."""
    contexts, neurons = {"c", "gated", "ct", "merged"}, {"wide", "biased", "act"}
    if "neuron" in cut or "both" in cut:
        return value in (contexts | neurons if "both" in cut else neurons)
    return value in contexts


@pytest.mark.each_choice
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("value", COMPUTED)
def test_inputs_and_outputs_follow_what_is_left(value: str, cut: str, carried: bool, allowed: bool) -> None:
    model = handing_out(value, carried)
    contract = Contract(allow_io_change=allowed)
    if is_refused(value, cut):
        why = f"{value}{'_copy' if carried else ''} is also an output of the model"
        with pytest.raises(RefusedError, match=why):
            analyse(model, CUTS[cut], "the model", contract)
        return
    planning = analyse(model, CUTS[cut], "the model", contract)
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 3, 6), "of_heads": (1, 4, 1, 1)}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    live = planning.io.live
    assert not any(left.is_dead for left in live.values())
    pruned = apply_plan(planning.plan, model)
    got = run(pruned, {name: compact(array, live.get(name, FULL)) for name, array in feed.items()})
    want = run(masked_reference(planning.view, planning.touched, planning.heads), feed)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], compact(array, live.get(name, FULL)), atol=1e-5)
