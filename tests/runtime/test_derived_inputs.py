"""Inputs that follow from the graph: ids that are compared, caches of a window, ends of a generation, settings."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import InferenceError, prune
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.generate import FeedMaker
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests.graph_text import model_of
from tests.graphs import fused

# Ids that are compared with constants

WAYS = {
    "chosen": """
        at = Equal(ids, image)
        column = Unsqueeze(at, last)
        first = Slice(features, zero, one, one)
        x = Where(column, first, words)
    """,
    "counted and gathered": """
        at = Equal(ids, image)
        counted = Cast<to = 7>(at)
        places = CumSum(counted, axis)
        before = Sub(places, one)
        place = Max(before, zero)
        source = Reshape(features, rows)
        each = Gather(source, place)
        column = Unsqueeze(at, last)
        x = Where(column, each, words)
    """,
    "written, as many as there are tokens": """
        at = Equal(ids, image)
        found = NonZero(at)
        places = Transpose<perm = [1, 0]>(found)
        source = Reshape(features, rows)
        x = ScatterND(words, places, source)
    """,
    "below zero": """
        at = Less(ids, none)
        column = Unsqueeze(at, last)
        first = Slice(features, zero, one, one)
        x = Where(column, first, words)
    """,
}


def towers(way: str) -> ModelProto:
    """Attention over four places of an image, whose features take the places of some tokens of a text."""
    compared = "none" if way == "below zero" else "image"
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        both (int64[batch,sequence] ids, float[batch,4,8] pixels) => (float[batch,sequence,8] y)
        <int64 {compared} = {{{0 if compared == "none" else 19}}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
         int64[1] last = {{-1}}, int64 axis = {{1}}, int64[2] rows = {{-1, 8}}, int64[4] split = {{0, 0, 2, 4}},
         int64[3] merge = {{0, 0, 8}}, float[20,8] table, float[8,8] q, float[8,8] k, float[8,8] v, float[8,8] o,
         float[8,8] out>
        {{
            qp = MatMul(pixels, q)
            kp = MatMul(pixels, k)
            vp = MatMul(pixels, v)
            qs = Reshape(qp, split)
            ks = Reshape(kp, split)
            vs = Reshape(vp, split)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kh = Transpose<perm = [0, 2, 3, 1]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            scores = MatMul(qh, kh)
            soft = Softmax<axis = -1>(scores)
            context = MatMul(soft, vh)
            back = Transpose<perm = [0, 2, 1, 3]>(context)
            merged = Reshape(back, merge)
            features = MatMul(merged, o)
            words = Gather(table, ids)
            {WAYS[way]}
            y = MatMul(x, out)
        }}
        """
    )


def images() -> dict[str, np.ndarray]:
    """Two texts of seven tokens, four of which stand for an image."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 19, (2, 7))
    ids[:, 1:5] = 19
    return {"ids": ids, "pixels": random.standard_normal((2, 4, 8)).astype(np.float32)}


@pytest.mark.parametrize("way", WAYS)
def test_heads_before_features_that_replace_tokens_are_proven_on_data(way: str) -> None:
    """Random ids hold as many tokens of an image as features by chance only: then real inputs are asked for."""
    found = prune(towers(way), heads="0:1", provider="cpu", accept_inconclusive=True).validation
    assert found is not None and (found.verdict == "passed" or "give real" in found.reason), found.reason
    data = images()
    data["ids"] = np.where(data["ids"] == 19, -1, data["ids"]) if way == "below zero" else data["ids"]
    found = prune(towers(way), heads="0:1", provider="cpu", data=[data]).validation
    assert found is not None and found.verdict == "passed", found.reason


# Caches of a window


def window_of(window: int) -> ModelProto:
    model = fused.decoder()
    node = next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    node.attribute.append(helper.make_attribute("local_window_size", window))
    node.attribute.append(helper.make_attribute("sliding_window_cache", 1))
    return model


@pytest.mark.each_choice
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("window", [4, 8, 32])
def test_a_cache_holds_the_whole_window(window: int, given: bool) -> None:
    model = window_of(window)
    x = np.random.default_rng(0).standard_normal((1, 5, fused.HIDDEN)).astype(np.float32)
    data = [{"x": x, "attention_mask": np.ones((1, 5), np.int64)}] if given else None
    inputs = graph_inputs(view_of(model))
    assert {item.capacity for item in inputs if item.is_cache} == {window}
    if data is not None:
        cache = np.zeros((1, fused.KV_HEADS, window, fused.HEAD_SIZE), np.float32)
        data[0] |= {f"past_key_values.0.{name}": cache for name in ("key", "value")}
    found = prune(model, heads="0:0,1", data=data, provider="cpu").validation
    assert found is not None and found.verdict == "passed", found.reason
    for case in found.cases:
        # Of a longer one the rest is what lay in memory before.
        assert case.shapes["past_key_values.0.key"][2] == window


# Generation

I32, F32 = TensorProto.INT32, TensorProto.FLOAT
GIVEN = {
    "max_length": (I32, [1]),
    "min_length": (I32, [1]),
    "num_beams": (I32, [1]),
    "num_return_sequences": (I32, [1]),
    "length_penalty": (F32, [1]),
    "repetition_penalty": (F32, [1]),
    "vocab_mask": (I32, [fused.VOCABULARY]),
    "prefix_vocab_mask": (I32, ["batch", fused.VOCABULARY]),
    "attention_mask": (I32, ["batch", "prompt"]),
    "presence_mask": (I32, ["batch", fused.VOCABULARY]),
    "seed": (I32, [1]),
}
LENGTHS = ["input_ids", "max_length", "min_length"]
SETTINGS = ["repetition_penalty", "vocab_mask", "prefix_vocab_mask", "attention_mask"]
OPERATORS = {
    "BeamSearch": [*LENGTHS, "num_beams", "num_return_sequences", "length_penalty", *SETTINGS],
    "GreedySearch": [*LENGTHS, *SETTINGS],
    "Sampling": [*LENGTHS, *SETTINGS, "presence_mask", "seed"],
}


def generator(op_type: str, given: list[str]) -> ModelProto:
    """A generation operator some of whose inputs are the model's."""
    model = fused.generator(op_type)
    node = model.graph.node[-1]
    names = OPERATORS[op_type]
    stored = dict(zip(names, node.input, strict=False)) | {name: name for name in given}
    node.input[:] = [stored.get(name, "") for name in names]
    while not node.input[-1]:
        node.input.pop()
    for tensor in [item for item in model.graph.initializer if item.name in given]:
        model.graph.initializer.remove(tensor)
    model.graph.input.extend(helper.make_tensor_value_info(name, *GIVEN[name]) for name in given)
    return model


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("op_type", "given"),
    [
        pytest.param(op_type, [given], id=f"{op_type} {given}")
        for op_type, names in OPERATORS.items()
        for given in names[1:]
    ],
)
def test_every_input_of_a_generation_is_made(op_type: str, given: list[str]) -> None:
    """Also of one that holds the number of tokens with which it ends, whatever that is called."""
    model = generator(op_type, given)
    model.graph.input[-1].name = "given"
    node = model.graph.node[-1]
    node.input[:] = ["given" if name in given else name for name in node.input]
    maker, session = FeedMaker(view_of(model)), Session(model, Provider(CPU, "test"))
    assert any(
        not isinstance(maker.first_that_runs(case, session.run), InferenceError) for case in maker.cases
    )


# Inputs without a batch axis
