"""An encoder and its decoder as Optimum exports them: for the first tokens, for later ones, and both merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from tests.calibration_files import tokenizer
from tests.graphs.toys import HEAD_SIZE, HEADS, HIDDEN, I64, VOCABULARY, Stack, both, stack

START = 2
ROWS, SOURCE, TARGET, PAST = "batch_size", "encoder_sequence_length", "decoder_sequence_length", "past"
CACHES = tuple(f"{part}.{what}" for part in ("decoder", "encoder") for what in ("key", "value"))


def encoder(*, features: bool = False, feed: bool = False) -> ModelProto:
    """`input_ids` and a mask to `last_hidden_state`; or features as of sound. With `feed`, a feed-forward block too."""
    kind = {"reads": "features"} if features else {"masked": True}
    return stack(
        **kind, layers=1, inner=24 if feed else 0, biases=(), named=True, even=True, dims=(ROWS, SOURCE), prefix="enc.",
        answer="last_hidden_state",
    )  # fmt: skip


def decoder(*, past: bool, masked: bool = True, feed: bool = False) -> ModelProto:
    """Tokens, states and a cache to logits and the cache.

    Args:
        past: for later tokens, where the keys and values of the encoder are taken over.
        masked: with the mask of the encoder's tokens.
        feed: with a feed-forward block behind the attention.
    """
    net = Stack(inner=24, biases=(), named=True, even=True, dims=(ROWS, TARGET))
    stream = net.embedded()
    net.inputs += [net.info("encoder_attention_mask", [ROWS, SOURCE], I64)] * masked
    states = net.info("encoder_hidden_states", [ROWS, SOURCE, HIDDEN])
    net.inputs += [_cache(name) for name in CACHES] if past else [states]
    for what in ("key", "value"):
        made = [f"past_key_values.0.decoder.{what}"] * past + [net.heads(stream, f"dec.{what[0]}")]
        net.node("Concat", made, f"present.0.decoder.{what}", axis=2)
        if not past:
            cross = net.heads("encoder_hidden_states", f"cross.{what[0]}")
            net.node("Identity", [cross], f"present.0.encoder.{what}")
    tense = "past_key_values" if past else "present"
    stream = net.crossed(
        stream, "dec", "present.0.decoder.key", "present.0.decoder.value", _causal(net, stream)
    )
    bias = net.padding("encoder_attention_mask") if masked else ""
    stream = net.crossed(stream, "cross", f"{tense}.0.encoder.key", f"{tense}.0.encoder.value", bias)
    stream = net.networked(stream, "dec.mlp") if feed else stream
    net.linear_layer(stream, "head", HIDDEN, VOCABULARY, "logits")
    outputs = [net.info("logits", [ROWS, TARGET, VOCABULARY])]
    outputs += [_cache(name, "present") for name in CACHES if not past or name.startswith("decoder")]
    return net.model(net.inputs, outputs)


def _causal(net: Stack, stream: str) -> str:
    """What hides later tokens: `[length, past + length]`."""
    one, first = net.once("second", 1), net.once("first", 0)
    length = net.op("Gather", net.op("Shape", stream), one)
    total = net.op("Gather", net.op("Shape", "present.0.decoder.key"), net.once("two", 2))
    rows = net.op(
        "Unsqueeze", net.op("Range", net.op("Sub", total, length), total, one), net.once("front", [1])
    )
    columns = net.op("Unsqueeze", net.op("Range", first, total, one), net.once("back", [0]))
    later = net.op("Cast", net.op("Less", rows, columns), to=TensorProto.FLOAT)
    return net.op("Mul", later, net.once("far", np.float32(-1e4)))


def _cache(name: str, tense: str = "past_key_values") -> ValueInfoProto:
    length = SOURCE if name.startswith("encoder") else PAST if tense != "present" else f"{PAST} + {TARGET}"
    shape = [ROWS, HEADS, length, HEAD_SIZE]
    return helper.make_tensor_value_info(f"{tense}.0.{name}", TensorProto.FLOAT, shape)


def merged(*, masked: bool = True, feed: bool = False, named_twice: bool = False) -> ModelProto:
    """Both in one, with a flag that says whether there is a cache.

    Args:
        masked: with the mask of the encoder's tokens.
        feed: with a feed-forward block.
        named_twice: a value beside the branches has the name of one in them.
    """
    first, later = (decoder(past=past, masked=masked, feed=feed) for past in (False, True))
    for name in CACHES[2:]:
        ends = [f"past_key_values.0.{name}"], [f"present.0.{name}"]
        later.graph.node.append(helper.make_node("Identity", *ends, name=f"keep.{name}"))
    del later.graph.output[:]
    later.graph.output.extend(first.graph.output)
    made = both(first, later)
    if named_twice:
        beside = helper.make_node("Identity", ["encoder_hidden_states"], ["embedded"], name="beside")
        made.graph.node.insert(0, beside)
    return made


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
    for name, past in {"decoder_model": False, "decoder_with_past_model": True}.items() if split else ():
        onnx.save(decoder(past=past, masked=not features, feed=feed), place / f"{name}.onnx")
    (place / "config.json").write_text(json.dumps({"model_type": "toy", "decoder_start_token_id": START}))
    tokenizer(place, VOCABULARY)
    return place
