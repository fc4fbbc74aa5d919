"""Nodes that draw random numbers are compared with the same numbers in both models, whichever operator draws them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxheadprune import prune, validate
from onnxheadprune.model.graph.operator import is_random
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.deterministic import RANDOM
from tests.graph_text import model_of
from tests.model.operator_records import key_of

HERE = Provider(CPU, "a test")
KEYS = [key_of(name) for name in RANDOM]
DRAWS = {
    "RandomNormal": "RandomNormal<shape=[2, 3000], mean=1.0, scale=2.0>()",
    "RandomUniform": "RandomUniform<shape=[2, 3000], low=-1.0, high=3.0>()",
    "RandomNormalLike": "RandomNormalLike<mean=1.0, scale=2.0>(x)",
    "RandomUniformLike": "RandomUniformLike<low=-1.0, high=3.0>(x)",
    "Multinomial": "Multinomial<sample_size=3000>(logits)",
    "Bernoulli": "Bernoulli(chances)",
    "Dropout": "Dropout(x, , training)",
}
MEANS = {"Multinomial": 1.6, "Bernoulli": 0.3, "Dropout": 0.0}
SINCE = {"Bernoulli": 15, "Dropout": 12}
"""The opset that has an operator, or has it in training mode."""


def _type(op_type: str, like: str) -> str:
    if op_type == "Multinomial":
        return "int32"
    return "float" if op_type in ("RandomNormal", "RandomUniform") else like


def drawing(op_type: str, opset: int = 17, before: str = "", type_: str = "float") -> ModelProto:
    """A model that outputs what one operator draws."""
    drawn = _type(op_type, type_)
    return model_of(
        f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        block ({type_}[batch,length] x, float[batch,classes] logits, {type_}[batch,length] chances)
            => ({drawn}[batch,length] y, {type_}[batch,length] other)
        <bool training = {{1}}>
        {{
            {before}
            y = {DRAWS[op_type]}
            other = Identity(x)
        }}
        """
    )


def runs(model: ModelProto, times: int = 2, dtype: type = np.float32) -> list[Array]:
    session = Session(LoadedModel(model, "the model"), HERE)
    x = np.zeros((2, 3000), dtype)
    logits = np.log(np.tile([[0.1, 0.2, 0.7]], (2, 1))).astype(np.float32)
    feed = {"x": x, "logits": logits, "chances": np.full_like(x, 0.3)}
    return [session.run(feed)["y"] for _ in range(times)]


def test_every_operator_that_draws_is_known() -> None:
    """All of the standard that have a seed, in every opset."""
    newest = onnx.defs.onnx_opset_version()
    every = {
        schema.name
        for schema in onnx.defs.get_all_schemas_with_history()
        if not schema.domain and "seed" in schema.attributes
    }
    assert every == set(DRAWS) == {op_type for domain, op_type in KEYS if not domain}
    assert {op_type for op_type in every if is_random(op_type, newest)} == every - {"Dropout"}


def test_every_operator_of_onnx_runtime_that_draws_is_known() -> None:
    """All of its own that have a seed; the one of a hash draws nothing."""
    own = {
        schema.name
        for schema in get_all_operator_schema()
        if schema.domain == "com.microsoft"
        and "seed" in {*schema.attributes, *(item.name for item in schema.inputs)}
    }
    assert own - {"MurmurHash3"} == {op_type for domain, op_type in KEYS if domain}


@pytest.mark.each_choice
@pytest.mark.parametrize("opset", [7, 9, 10, 12, 15, 17, 22])
@pytest.mark.parametrize("op_type", DRAWS)
def test_every_operator_gives_the_same_numbers_in_every_run(op_type: str, opset: int) -> None:
    """Also in opsets in which ONNX Runtime has no kernel that draws."""
    if opset < SINCE.get(op_type, 0):
        pytest.skip("not in this opset")
    first, second = runs(drawing(op_type, opset))
    assert first.shape == (2, 3000)
    assert np.array_equal(first, second)
    assert abs(first.astype(np.float64).mean() - MEANS.get(op_type, 1.0)) < 0.1
    assert op_type == "Dropout" or len(np.unique(first)) > 1


@pytest.mark.parametrize("op_type", DRAWS)
def test_neither_names_nor_places_change_the_numbers(op_type: str) -> None:
    known = runs(drawing(op_type))[0]
    moved = drawing(op_type, before="more = RandomNormalLike(x)\n")
    moved.graph.node[1].name = "another"
    assert np.array_equal(known, runs(moved)[0])


# Proofs

PLACES = {"x": "8", "soft": "1, 4, 1, 1", "projected": "8"}
"""What numbers are added to, and the shape of those that are drawn like nothing."""


def attention(op_type: str, place: str, opset: int = 17) -> ModelProto:
    """Attention of four heads with random numbers: before it, at its weights or behind it."""
    shape, axes = PLACES[place], "four" if place == "soft" else "three"
    drawn = {
        "RandomNormal": f"n = RandomNormal<shape=[{shape}]>()",
        "RandomUniform": f"n = RandomUniform<shape=[{shape}]>()",
        "RandomNormalLike": f"n = RandomNormalLike({place})",
        "RandomUniformLike": f"n = RandomUniformLike({place})",
        "Bernoulli": f"chances = Sigmoid({place})\nn = Bernoulli(chances)",
        "Dropout": f"n = Dropout({place}, , training)",
        "Multinomial": f"""logits = ReduceMean<axes = [1], keepdims = 0>(x)
            id = Multinomial<sample_size = 1>(logits)
            real = Cast<to = 1>(id)
            n = Reshape(real, {axes})""",
    }[op_type]
    noise = {name: f"{drawn}\nnoisy = Add({name}, n)" if name == place else "" for name in PLACES}
    x, soft, projected = ("noisy" if name == place else name for name in PLACES)
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : {opset}]>
        block (float[batch,sequence,8] x) => (float[batch,sequence,8] y)
        <int64[4] split = {{0, 0, 4, 2}}, int64[3] merge = {{0, 0, 8}}, int64[3] three = {{-1, 1, 1}},
         int64[4] four = {{-1, 1, 1, 1}}, bool training = {{1}}, float[8,8] q, float[8,8] k, float[8,8] v, float[8,8] o>
        {{
            {noise["x"]}
            qp = MatMul({x}, q)
            kp = MatMul({x}, k)
            vp = MatMul({x}, v)
            qs = Reshape(qp, split)
            ks = Reshape(kp, split)
            vs = Reshape(vp, split)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kh = Transpose<perm = [0, 2, 3, 1]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            scores = MatMul(qh, kh)
            soft = Softmax<axis = -1>(scores)
            {noise["soft"]}
            context = MatMul({soft}, vh)
            back = Transpose<perm = [0, 2, 1, 3]>(context)
            merged = Reshape(back, merge)
            projected = MatMul(merged, o)
            {noise["projected"]}
            y = Add({projected}, x)
        }}
        """
    )


@pytest.mark.each_choice
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("op_type", DRAWS)
def test_a_cut_is_proven_wherever_numbers_are_drawn(op_type: str, place: str) -> None:
    """At the weights of the heads too, where some of the numbers belong to a removed head."""
    found = prune(attention(op_type, place), heads="0:1,2", provider="cpu").validation
    assert found is not None and found.verdict == "passed", found.reason
    assert any(f"in all compared models: {op_type} (" in note for note in found.notes)


def test_a_file_that_draws_otherwise_fails() -> None:
    model = attention("RandomNormalLike", "x")
    made = prune(model, heads="0:1", provider="cpu").model
    node = next(node for node in made.graph.node if node.op_type == "RandomNormalLike")
    node.attribute.append(helper.make_attribute("scale", 2.0))
    assert validate(model, made, provider="cpu").verdict == "failed"


ADDED = {
    **{key: f"drawn = {text}" for key, text in DRAWS.items()},
    "Multinomial": "logits = ReduceMean<axes = [1], keepdims = 0>(x)\ndrawn = Multinomial<sample_size = 1>(logits)",
    "Bernoulli": "chances = Sigmoid(x)\ndrawn = Bernoulli(chances)",
    "Sampling": "drawn = com.microsoft.Sampling(x, x, x, x, x, x, x, x, x)",
    "BitmaskDropout": "drawn = com.microsoft.BitmaskDropout(x, , training)",
    "BiasDropout": "drawn = com.microsoft.BiasDropout(x, x, , , training)",
    "BitmaskBiasDropout": "drawn = com.microsoft.BitmaskBiasDropout(x, x, , , training)",
}


def added(text: str, place: str) -> ModelProto:
    """A pruned model with one more node, which nothing reads or which feeds a subgraph."""
    body = f"mode = Constant<value = bool {{1}}>()\n{text.replace('training', 'mode')}"
    made = {
        "the graph": f"{body}\nout = Identity(drawn)",
        "a branch": f"""yes = Constant<value = bool {{1}}>()
            out = If(yes) <then_branch = a () => (drawn) {{ {body} }}, else_branch = b () => (drawn) {{ {body} }}>""",
        "a loop": f"""once = Constant<value = int64 {{1}}>()
            yes = Constant<value = bool {{1}}>()
            out = Loop(once, yes) <body = a (int64 i, bool go) => (still, also) {{
                still = Identity(go) also = Identity(go) {body}
            }}>""",
        "a function": "out = local.Draw(x)",
    }[place]
    function = f"""<domain: "local", opset_import: ["" : 17, "com.microsoft" : 1]> Draw (x) => (drawn) {{ {body} }}"""
    draws = onnx.parser.parse_graph(f"g (float[batch,sequence,8] x) => (out) {{ {made} }}")
    model = prune(attention("RandomNormalLike", "x"), heads="0:1", provider="cpu", validate=False).model
    for node in draws.node:
        for names in (node.input, node.output):
            names[:] = [name if name in ("x", "") else f"added/{name}" for name in names]
    model.graph.node.extend(draws.node)
    if place == "a function":
        model.functions.append(onnx.parser.parse_function(function))
        model.opset_import.append(helper.make_opsetid("local", 1))
    if all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.each_choice
@pytest.mark.parametrize("place", ["the graph", "a branch", "a loop", "a function"])
@pytest.mark.parametrize("op_type", sorted({op_type for _, op_type in KEYS}))
def test_a_random_node_that_the_original_lacks_is_no(op_type: str, place: str) -> None:
    """Runs, in which it has fixed numbers or drops nothing, say nothing about it; here nothing even reads it."""
    found = validate(attention("RandomNormalLike", "x"), added(ADDED[op_type], place), provider="cpu")
    assert found.exact == "no"
    assert found.reason.startswith(f"{op_type} (") and "outputs random numbers" in found.reason


# What stays random
