"""Every output that was computed of an input still is, whatever is cut: refused when planned, and no in the proof."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, compose, helper

from onnxheadprune import RefusedError, apply_plan, inspect, plan_pruning, prune, validate
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs
from tests import attacks
from tests.graph_text import model_of
from tests.graphs import toys

STREAM = {
    "heads": """
        q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        qs = Reshape(q, split) ks = Reshape(k, split) vs = Reshape(v, split)
        qh = Transpose<perm = [0, 2, 1, 3]>(qs) kh = Transpose<perm = [0, 2, 3, 1]>(ks)
        vh = Transpose<perm = [0, 2, 1, 3]>(vs)
        scores = MatMul(qh, kh) soft = Softmax<axis = -1>(scores) context = MatMul(soft, vh)
        back = Transpose<perm = [0, 2, 1, 3]>(context) merged = Reshape(back, merge) made = MatMul(merged, wo)""",
    "neurons": "hidden = MatMul(x, wq) active = Relu(hidden) made = MatMul(active, wo)",
}
"""The only way from the input to the output, by what it is made of."""


def single(units: str, behind: str = "y = Add(made, bias)") -> ModelProto:
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        block (float[batch,sequence,8] x) => (float[batch,sequence,8] y)
        <int64[4] split = {{0, 0, 4, 2}}, int64[3] merge = {{0, 0, 8}}, float[8] bias,
         float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo>
        {{
            {STREAM[units]}
            {behind}
        }}
        """
    )


def all_of(units: str) -> dict[str, str]:
    return {units: "0:0-3" if units == "heads" else "0:0-7"}


BEHIND = {
    "bias alone": "y = Add(made, bias)",
    "shape of the input": "shape = Shape(x) zeros = ConstantOfShape(shape) z = Add(made, zeros) y = Add(z, bias)",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("units", STREAM)
def test_a_cut_that_takes_more_than_its_units_is_refused(units: str, behind: str) -> None:
    """Another block lies in front on the only way: nobody named it, and it would vanish with the second one."""
    second = single(units, BEHIND[behind])
    first = compose.add_prefix(single(units), "first/")
    model = compose.merge_models(first, compose.add_prefix(second, "then/"), [("first/y", "then/x")])
    last = len(inspect(model).of(units)) - 1
    with pytest.raises(RefusedError, match="would leave output then/y without input first/x"):
        plan_pruning(model, **{units: all_of(units)[units].replace("0:", f"{last}:")})
    assert prune(model, provider="cpu", **{units: f"{last}:0"}).validation.exact == "yes"  # type: ignore[union-attr]


# Files


MODELS: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "tokens and mask": (attacks.text_model, "0:1"),
    "features": (toys.attention, "0:1"),
    "cache": (lambda: toys.attention(cache=True), "0:1"),
    "decoder": (toys.decoder, "0:1"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_whose_output_does_not_depend_on_an_input_is_no(name: str) -> None:
    """Each input with content is replaced by zeros of its shape."""
    build, heads = MODELS[name]
    model = build()
    content = [item for item in graph_inputs(view_of(model)) if item.role in (Role.IDS, Role.FLOATS)]
    assert content
    for item in content:
        bad = apply_plan(plan_pruning(model, heads=heads), model)
        if item.is_cache:
            continue
        for node in bad.graph.node:
            node.input[:] = ["made/zeros" if read == item.name else read for read in node.input]
        elem_type = helper.np_dtype_to_tensor_dtype(item.dtype)
        zero = helper.make_tensor("zero", elem_type, [1], np.zeros(1, item.dtype))
        bad.graph.node.insert(0, helper.make_node("Shape", [item.name], ["made/shape"]))
        bad.graph.node.insert(
            1, helper.make_node("ConstantOfShape", ["made/shape"], ["made/zeros"], value=zero)
        )
        found = validate(model, bad, provider="cpu")
        assert found.exact == "no" and f"does not depend on input {item.name}, and in" in found.reason
