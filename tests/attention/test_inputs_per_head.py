"""Inputs with an entry per head: caches follow the heads, others keep their shape unless a change was agreed to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from onnx import ModelProto

from onnxheadprune import prune
from tests.graph_text import model_of

HEADS = 3


@dataclass(frozen=True)
class Form:
    """An input of a decoder whose values have an axis of heads.

    Attributes:
        declared: its type and shape.
        keys, values: what is computed of it; `k` and `v` have the axes [batch, heads, tokens, size].
        outputs: further outputs, with their types and shapes.
        stored: declarations of what is stored.
    """

    declared: str
    keys: str = "k_all = Identity(k)"
    values: str = "v_all = Identity(v)"
    outputs: Mapping[str, str] = field(default_factory=dict)
    stored: str = ""


def picked(type_: str, shape: str, pick: str, stored: str = "") -> Form:
    """Keys and values of the heads that an input lists."""
    return Form(f"{type_}[{shape}] h", pick.format("k"), pick.format("v"), stored=stored)


EACH = "{0}_all = Gather<axis = 1>({0}, h)"
CAST = "{0}_h = Cast<to = 7>(h)\n{0}_all = Gather<axis = 1>({0}, {0}_h)"
SCALED = "{0}_all = Mul({0}, h)"
KEPT = {
    "head numbers": picked("int64", "3", EACH),
    "head numbers of 32 bits": picked("int32", "3", EACH),
    "head numbers as floats": picked("float", "3", CAST),
    "head numbers as bytes": picked("uint8", "3", CAST),
    "head numbers per sample": picked(
        "int64",
        "batch,3,sequence,4",
        "{0}_all = GatherElements<axis = 1>({0}, h)",
    ),
    "scales": picked("float", "3,1,1", SCALED),
    "scales of samples": picked("float", "batch,3,1,1", SCALED),
    "whole scales": picked("int64", "3,1,1", "{0}_h = Cast<to = 1>(h)\n{0}_all = Mul({0}, {0}_h)"),
    "truth values": picked("bool", "3,1,1", "{0}_all = Where(h, {0}, zero)", "float zero = {0}"),
    "truth values of tokens": picked(
        "bool", "batch,3,sequence,4", "{0}_all = Where(h, {0}, zero)", "float zero = {0}"
    ),
}
JOINED = "v_all = Concat<axis = 2>(h, v)"
TOKENS = "batch,3,past,4"
CACHES = {
    "a past": Form(f"float[{TOKENS}] h", "k_all = Concat<axis = 2>(h, k)", JOINED),
    "a past with its present": Form(
        f"float[{TOKENS}] h",
        "k_all = Concat<axis = 2>(h, k)",
        JOINED,
        {"present": "float[batch,3,total,4]"},
    ),
    "a past of one sample": Form("float[1,3,past,4] h", "k_all = Concat<axis = 2>(h, k)", JOINED),
    "quantized": Form(
        f"int8[{TOKENS}] h",
        "h_float = DequantizeLinear(h, scale)\nk_all = Concat<axis = 2>(h_float, k)",
        "v_all = Concat<axis = 2>(h_float, v)",
        stored="float scale = {0.01}",
    ),
    "a state that is added": Form("float[batch,3,1,4] h", "k_all = Add(k, h)", "v_all = Add(v, h)"),
    "a state of one number per head": Form(
        "float[batch,3] h",
        "state = Add(h, h)\nh_wide = Reshape(state, wide)\nk_all = Mul(k, h_wide)",
        "v_all = Mul(v, h_wide)",
        {"state": "float[batch,3]"},
        "int64[4] wide = {0, 0, 1, 1}",
    ),
}


def decoder(form: Form) -> ModelProto:
    outputs = "".join(f", {declared} {name}" for name, declared in form.outputs.items())
    more = "present = Identity(v_all)" if "present" in form.outputs else ""
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        block (float[batch,sequence,8] x, {form.declared}) => (float[batch,sequence,8] y{outputs})
        <int64[4] split = {{0, 0, 3, 4}}, int64[3] merge = {{0, 0, 12}}, float[8,12] wq, float[8,12] wk,
         float[8,12] wv, float[12,8] wo{"," if form.stored else ""} {form.stored}>
        {{
            qp = MatMul(x, wq)
            kp = MatMul(x, wk)
            vp = MatMul(x, wv)
            qs = Reshape(qp, split)
            ks = Reshape(kp, split)
            vs = Reshape(vp, split)
            q = Transpose<perm = [0, 2, 1, 3]>(qs)
            k = Transpose<perm = [0, 2, 1, 3]>(ks)
            v = Transpose<perm = [0, 2, 1, 3]>(vs)
            {form.keys}
            {form.values}
            turned = Transpose<perm = [0, 1, 3, 2]>(k_all)
            scores = MatMul(q, turned)
            soft = Softmax<axis = -1>(scores)
            context = MatMul(soft, v_all)
            back = Transpose<perm = [0, 2, 1, 3]>(context)
            merged = Reshape(back, merge)
            y = MatMul(merged, wo)
            {more}
        }}
        """
    )


def shape_left(form: Form, *, agreed: bool = False) -> list[int | str]:
    """The input's shape after head 1 is removed; the cut is proven."""
    found = prune(decoder(form), heads="0:1", provider="cpu", allow_io_change=agreed)
    assert found.validation is not None and found.validation.verdict == "passed", found.validation.reason
    (info,) = (item for item in found.model.graph.input if item.name == "h")
    return [dim.dim_value or dim.dim_param for dim in info.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_cache_keeps_its_shape(name: str) -> None:
    assert HEADS in shape_left(KEPT[name])


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_cache_follows_the_heads_where_that_was_agreed_to(name: str) -> None:
    assert HEADS not in shape_left(KEPT[name], agreed=True)


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_follows_the_heads(name: str) -> None:
    assert HEADS not in shape_left(CACHES[name])
