"""Nothing that is written tells where a model comes from, and it computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.workflow.reducing.anonymous import names_in, renamed, stripped
from onnxheadprune.workflow.reducing.hollow import fill, filled, hollow_out, is_hollow, is_structure
from tests.reducing.models import SECRET, stack


def anonymous(model: ModelProto) -> ModelProto:
    return renamed(stripped(model))


def test_no_text_is_left() -> None:
    model = stack()
    assert SECRET.encode() in model.SerializeToString()
    made = anonymous(model)
    assert SECRET.encode() not in made.SerializeToString()
    onnx.checker.check_model(made, full_check=True)
    assert SECRET.encode() in model.SerializeToString(), "the original is not touched"


def test_it_computes_the_same() -> None:
    from onnx.reference import ReferenceEvaluator

    model = stack()
    made = anonymous(model)
    feed = np.random.default_rng(0).standard_normal((2, 3, 48)).astype(np.float32)
    before = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: feed})
    after = ReferenceEvaluator(made).run(None, {made.graph.input[0].name: feed})
    np.testing.assert_array_equal(before[0], after[0])


def with_everything() -> ModelProto:
    """Functions, bodies, operators of other domains, texts in tensors and attributes."""
    return onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "acme.ops" : 3, "acme.local" : 1]>
        acme_graph (float[acme_n, 4] acme_x, bool acme_c) => (float[M, K] acme_y, string[2] acme_s)
        {
            acme_a = acme.local.acme_twice <acme_by: float = 0.3141592> (acme_x)
            acme_b = acme.ops.AcmeSecret <acme_text: string = "acme", acme_rate: float = 0.3141592> (acme_a)
            acme_y = If (acme_c) <
                then_branch = acme_then () => (float[M, K] acme_t) { acme_t = Neg (acme_b) },
                else_branch = acme_else () => (float[M, K] acme_e) { acme_e = Relu (acme_b) }
            >
            acme_s = Constant <value_strings = ["acme", "acme inc"]> ()
            acme_k = Constant <value_floats = [0.3141592, 0.5]> ()
        }
        <domain: "acme.local", opset_import: ["" : 18]>
        acme_twice <acme_by: float = 2.0> (acme_i) => (acme_o)
        {
            acme_f = Constant <value_float: float = @acme_by> ()
            acme_o = Mul (acme_i, acme_f)
        }"""
    )


def test_bodies_functions_and_operators_of_others() -> None:
    model = with_everything()
    made = anonymous(model)
    for stored in tensors_of(made):
        if not is_structure(stored):
            hollow_out(stored.tensor)
    made = filled(made, 0)
    written = made.SerializeToString()
    assert b"acme" not in written.lower() and np.float32(0.3141592).tobytes() not in written
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node][2] == "If"
    called = made.graph.node[0]
    assert (called.domain, called.op_type) == (made.functions[0].domain, made.functions[0].name)
    assert called.attribute[0].name == made.functions[0].attribute_proto[0].name
    assert made.functions[0].node[0].attribute[0].ref_attr_name == called.attribute[0].name
    assert {f"acme_{letter}" for letter in "xcyabteskn"} <= names_in(model)


def test_words_of_the_standard_stay() -> None:
    node = helper.make_node("Einsum", ["a", "b"], ["c"], equation="bhqd,bhkd->bhqk")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3, 4]) for name in "ab"]
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 2, 3, 3])
    made = anonymous(helper.make_model(helper.make_graph([node], "g", info, [out])))
    assert helper.get_attribute_value(made.graph.node[0].attribute[0]) == b"bhqd,bhkd->bhqk"


def test_expressions_keep_their_form() -> None:
    info = helper.make_tensor_value_info(
        "x", TensorProto.FLOAT, ["4*acme_b", "acme_p + acme_s", "acme what?"]
    )
    model = helper.make_model(helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [info], []))
    dims = [dim.dim_param for dim in anonymous(model).graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["4*d0", "d1 + d2", "d3"]


KINDS = [number for name, number in TensorProto.DataType.items() if name != "UNDEFINED"]


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("dims", [[3], [3, 4]], ids=["vector", "matrix"])
def test_tensors_of_every_type_are_filled(kind: int, dims: list[int]) -> None:
    def made(seed: int) -> TensorProto:
        tensor = TensorProto(name="t", data_type=kind, dims=dims)
        assert is_hollow(tensor)
        fill(tensor, np.random.default_rng(seed))
        return tensor

    tensor = made(1)
    assert not is_hollow(tensor) and tensor == made(1)
    assert numpy_helper.to_array(tensor).shape == tuple(dims)
    hollow_out(tensor)
    assert is_hollow(tensor)
    if kind not in (TensorProto.STRING, TensorProto.BOOL):
        assert made(1) != made(2)
