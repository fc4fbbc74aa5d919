"""An encoder and its decoder as Optimum exports them: for the first tokens, for later ones, and both merged."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from tests.calibration_files import tokenizer
from tests.graph_builder import GraphBuilder
from tests.toys import HEADS, VOCABULARY

SIZE, HIDDEN, FEATURES, INNER = 4, 12, 5, 24
WIDTH = HEADS * SIZE
START = 2
I64 = TensorProto.INT64
ROWS, SOURCE, TARGET, PAST = "batch_size", "encoder_sequence_length", "decoder_sequence_length", "past"
CACHES = tuple(f"{part}.{what}" for part in ("decoder", "encoder") for what in ("key", "value"))


class Block:
    """Attention blocks in a graph; weights are made from their names, so that all files of a folder share them."""

    def __init__(self) -> None:
        self.toy = GraphBuilder()
        for name, value in {
            "split": np.array([0, 0, HEADS, SIZE]),
            "join": np.array([0, 0, WIDTH]),
            "first": np.array(0),
            "second": np.array(1),
            "one": np.array(1.0, np.float32),
            "far": np.array(-1e9, np.float32),
            "middle": np.array([1, 2]),
            "front": np.array([1]),
            "back": np.array([0]),
        }.items():
            self.toy.constant(name, value)

    def weight(self, name: str, *shape: int, scale: float = 0.7) -> str:
        """A weight that is the same wherever it has this name."""
        random = np.random.default_rng(zlib.crc32(name.encode()))
        return self.toy.constant(name, random.standard_normal(shape).astype(np.float32) * np.float32(scale))

    def heads(self, source: str, name: str) -> str:
        """`[batch, heads, length, size]` of a projection."""
        made = self.toy.node("MatMul", [source, self.weight(f"{name}.weight", HIDDEN, WIDTH)], f"{name}.made")
        parts = self.toy.node("Reshape", [made, "split"], f"{name}.parts")
        return self.toy.node("Transpose", [parts], f"{name}.heads", perm=[0, 2, 1, 3])

    def attended(self, stream: str, name: str, keys: str, values: str, bias: str) -> str:
        """The stream with what attention adds to it."""
        toy = self.toy
        turned = toy.node("Transpose", [keys], f"{name}.turned", perm=[0, 1, 3, 2])
        scores = toy.node("MatMul", [self.heads(stream, f"{name}.q"), turned], f"{name}.scores")
        toy.node("Add", [scores, bias], f"{name}.biased")
        weights = toy.node("Softmax", [f"{name}.biased"], f"{name}.weights", axis=-1)
        context = toy.node("MatMul", [weights, values], f"{name}.context")
        back = toy.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        joined = toy.node("Reshape", [back, "join"], f"{name}.joined")
        out = toy.node(
            "MatMul", [joined, self.weight(f"{name}.o.weight", WIDTH, HIDDEN)], f"{name}.projected"
        )
        return toy.node("Add", [stream, out], f"{name}.stream")

    def fed(self, stream: str, name: str) -> str:
        """The stream with what a feed-forward block adds to it."""
        toy = self.toy
        up = toy.node("MatMul", [stream, self.weight(f"{name}.up", HIDDEN, INNER)], f"{name}.inner")
        active = toy.node("Relu", [up], f"{name}.active")
        down = toy.node("MatMul", [active, self.weight(f"{name}.down", INNER, HIDDEN)], f"{name}.outer")
        return toy.node("Add", [stream, down], f"{name}.stream")

    def padding(self, mask: str) -> str:
        """What hides padding: `[batch, 1, 1, length]`."""
        toy = self.toy
        known = toy.node("Cast", [mask], "mask.known", to=TensorProto.FLOAT)
        hidden = toy.node("Mul", [toy.node("Sub", ["one", known], "mask.hidden"), "far"], "mask.far")
        return toy.node("Unsqueeze", [hidden, "middle"], "mask.bias")

    def causal(self, stream: str, keys: str) -> str:
        """What hides later tokens: `[length, past + length]`."""
        toy = self.toy
        length = toy.node("Gather", [toy.node("Shape", [stream], "sizes"), "second"], "length")
        two = toy.constant("two", np.array(2))
        total = toy.node("Gather", [toy.node("Shape", [keys], "key.sizes"), two], "total")
        past = toy.node("Sub", [total, length], "past.length")
        rows = toy.node("Unsqueeze", [toy.node("Range", [past, total, "second"], "rows"), "front"], "row")
        columns = toy.node(
            "Unsqueeze", [toy.node("Range", ["first", total, "second"], "columns"), "back"], "column"
        )
        later = toy.node(
            "Cast", [toy.node("Less", [rows, columns], "later")], "later.float", to=TensorProto.FLOAT
        )
        return toy.node("Mul", [later, "far"], "causal")


def encoder(*, features: bool = False, feed: bool = False) -> ModelProto:
    """`input_ids` and a mask to `last_hidden_state`; or features as of sound. With `feed`, a feed-forward block too."""
    block = Block()
    toy = block.toy
    if features:
        inputs = [toy.info("input_features", [ROWS, 6, FEATURES])]
        stream = toy.node(
            "MatMul", ["input_features", block.weight("features", FEATURES, HIDDEN)], "embedded"
        )
        bias = toy.constant("nothing", np.zeros((1, 1, 1, 1), np.float32))
    else:
        inputs = [toy.info(name, [ROWS, SOURCE], I64) for name in ("input_ids", "attention_mask")]
        stream = toy.node("Gather", [block.weight("table", VOCABULARY, HIDDEN), "input_ids"], "embedded")
        bias = block.padding("attention_mask")
    keys, values = (block.heads(stream, f"enc.{what}") for what in "kv")
    out = block.attended(stream, "enc", keys, values, bias)
    out = block.fed(out, "enc.mlp") if feed else out
    toy.node("Identity", [out], "last_hidden_state")
    return toy.model(inputs, [toy.info("last_hidden_state", [ROWS, SOURCE, HIDDEN])])


def decoder(*, past: bool, masked: bool = True, feed: bool = False) -> ModelProto:
    """Tokens, states and a cache to logits and the cache.

    Args:
        past: for later tokens, where the keys and values of the encoder are taken over.
        masked: with the mask of the encoder's tokens.
        feed: with a feed-forward block behind the attention.
    """
    block = Block()
    toy = block.toy
    inputs = [toy.info("input_ids", [ROWS, TARGET], I64)]
    inputs += [toy.info("encoder_attention_mask", [ROWS, SOURCE], I64)] * masked
    states = toy.info("encoder_hidden_states", [ROWS, SOURCE, HIDDEN])
    inputs += [_cache(name) for name in CACHES] if past else [states]
    stream = toy.node("Gather", [block.weight("table", VOCABULARY, HIDDEN), "input_ids"], "embedded")
    for what in ("key", "value"):
        own, name = block.heads(stream, f"dec.{what[0]}"), f"present.0.decoder.{what}"
        if past:
            toy.node("Concat", [f"past_key_values.0.decoder.{what}", own], name, axis=2)
        else:
            toy.node("Identity", [own], name)
        if not past:
            toy.node(
                "Identity",
                [block.heads("encoder_hidden_states", f"cross.{what[0]}")],
                f"present.0.encoder.{what}",
            )
    causal = block.causal(stream, "present.0.decoder.key")
    stream = block.attended(stream, "dec", "present.0.decoder.key", "present.0.decoder.value", causal)
    bias = (
        block.padding("encoder_attention_mask")
        if masked
        else toy.constant("nothing", np.zeros((1,), np.float32))
    )
    cross = [f"{'past_key_values' if past else 'present'}.0.encoder.{what}" for what in ("key", "value")]
    stream = block.attended(stream, "cross", cross[0], cross[1], bias)
    stream = block.fed(stream, "dec.mlp") if feed else stream
    toy.node("MatMul", [stream, block.weight("head", HIDDEN, VOCABULARY, scale=0.05)], "logits")
    outputs = [toy.info("logits", [ROWS, TARGET, VOCABULARY])]
    outputs += [_cache(name, "present") for name in CACHES if not past or name.startswith("decoder")]
    return toy.model(inputs, outputs)


def _cache(name: str, tense: str = "past_key_values") -> Any:
    length = SOURCE if name.startswith("encoder") else PAST if tense != "present" else f"{PAST} + {TARGET}"
    return helper.make_tensor_value_info(f"{tense}.0.{name}", TensorProto.FLOAT, [ROWS, HEADS, length, SIZE])


def merged(*, masked: bool = True, feed: bool = False) -> ModelProto:
    """Both in one, with a flag that says whether there is a cache."""
    first, later = (decoder(past=past, masked=masked, feed=feed) for past in (False, True))
    for what in ("key", "value"):
        name = f"encoder.{what}"
        taken = helper.make_node(
            "Identity", [f"past_key_values.0.{name}"], [f"present.0.{name}"], name=f"keep.{what}"
        )
        later.graph.node.append(taken)
        later.graph.output.append(_cache(name, "present"))
    order = [item.name for item in first.graph.output]
    kept = sorted(later.graph.output, key=lambda item: order.index(item.name))
    del later.graph.output[:]
    later.graph.output.extend(kept)
    tensors = {tensor.name: tensor for model in (first, later) for tensor in model.graph.initializer}
    inputs = {item.name: item for model in (first, later) for item in model.graph.input}
    bodies = {}
    for name, model in (("then_branch", later), ("else_branch", first)):
        body = helper.make_graph(list(model.graph.node), name, [], list(model.graph.output))
        bodies[name] = body
    choice = helper.make_node("If", ["use_cache_branch"], order, name="choice", **bodies)
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [choice], "merged", [*inputs.values(), flag], list(first.graph.output), list(tensors.values())
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def folder(place: Path, *, split: bool = True, features: bool = False, feed: bool = False) -> Path:
    """A folder of an encoder and its decoders.

    Args:
        place: the folder.
        split: with the two decoders beside the merged one.
        features: an encoder of sound.
        feed: with feed-forward blocks.
    """
    place.mkdir(parents=True)
    onnx.save(encoder(features=features, feed=feed), place / "encoder_model.onnx")
    onnx.save(merged(masked=not features, feed=feed), place / "decoder_model_merged.onnx")
    if split:
        onnx.save(decoder(past=False, masked=not features, feed=feed), place / "decoder_model.onnx")
        onnx.save(decoder(past=True, masked=not features, feed=feed), place / "decoder_with_past_model.onnx")
    config = {"model_type": "toy", "decoder_start_token_id": START}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer(place, VOCABULARY)
    return place
