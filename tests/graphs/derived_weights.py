"""Attention whose output projection follows from stored tensors, in every way that exporters and quantizers write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from tests.graph_text import model_of

WIDTH, HEAD = 12, 3
RANDOM = np.random.default_rng(3)
STORED: dict[str, Any] = {
    "w": RANDOM.integers(-100, 100, (WIDTH, WIDTH)).astype(np.int8),
    "w4": RANDOM.integers(0, 200, (4, HEAD, WIDTH)).astype(np.uint8),
    "f": (0.3 * RANDOM.standard_normal((WIDTH, WIDTH))).astype(np.float32),
    "h": (0.3 * RANDOM.standard_normal((WIDTH, WIDTH))).astype(np.float16),
    "d": (0.1 * RANDOM.standard_normal((WIDTH, WIDTH))).astype(np.float32),
    "sparse": (RANDOM.standard_normal((WIDTH, WIDTH)) * RANDOM.integers(0, 2, WIDTH)).astype(np.float32),
    "mask": RANDOM.integers(0, 2, (WIDTH, WIDTH)).astype(np.float32),
    "scale": RANDOM.uniform(0.002, 0.005, WIDTH).astype(np.float32),
    "one": np.float32(0.003),
    "step": np.float32(300),
    "zero": np.float32(90),
    "whole": np.int32(-7),
    "target": np.array([WIDTH, WIDTH]),
    "left": (0.3 * RANDOM.standard_normal((WIDTH, 2))).astype(np.float32),
    "right": (0.3 * RANDOM.standard_normal((2, WIDTH))).astype(np.float32),
    "top": (0.3 * RANDOM.standard_normal((7, WIDTH))).astype(np.float32),
    "bottom": (0.3 * RANDOM.standard_normal((5, WIDTH))).astype(np.float32),
    "order": RANDOM.permutation(WIDTH),
    "axis": np.array([0]),
    "start": np.array([2]),
    "end": np.array([2 + WIDTH]),
    "long": (0.3 * RANDOM.standard_normal((WIDTH + 5, WIDTH))).astype(np.float32),
    "twice": np.array([2, 1]),
    "half": (0.3 * RANDOM.standard_normal((WIDTH // 2, WIDTH))).astype(np.float32),
    "blocks": RANDOM.uniform(0.002, 0.005, (WIDTH // 4, WIDTH)).astype(np.float32),
}
WRITABLE = {
    "scaled levels": "c = Cast<to = 1>(w)  o = Mul(c, scale)",
    "scale in front": "c = Cast<to = 1>(w)  o = Mul(one, c)",
    "divided levels": "c = Cast<to = 1>(w)  o = Div(c, step)",
    "zero point taken off": "r = Reshape(w4, target) c = Cast<to = 1>(r)  z = Sub(c, zero)  o = Mul(z, scale)",
    "subtracted from": "r = Reshape(w4, target) c = Cast<to = 1>(r)  z = Sub(zero, c)  o = Mul(z, scale)",
    "whole zero point": "i = Cast<to = 6>(w)  z = Add(i, whole)  c = Cast<to = 1>(z)  o = Mul(c, scale)",
    "scales multiplied": "c = Cast<to = 1>(w)  s = Mul(one, scale)  o = Mul(c, s)",
    "scaled and turned": "c = Cast<to = 1>(w)  s = Mul(c, scale)  o = Transpose<perm = [1, 0]>(s)",
    "dequantized by what is computed": "s = Mul(one, scale)  o = DequantizeLinear<axis = 1>(w, s)",
    "dequantized in blocks": "o = DequantizeLinear<axis = 0, block_size = 4>(w, blocks)",
    "half precision": "c = Cast<to = 1>(h)  o = Identity(c)",
    "floats scaled": "o = Mul(f, scale)",
    "put together with a second matrix": "o = Add(f, d)",
    "with an adapter": "a = MatMul(left, right)  o = Add(f, a)",
    "views": "u = Unsqueeze(f, axis)  s = Squeeze(u, axis)  n = Flatten<axis = 1>(s)  o = Reshape(n, target)",
}
"""Ways that can be gone back, ONNX text: the weights are o."""
READABLE = {
    "masked": "o = Mul(sparse, mask)",
    "joined": "o = Concat<axis = 0>(top, bottom)",
    "cut out": "o = Slice(long, start, end)",
    "reordered": "o = Gather<axis = 0>(f, order)",
    "low rank": "o = MatMul(left, right)",
    "repeated": "o = Tile(half, twice)",
    "squared": "o = Mul(f, f)",
    "divided by its norm": "n = ReduceL2<axes = [0], keepdims = 1>(f)  o = Div(f, n)",
    "levels that wrap": "z = Sub(w, w)  c = Cast<to = 1>(z)  s = Add(c, f)  n = Neg(s)  o = Abs(n)",
}
"""Ways that can only be gone forward."""
WAYS = WRITABLE | READABLE


def network(way: str) -> ModelProto:
    """A block of attention with 4 heads, whose output projection follows from stored tensors in some way."""
    opset = 21 if "block_size" in way else 17
    weights = "".join(f"float[{WIDTH}, {WIDTH}] w_{name}, " for name in "qkv")
    text = f"""<ir_version: 10, opset_import: ["": {opset}]>
        block (float[batch, sequence, {WIDTH}] x) => (float[batch, sequence, {WIDTH}] y)
        <{weights}int64[4] split = {{0, 0, 4, {HEAD}}}, int64[3] flat = {{0, 0, {WIDTH}}}> {{
            q = MatMul(x, w_q)  q4 = Reshape(q, split)  q_bhsd = Transpose<perm = [0, 2, 1, 3]>(q4)
            k = MatMul(x, w_k)  k4 = Reshape(k, split)  k_bhds = Transpose<perm = [0, 2, 3, 1]>(k4)
            v = MatMul(x, w_v)  v4 = Reshape(v, split)  v_bhsd = Transpose<perm = [0, 2, 1, 3]>(v4)
            scores = MatMul(q_bhsd, k_bhds)  p = Softmax<axis = -1>(scores)  context = MatMul(p, v_bhsd)
            turned = Transpose<perm = [0, 2, 1, 3]>(context)  merged = Reshape(turned, flat)
            {way}
            out = MatMul(merged, o)  y = Add(x, out)
        }}"""
    return model_of(text, given=STORED)


def computed(model: ModelProto, name: str) -> Any:
    """What ONNX Runtime makes of a value of a model."""
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.add(name=name)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros((1, 2, WIDTH), np.float32)})[0]
