"""Small graphs with token ids, as ONNX text: one for each way in which ids are read and logits are made."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, helper

from tests.graph_text import model_of

TOKENS, HIDDEN = 12, 6
KEPT = np.array([0, 1, 3, 5, 7, 10])
"""Of twelve tokens. The graphs themselves use 5 and 7."""
HEAD = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
ATTENTION = """
    q = MatMul(x, w_q)
    k = MatMul(x, w_k)
    v = MatMul(x, w_v)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    scores = MatMul(qt, kt)
    {masked}
    p = Softmax<axis = -1>(seen)
    c = MatMul(p, vt)
    ct = Transpose<perm = [0, 2, 1, 3]>(c)
    joined = Reshape(ct, whole)
    o = MatMul(joined, w_o)
    y = Add(x, o)
"""
WEIGHTS = """
    float[6, 6] w_q, float[6, 6] w_k, float[6, 6] w_v, float[6, 6] w_o,
    int64[4] split = {0, 0, 2, 3}, int64[3] whole = {0, 0, 6}
"""
PLAIN = "seen = Identity(scores)"


def graph(
    front: str,
    back: str = "out = Identity(y)",
    *,
    more: str = "",
    inputs: str = "int64[batch, seq] input_ids",
    output: str = "float[batch, seq, 12] out",
    masked: str = PLAIN,
    seed: int = 0,
    opset: int = 17,
    given: dict[str, np.ndarray] | None = None,
) -> ModelProto:
    """A block of attention between a front that makes `x` of ids and a back that makes `out` of `y`."""
    body = f"{front}\n{ATTENTION.format(masked=masked)}\n{back}"
    text = f"{HEAD.format(opset=opset)}g ({inputs}) => ({output}) <{WEIGHTS}{',' if more else ''} {more}> {{ {body} }}"
    return model_of(text, seed, given)


TABLE = "float[12, 6] table"
FRONT = "x = Gather(table, input_ids)"
STATES = "float[batch, seq, 6] out"
TIED = "turned = Transpose<perm = [1, 0]>(table)\nout = MatMul(y, turned)"
"""The map to logits reads the table."""

REPEATS = {
    "Expand": "filled = Expand(start, many)",
    "Tile": "filled = Tile(start, many)",
    "ConstantOfShape": "filled = ConstantOfShape<value = int64[1] {5}>(many)",
}
"""Ways to repeat a stored token, as often as there are ids."""
ADDS = {
    "Concat": "made = Concat<axis = 1>(filled, input_ids)",
    "Where": "is_low = Less(input_ids, three)\nmade = Where(is_low, filled, input_ids)",
    "ScatterElements": "first = Slice(input_ids, zero, one, one)\nlike = Shape(first)\n"
    "at = ConstantOfShape<value = int64[1] {0}>(like)\nmade = ScatterElements<axis = 1>(filled, at, first)",
    "ScatterND": "first = Slice(input_ids, zero, one)\nmade = ScatterND(filled, top, first)",
    "ScatterND of tokens": "first = Slice(filled, zero, one)\nmade = ScatterND(input_ids, top, first)",
}
"""Ways to add stored tokens to ids."""
PADDED = {
    "Pad": "made = Pad(input_ids, before, five)",
    "Pad with zeros": "made = Pad(input_ids, before)",
    "Pad with copies": 'made = Pad<mode = "edge">(input_ids, before)',
}
"""Ways to fill ids up to a length that attention wants (Longformer)."""


def with_stored(repeated: str, added: str) -> ModelProto:
    """A graph that adds a stored token to its ids, as often as the ids say."""
    return graph(
        f"many = Shape(input_ids)\n{repeated}\n{added}\nx = Gather(table, made)",
        more=TABLE,
        output="float[batch, many, 6] out",
        given={
            "start": np.array([[5]]),
            "three": np.array(3),
            "zero": np.array([0]),
            "one": np.array([1]),
            "top": np.array([[0]]),
        },
    )


def images_at(token: int) -> ModelProto:
    """Features replace the vectors of an id."""
    return graph(
        "is_image = Equal(input_ids, image)\nput = Where(is_image, pad, input_ids)\nwords = Gather(table, put)\n"
        "there = Unsqueeze(is_image, last)\nx = Where(there, features, words)",
        more=f"{TABLE}, int64 image = {{{token}}}, int64 pad = {{5}}, int64[1] last = {{2}}, float[1, 1, 6] features",
        output=STATES,
    )


GRAPHS = {
    **{
        f"{added} {repeated}": functools.partial(with_stored, REPEATS[repeated], ADDS[added])
        for added in ADDS
        for repeated in REPEATS
    },
    **{
        name: functools.partial(
            graph,
            f"{pad}\nx = Gather(table, made)",
            more=f"{TABLE}, int64[4] before = {{0, 2, 0, 0}}{', int64 five = {5}' if 'five' in pad else ''}",
            output="float[batch, many, 6] out",
        )
        for name, pad in PADDED.items()
    },
    "plain": lambda: graph(FRONT, more=TABLE, output=STATES),
    "tied": lambda: graph(FRONT, TIED, more=TABLE),
    "tied_with_bias": lambda: graph(
        FRONT,
        "turned = Transpose<perm = [1, 0]>(table)\nmade = MatMul(y, turned)\nout = Add(made, bias)",
        more=f"{TABLE}, float[12] bias",
    ),
    "untied_capped": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nsmall = Div(made, cap)\nbent = Tanh(small)\nout = Mul(bent, cap)",
        more=f"{TABLE}, float[6, 12] head, float cap = {{3.0}}",
    ),
    "gemm": lambda: graph(
        FRONT,
        "flat = Reshape(y, rows)\nmade = Gemm<transB = 1>(flat, table, bias)\nlike = Shape(input_ids)\n"
        "many = Concat<axis = 0>(like, wide)\nout = Reshape(made, many)",
        more=f"{TABLE}, float[12] bias, int64[2] rows = {{-1, 6}}, int64[1] wide = {{-1}}",
    ),
    "cast_ids": lambda: graph(
        "wide = Cast<to = 7>(input_ids)\nx = Gather(table, wide)",
        more=TABLE,
        output=STATES,
        inputs="int32[batch, seq] input_ids",
    ),
    "half_table": lambda: graph(
        "picked = Gather(half, input_ids)\nx = Cast<to = 1>(picked)",
        more="float16[12, 6] half",
        output=STATES,
    ),
    "int8_table": lambda: graph(
        "real = DequantizeLinear<axis = 0>(levels, scales, zeros)\nx = Gather(real, input_ids)",
        more="int8[12, 6] levels, float[12] scales, int8[12] zeros",
        output=STATES,
        given={
            "levels": np.random.default_rng(0).integers(-90, 90, (12, 6)).astype(np.int8),
            "zeros": np.arange(12).astype(np.int8),
            "scales": np.linspace(0.01, 0.03, 12).astype(np.float32),
        },
    ),
    "mask_of_ids": lambda: graph(
        FRONT,
        more=f"{TABLE}, int64 pad = {{3}}, int64[2] axes = {{1, 2}}, float low = {{-10000.0}}, float none = {{0.0}}",
        output=STATES,
        masked="is_pad = Equal(input_ids, pad)\nwhere_pad = Unsqueeze(is_pad, axes)\n"
        "bias_pad = Where(where_pad, low, none)\nseen = Add(scores, bias_pad)",
    ),
    "last_token": lambda: graph(
        FRONT,
        "at = ArgMax<axis = -1, keepdims = 1>(input_ids)\nturned = Unsqueeze(at, last)\n"
        "many = Expand(turned, wide)\nout = GatherElements<axis = 1>(y, many)",
        more=f"{TABLE}, int64[1] last = {{2}}, int64[3] wide = {{1, 1, 6}}",
        output="float[batch, one, 6] out",
    ),
    "moved_ids": lambda: graph(
        "first = Slice(input_ids, zero, most, one)\nrest = Concat<axis = 1>(start, first)\n"
        "is_free = Less(rest, low)\nput = Where(is_free, filler, rest)\nx = Gather(table, put)",
        more=f"{TABLE}, int64[1] zero = {{0}}, int64[1] most = {{-1}}, int64[1] one = {{1}}, int64 low = {{0}},"
        " int64 filler = {7}, int64[1, 1] start",
        output=STATES,
        inputs="int64[1, seq] input_ids",
        given={"start": np.array([[5]])},
    ),
    "positions": lambda: graph(
        "words = Gather(table, input_ids)\nplaces = Gather(position_table, position_ids)\n"
        "kinds = Gather(type_table, token_type_ids)\nsome = Add(words, places)\nx = Add(some, kinds)",
        more=f"{TABLE}, float[12, 6] position_table, float[2, 6] type_table",
        inputs="int64[batch, seq] input_ids, int64[batch, seq] position_ids, int64[batch, seq] token_type_ids",
        output=STATES,
    ),
    "blocks": lambda: graph(
        "x = com.microsoft.GatherBlockQuantized<bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1>"
        "(levels, input_ids, scales, zeros)",
        "wide = Pad(y, ends)\nout = com.microsoft.MatMulNBits<K = 16, N = 12, bits = 4, block_size = 16>"
        "(wide, packed, packed_scales)",
        more="uint8[12, 3] levels, float[12, 1] scales, uint8[12, 1] zeros, uint8[12, 1, 8] packed,"
        " float[12] packed_scales, int64[6] ends = {0, 0, 0, 0, 0, 10}",
        given={
            "levels": np.random.default_rng(1).integers(0, 256, (12, 3)).astype(np.uint8),
            "zeros": np.random.default_rng(2).integers(0, 16, (12, 1)).astype(np.uint8),
            "packed": np.random.default_rng(3).integers(0, 256, (12, 1, 8)).astype(np.uint8),
            "packed_scales": np.linspace(0.1, 0.2, 12).astype(np.float32),
        },
    ),
    "log_probabilities": lambda: graph(
        FRONT, "made = MatMul(y, head)\nout = LogSoftmax<axis = -1>(made)", more=f"{TABLE}, float[6, 12] head"
    ),
    "largest_over_the_text": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nfound = Relu(made)\nmore = Add(found, one)\nlog = Log(more)\n"
        "out = ReduceMax<axes = [1], keepdims = 0>(log)",
        more=f"{TABLE}, float[6, 12] head, float one = {{1.0}}",
        output="float[batch, 12] out",
    ),
    "two_tables": lambda: graph(
        "words = Gather(table, input_ids)\nall = Gather(other, input_ids)\nsplit_up = Reshape(all, layers)\n"
        "summed = ReduceSum<keepdims = 0>(split_up, last)\nx = Add(words, summed)",
        more=f"{TABLE}, float[12, 18] other, int64[4] layers = {{0, 0, 6, 3}}, int64[1] last = {{3}}",
        output=STATES,
    ),
    "smaller_second_table": lambda: graph(
        "words = Gather(table, input_ids)\nis_known = Less(input_ids, nine)\nput = Where(is_known, input_ids, filler)\n"
        "others = Gather(fewer, put)\nx = Add(words, others)",
        TIED,
        more=f"{TABLE}, float[9, 6] fewer, int64 nine = {{9}}, int64 filler = {{5}}",
    ),
    "bounded": lambda: graph(
        "is_known = Less(input_ids, rows)\nput = Where(is_known, input_ids, filler)\nx = Gather(table, put)",
        TIED,
        more=f"{TABLE}, int64 rows = {{12}}, int64 filler = {{5}}",
    ),
    "fused_embedding": lambda: graph(
        "x, index = com.microsoft.EmbedLayerNormalization(input_ids, kinds, table, places, kind_table, scale, shift)",
        TIED,
        more=f"{TABLE}, float[9, 6] places, float[2, 6] kind_table, float[6] scale, float[6] shift",
        inputs="int32[batch, seq] input_ids, int32[batch, seq] kinds",
    ),
    "images_within": lambda: images_at(10),
    "transposed": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout = Transpose<perm = [0, 2, 1]>(made)",
        more=f"{TABLE}, float[6, 12] head",
        output="float[batch, 12, seq] out",
    ),
    "convolution": lambda: graph(
        FRONT,
        "channels = Transpose<perm = [0, 2, 1]>(y)\nout = Conv(channels, kernel)",
        more=f"{TABLE}, float[12, 6, 1] kernel",
        output="float[batch, 12, seq] out",
    ),
    "wider_head": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout = Add(made, bias)",
        more=f"{TABLE}, float[6, 16] head, float[16] bias",
        output="float[batch, seq, 16] out",
    ),
    "narrower_head": lambda: graph(
        FRONT, "out = MatMul(y, head)", more=f"{TABLE}, float[6, 9] head", output="float[batch, seq, 9] out"
    ),
    "last_position_with_cache": lambda: graph(
        FRONT,
        "state = Gather<axis = 1>(y, last)\nout = MatMul(state, head)\npresent = Concat<axis = 1>(past, o)",
        more=f"{TABLE}, float[6, 12] head, int64 last = {{-1}}",
        inputs="int64[batch, seq] input_ids, float[batch, before, 6] past",
        output="float[batch, 12] out, float[batch, after, 6] present",
    ),
    "negative_ids": lambda: graph(
        "is_free = Less(input_ids, zero)\nput = Where(is_free, filler, input_ids)\nwords = Gather(table, put)\n"
        "there = Unsqueeze(is_free, last)\nx = Where(there, features, words)",
        more=f"{TABLE}, int64 zero = {{0}}, int64 filler = {{5}}, int64[1] last = {{2}}, float[1, 1, 6] features",
        output=STATES,
    ),
    "weights_of_words": lambda: graph(
        FRONT,
        "weight = MatMul(y, column)\neach = Squeeze(weight, last)\nshape = Shape<start = 0, end = 1>(input_ids)\n"
        "many = Concat<axis = 0>(shape, tokens)\nnone = ConstantOfShape(many)\n"
        "out = ScatterElements<axis = 1>(none, input_ids, each)",
        more=f"{TABLE}, float[6, 1] column, int64[1] last = {{2}}, int64[1] tokens = {{12}}",
        output="float[batch, 12] out",
    ),
    "probabilities": lambda: graph(
        FRONT, "made = MatMul(y, head)\nout = Softmax<axis = -1>(made)", more=f"{TABLE}, float[6, 12] head"
    ),
    "bag": lambda: model_of(
        f"{HEAD.format(opset=17)}g (int64[batch, seq] input_ids) => (float[batch, 6] out) <{TABLE}>"
        " { words = Gather(table, input_ids)\nout = ReduceMean<axes = [1], keepdims = 0>(words) }",
        0,
    ),
}
UNTIED = {"wider_head": "out", "narrower_head": "out"}
"""Graphs that do not show that an output is one of logits, with its name."""
IDS = "input_ids"
"""The input with token ids."""


def session(model: ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model: ModelProto | Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return session(model).run(None, feed)


def feeds(model: ModelProto, kept: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same tokens by new ids and by the original's; every kept token is there. Other inputs are small numbers."""
    random = np.random.default_rng(0)
    new: dict[str, np.ndarray] = {}
    for info in model.graph.input:
        kind = info.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        rows = kind.shape.dim[0].dim_value or 3
        new[info.name] = random.integers(0, 2, (rows, len(kept))).astype(dtype)
        if info.name == IDS:
            new[info.name] = np.stack([random.permutation(len(kept)) for _ in range(rows)]).astype(dtype)
        elif len(kind.shape.dim) > 2:
            new[info.name] = random.normal(size=(rows, 4, kind.shape.dim[2].dim_value)).astype(dtype)
    old = {name: kept[new[name]].astype(new[name].dtype) if name == IDS else new[name] for name in new}
    return new, old


def of_kept(wanted: np.ndarray, before: ModelProto, after: ModelProto, kept: np.ndarray) -> np.ndarray:
    """An output of the original, restricted to the kept tokens along the axis that got shorter."""
    shapes = [
        [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
        for model in (before, after)
    ]
    for axis, (size, left) in enumerate(zip(*shapes, strict=True)):
        if size != left:
            wanted = np.take(wanted, kept[kept < size], axis)
    return wanted
