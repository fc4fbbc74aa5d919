"""Small decoders of several layers: with normalisations before or after sublayers, with caches, numbered by layer."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.graph_builder import GraphBuilder
from tests.toys import VOCABULARY

HEADS, SIZE, INNER = 2, 4, 16
HIDDEN = HEADS * SIZE
Norms: TypeAlias = Literal["", "pre", "post"]


def decoder(
    layers: int = 3,
    *,
    norms: Norms = "",
    spelled: bool = False,
    cache: bool = False,
    pattern: str = "past_key_values.{}.{}",
    first: int = 0,
    measured: int | None = None,
    also_reads: int | None = None,
    seed: int = 0,
) -> ModelProto:
    """`input_ids [batch, sequence]` to `logits`, with `present.N.key` and `.value` where there are caches.

    Args:
        layers: attention and a feed-forward block each.
        norms: where normalisations stand.
        spelled: these are spelled in small operators, not one.
        cache: with a past and a present per layer.
        pattern: names of pasts, with the number of the layer and "key" or "value".
        first: the number of the first layer.
        measured: the layer whose past tells how many positions came before.
        also_reads: a second output reads the stream behind this layer.
        seed: of the weights.
    """
    toy = GraphBuilder(seed=seed)
    inputs = [toy.info("input_ids", ["batch", "sequence"], TensorProto.INT64)]
    outputs = []
    stream = toy.node("Gather", [toy.weight("embed.weight", VOCABULARY, HIDDEN), "input_ids"], "embedded")
    if measured is not None:
        stream = _placed(toy, stream, pattern.format(first + measured, "key"))
    toy.constant("split", np.array([0, 0, HEADS, SIZE]))
    toy.constant("merge", np.array([0, 0, HIDDEN]))
    for layer in range(layers):
        number = first + layer
        if cache:
            shape: list[Any] = ["batch", HEADS, "past_length", SIZE]
            inputs += [toy.info(pattern.format(number, what), shape) for what in ("key", "value")]
            shape = ["batch", HEADS, "total_length", SIZE]
            outputs += [toy.info(f"present.{number}.{what}", shape) for what in ("key", "value")]
        pasts = [pattern.format(number, what) for what in ("key", "value")] if cache else []
        stream = _sublayer(toy, f"layer{layer}.attn", stream, norms, spelled, pasts, f"present.{number}")
        stream = _sublayer(toy, f"layer{layer}.ffn", stream, norms, spelled)
        if also_reads == layer:
            toy.node("MatMul", [stream, toy.weight("early.weight", HIDDEN, VOCABULARY)], "early")
            outputs.append(toy.info("early", ["batch", "sequence", VOCABULARY]))
    toy.node("MatMul", [stream, toy.weight("head.weight", HIDDEN, VOCABULARY)], "logits")
    return toy.model(inputs, [toy.info("logits", ["batch", "sequence", VOCABULARY]), *outputs])


def _placed(toy: GraphBuilder, stream: str, past: str) -> str:
    """The stream with an embedding of the place, which is counted from the length of a past on."""
    toy.node("Shape", [past], "past_shape")
    length = toy.node("Gather", ["past_shape", toy.constant("length_axis", np.array(2))], "before")
    row = toy.node("Gather", [toy.weight("places.weight", 64, HIDDEN), length], "place")
    return toy.node("Add", [stream, row], "placed")


def _sublayer(
    toy: GraphBuilder,
    name: str,
    stream: str,
    norms: Norms,
    spelled: bool,
    pasts: list[str] | None = None,
    present: str = "",
) -> str:
    read = _norm(toy, f"{name}.norm", stream, spelled) if norms == "pre" else stream
    made = _feed_forward(toy, name, read) if pasts is None else _attention(toy, name, read, pasts, present)
    biased = toy.node("Add", [made, toy.weight(f"{name}.out.bias", HIDDEN)], f"{name}.biased")
    added = toy.node("Add", [stream, biased], f"{name}.stream")
    return _norm(toy, f"{name}.norm", added, spelled) if norms == "post" else added


def _feed_forward(toy: GraphBuilder, name: str, read: str) -> str:
    up = toy.node("MatMul", [read, toy.weight(f"{name}.up.weight", HIDDEN, INNER)], f"{name}.up")
    active = toy.node("Tanh", [up], f"{name}.active")
    return toy.node("MatMul", [active, toy.weight(f"{name}.out.weight", INNER, HIDDEN)], f"{name}.down")


def _attention(toy: GraphBuilder, name: str, read: str, pasts: list[str], present: str) -> str:
    for index, part in enumerate("qkv"):
        flat = toy.node(
            "MatMul", [read, toy.weight(f"{name}.{part}.weight", HIDDEN, HIDDEN)], f"{name}.{part}_flat"
        )
        toy.node("Reshape", [flat, "split"], f"{name}.{part}_split")
        made = toy.node("Transpose", [f"{name}.{part}_split"], f"{name}.{part}", perm=[0, 2, 1, 3])
        if pasts and index:
            what = ("key", "value")[index - 1]
            toy.node("Concat", [pasts[index - 1], made], f"{present}.{what}", axis=2)
    keys, values = (f"{present}.key", f"{present}.value") if pasts else (f"{name}.k", f"{name}.v")
    turned = toy.node("Transpose", [keys], f"{name}.k_turned", perm=[0, 1, 3, 2])
    scores = toy.node("MatMul", [f"{name}.q", turned], f"{name}.scores")
    weights = toy.node("Softmax", [scores], f"{name}.weights", axis=-1)
    context = toy.node("MatMul", [weights, values], f"{name}.context")
    back = toy.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
    merged = toy.node("Reshape", [back, "merge"], f"{name}.merged")
    return toy.node("MatMul", [merged, toy.weight(f"{name}.out.weight", HIDDEN, HIDDEN)], f"{name}.projected")


def _norm(toy: GraphBuilder, name: str, value: str, spelled: bool) -> str:
    gain = toy.constant(f"{name}.gain", (1 + 0.3 * toy.rng.standard_normal(HIDDEN)).astype(np.float32))
    shift = toy.constant(f"{name}.shift", (0.3 * toy.rng.standard_normal(HIDDEN)).astype(np.float32))
    if not spelled:
        return toy.node("LayerNormalization", [value, gain, shift], f"{name}.out", axis=-1, epsilon=1e-5)
    mean = toy.node("ReduceMean", [value], f"{name}.mean", axes=[-1], keepdims=1)
    apart = toy.node("Sub", [value, mean], f"{name}.apart")
    square = toy.node("Mul", [apart, apart], f"{name}.square")
    spread = toy.node("ReduceMean", [square], f"{name}.variance", axes=[-1], keepdims=1)
    safe = toy.node(
        "Add", [spread, toy.constant(f"{name}.epsilon", np.array(1e-5, np.float32))], f"{name}.safe"
    )
    size = toy.node("Sqrt", [safe], f"{name}.size")
    scaled = toy.node("Mul", [toy.node("Div", [apart, size], f"{name}.unit"), gain], f"{name}.scaled")
    return toy.node("Add", [scaled, shift], f"{name}.out")


def ids(feeds: int = 12, rows: int = 8, length: int = 6, seed: int = 3) -> list[dict[str, Any]]:
    """Feeds without caches."""
    random = np.random.default_rng(seed)
    return [{"input_ids": random.integers(0, VOCABULARY, (rows, length))} for _ in range(feeds)]


def without_past(model: ModelProto) -> ModelProto:
    """A decoder with caches as it is for the first tokens: presents, and no pasts."""
    made = ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        if node.op_type == "Concat":
            node.op_type = "Identity"
            del node.attribute[:]
            del node.input[0]
    del made.graph.input[1:]
    return made


def merged(layers: int = 3) -> ModelProto:
    """Both in one, with a flag that says whether there is a cache."""
    later = decoder(layers, cache=True)
    bodies = {}
    for name, model in (("then_branch", later), ("else_branch", without_past(later))):
        bodies[name] = helper.make_graph(list(model.graph.node), name, [], list(model.graph.output))
    names = [item.name for item in later.graph.output]
    choice = helper.make_node("If", ["use_cache_branch"], names, name="choice", **bodies)
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [choice],
        "merged",
        [*later.graph.input, flag],
        list(later.graph.output),
        list(later.graph.initializer),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
