"""A small encoder with a mask and normalisations, as ONNX text, and sentences for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper, parser

VOCABULARY, WIDTH, HEADS, SIZE, INNER = 23, 16, 4, 4, 24
FIRST, LAST = 1, 2
"""Ids of the special tokens around every sentence."""
HEAD = """
<ir_version: 9, opset_import: ["" : 17]>
encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, sequence, 16] last_hidden_state)
<int64[4] split = {0, 0, 4, 4}, int64[3] merge = {0, 0, 16}, int64[2] middle = {1, 2}, float low = {-10000.0},
 float one = {1.0}, float half = {0.5}>
{
    embedded = Gather(embed, input_ids)
    known = Cast<to=1>(attention_mask)
    padding = Sub(one, known)
    steep = Mul(padding, low)
    bias = Unsqueeze(steep, middle)
    stream0 = LayerNormalization(embedded, norm_weight, norm_bias)
"""
LAYER = """
    q@ = MatMul(stream@, q_weight@)
    k@ = MatMul(stream@, k_weight@)
    v@ = MatMul(stream@, v_weight@)
    qs@ = Reshape(q@, split)
    ks@ = Reshape(k@, split)
    vs@ = Reshape(v@, split)
    qh@ = Transpose<perm=[0, 2, 1, 3]>(qs@)
    kh@ = Transpose<perm=[0, 2, 3, 1]>(ks@)
    vh@ = Transpose<perm=[0, 2, 1, 3]>(vs@)
    products@ = MatMul(qh@, kh@)
    scaled@ = Mul(products@, half)
    scores@ = Add(scaled@, bias)
    shares@ = Softmax<axis=-1>(scores@)
    context@ = MatMul(shares@, vh@)
    turned@ = Transpose<perm=[0, 2, 1, 3]>(context@)
    merged@ = Reshape(turned@, merge)
    product@ = MatMul(merged@, out_weight@)
    output@ = Add(product@, out_bias@)
    sum@ = Add(output@, stream@)
    between@ = LayerNormalization(sum@, norm1_weight@, norm1_bias@)
    up@ = MatMul(between@, up_weight@)
    active@ = Tanh(up@)
    down@ = MatMul(active@, down_weight@)
    more@ = Add(down@, between@)
    stream% = LayerNormalization(more@, norm2_weight@, norm2_bias@)
"""
SHAPES = {
    "q_weight": (WIDTH, WIDTH),
    "k_weight": (WIDTH, WIDTH),
    "v_weight": (WIDTH, WIDTH),
    "out_weight": (WIDTH, WIDTH),
    "up_weight": (WIDTH, INNER),
    "down_weight": (INNER, WIDTH),
    "out_bias": (WIDTH,),
    "norm1_weight": (WIDTH,),
    "norm1_bias": (WIDTH,),
    "norm2_weight": (WIDTH,),
    "norm2_bias": (WIDTH,),
}


def encoder(layers: int = 2, dtype: Any = np.float32) -> ModelProto:
    """A BERT-like encoder: post-norm, padding hidden by a mask.

    Args:
        layers: blocks.
        dtype: of the weights; others than float32 are cast where they are read.
    """
    text = HEAD
    for layer in range(layers):
        text += LAYER.replace("@", str(layer)).replace("%", str(layer + 1))
    text += f"    last_hidden_state = Identity(stream{layers})\n}}"
    shapes = {"embed": (VOCABULARY, WIDTH), "norm_weight": (WIDTH,), "norm_bias": (WIDTH,)}
    for layer in range(layers):
        shapes |= {f"{name}{layer}": shape for name, shape in SHAPES.items()}
    random, tensors = np.random.default_rng(0), []
    for name, shape in shapes.items():
        array = random.standard_normal(shape) / (1 if name == "embed" else np.sqrt(shape[0]))
        array = 1 + 0.2 * array if "norm" in name and "weight" in name else array
        tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
    model = parser.parse_model(text)
    model.graph.initializer.extend(tensors)
    return model if dtype is np.float32 else _cast(model, shapes, dtype)


def _cast(model: ModelProto, shapes: dict[str, Any], dtype: Any) -> ModelProto:
    """The model with its weights in another type, cast where they are read."""
    stored = [tensor for tensor in model.graph.initializer if tensor.name in shapes]
    for tensor in stored:
        array = numpy_helper.to_array(tensor).astype(dtype)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array, f"{name}_half"))
        model.graph.node.insert(0, parser.parse_node(f"{name} = Cast<to=1>({name}_half)"))
    return model


def sentences(count: int = 48, batch: int = 8, seed: int = 5) -> list[dict[str, Any]]:
    """Feeds of sentences of several lengths, special tokens at both ends, padded on the right."""
    random = np.random.default_rng(seed)
    lengths = np.sort(random.integers(5, 12, count))
    feeds = []
    for start in range(0, count, batch):
        part = lengths[start : start + batch]
        ids = np.zeros((len(part), int(part.max())), np.int64)
        for row, length in enumerate(part):
            ids[row, 1 : length - 1] = random.integers(3, VOCABULARY, length - 2)
            ids[row, 0], ids[row, length - 1] = FIRST, LAST
        feeds.append({"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)})
    return feeds
