"""Small graphs whose tables or logits are quantized: one for each operator that multiplies or picks stored weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from onnx import ModelProto

from tests.vocabulary.graphs import FRONT, STATES, TABLE, graph

Key: TypeAlias = tuple[str, str, str]
"""Domain and name of an operator, and how it is used."""
MS = "com.microsoft"
random = np.random.default_rng(5)


def levels(*shape: int, kind: type = np.int8) -> np.ndarray:
    low, high = (-90, 90) if kind is np.int8 else (20, 230)
    return random.integers(low, high, shape).astype(kind)


def scales(*shape: int) -> np.ndarray:
    return random.uniform(0.01, 0.03, shape).astype(np.float32)


ACTIVATION = "float s = {0.04}, uint8 z = {128}"
IN = "yq = QuantizeLinear(y, s, z)"
MANY = "like = Shape(input_ids)\nmany = Concat<axis = 0>(like, wide)\nout = Reshape(made, many)"
FLAT = "int64[2] rows = {-1, 6}, int64[1] wide = {-1}"


def head(back: str, more: str, **given: np.ndarray) -> Callable[[], ModelProto]:
    """Logits by some operators, behind a table in floats."""
    opset = 21 if "<axis = 0, block_size" in back else 17
    return lambda: graph(FRONT, back, more=f"{TABLE}, {more}", opset=opset, given=given)


def front(text: str, more: str, **given: np.ndarray) -> Callable[[], ModelProto]:
    """A table that some operators read; hidden states are the output."""
    opset = 21 if "<axis = 0, block_size" in text else 17
    return lambda: graph(text, more=more, output=STATES, opset=opset, given=given)


def both(text: str, back: str, more: str, **given: np.ndarray) -> Callable[[], ModelProto]:
    """Logits by the table."""
    return lambda: graph(text, back, more=more, given=given)


def integer(columns: str) -> Callable[[], ModelProto]:
    size = (12,) if columns else ()
    return head(
        "yq, ys, yz = DynamicQuantizeLinear(y)\nsums = MatMulInteger(yq, w, yz, wz)\nreal = Cast<to = 1>(sums)\n"
        "both = Mul(ys, ws)\nmade = Mul(real, both)\nout = Add(made, bias)",
        f"uint8[6, 12] w, uint8{columns} wz, float{columns} ws, float[12] bias",
        w=levels(6, 12, kind=np.uint8),
        wz=levels(*size, kind=np.uint8),
        ws=scales(*size),
    )


def linear(columns: str) -> Callable[[], ModelProto]:
    size = (12,) if columns else ()
    return head(
        f"{IN}\nlq = QLinearMatMul(yq, s, z, w, ws, wz, os, z)\nout = DequantizeLinear(lq, os, z)",
        f"{ACTIVATION}, int8[6, 12] w, float{columns} ws, int8{columns} wz, float os = {{0.05}}",
        w=levels(6, 12),
        ws=scales(*size),
        wz=np.zeros(size, np.int8),
    )


def gemm(columns: str, rounded: bool) -> Callable[[], ModelProto]:
    size = (12,) if columns else ()
    product = f"{MS}.QGemm<transB = 1>(flat, s, z, w, ws, wz, bias"
    made = (
        f"rounded = {product}, os, z)\nmade = DequantizeLinear(rounded, os, z)"
        if rounded
        else f"made = {product})"
    )
    return head(
        f"{IN}\nflat = Reshape(yq, rows)\n{made}\n{MANY}",
        f"{ACTIVATION}, int8[12, 6] w, float{columns} ws, int8{columns} wz, int32[12] bias, float os = {{0.05}},"
        f" {FLAT}",
        w=levels(12, 6),
        ws=scales(*size),
        wz=np.zeros(size, np.int8),
        bias=levels(12).astype(np.int32),
    )


def n_bits(bits: int, flat: bool) -> Callable[[], ModelProto]:
    shape = "[12]" if flat else "[12, 1]"
    size = (12,) if flat else (12, 1)
    return head(
        f"filled = Pad(y, ends)\nout = {MS}.MatMulNBits<K = 16, N = 12, bits = {bits}, block_size = 16>"
        "(filled, w, ws, wz, , bias)",
        f"uint8[12, 1, {2 * bits}] w, float{shape} ws, uint8{shape} wz, float[12] bias,"
        " int64[6] ends = {0, 0, 0, 0, 0, 10}",
        w=levels(12, 1, 2 * bits, kind=np.uint8),
        ws=scales(*size),
        wz=random.integers(0, 2**bits, size).astype(np.uint8),
    )


def dequantized(scale: str, attributes: str, *size: int, domain: str = "") -> Callable[[], ModelProto]:
    return head(
        f"{IN}\nya = DequantizeLinear(yq, s, z)\nreal = {domain}DequantizeLinear{attributes}(w, ws, wz)\n"
        "sums = MatMul(ya, real)\nmade = Add(sums, bias)\nlq = QuantizeLinear(made, os, z)\n"
        "out = DequantizeLinear(lq, os, z)",
        f"{ACTIVATION}, int8[6, 12] w, float{scale} ws, int8{scale} wz, float[12] bias, float os = {{0.05}}",
        w=levels(6, 12),
        ws=scales(*size),
        wz=np.zeros(size, np.int8),
    )


HEADS: dict[Key, Callable[[], ModelProto]] = {
    ("", "MatMulInteger", "per tensor"): integer(""),
    ("", "MatMulInteger", "per column"): integer("[12]"),
    ("", "QLinearMatMul", "per tensor"): linear(""),
    ("", "QLinearMatMul", "per column"): linear("[12]"),
    (MS, "QGemm", "per tensor"): gemm("", rounded=False),
    (MS, "QGemm", "per column, rounded"): gemm("[12]", rounded=True),
    (MS, "DynamicQuantizeMatMul", "per tensor"): head(
        f"out = {MS}.DynamicQuantizeMatMul(y, w, ws, wz, bias)",
        "int8[6, 12] w, float ws = {0.02}, int8 wz = {3}, float[12] bias",
        w=levels(6, 12),
    ),
    (MS, "DynamicQuantizeMatMul", "per column"): head(
        f"out = {MS}.DynamicQuantizeMatMul(y, w, ws, wz, bias)",
        "int8[6, 12] w, float[12] ws, int8[12] wz, float[12] bias",
        w=levels(6, 12),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    (MS, "MatMulIntegerToFloat", "per column"): head(
        "yq, ys, yz = DynamicQuantizeLinear(y)\n"
        f"out = {MS}.MatMulIntegerToFloat(yq, w, ys, ws, yz, wz, bias)",
        "int8[6, 12] w, float[12] ws, int8[12] wz, float[12] bias",
        w=levels(6, 12),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    (MS, "MatMulNBits", "4 bits"): n_bits(4, flat=False),
    (MS, "MatMulNBits", "8 bits"): n_bits(8, flat=True),
    ("", "MatMul", "QDQ per tensor"): dequantized("", ""),
    ("", "MatMul", "QDQ per column"): dequantized("[12]", "<axis = 1>", 12),
    ("", "MatMul", "QDQ of ONNX Runtime"): dequantized("[12]", "<axis = 1>", 12, domain=f"{MS}."),
    ("", "MatMul", "QDQ in blocks"): dequantized("[2, 12]", "<axis = 0, block_size = 3>", 2, 12),
    ("", "Gemm", "QDQ"): head(
        f"flat = Reshape(y, rows)\nreal = DequantizeLinear<axis = 0>(w, ws, wz)\nb = DequantizeLinear(bias, s)\n"
        f"made = Gemm<transB = 1>(flat, real, b)\n{MANY}",
        f"int8[12, 6] w, float[12] ws, int8[12] wz, int32[12] bias, float s = {{0.01}}, {FLAT}",
        w=levels(12, 6),
        ws=scales(12),
        wz=levels(12) // 9,
        bias=levels(12).astype(np.int32),
    ),
    ("", "Einsum", "QDQ"): head(
        'real = DequantizeLinear<axis = 0>(w, ws, wz)\nout = Einsum<equation = "bsd,vd->bsv">(y, real)',
        "int8[12, 6] w, float[12] ws, int8[12] wz",
        w=levels(12, 6),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    (MS, "FusedMatMul", "QDQ"): head(
        f"real = DequantizeLinear<axis = 0>(w, ws, wz)\nout = {MS}.FusedMatMul<transB = 1, alpha = 0.5>(y, real)",
        "int8[12, 6] w, float[12] ws, int8[12] wz",
        w=levels(12, 6),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    (MS, "TransposeMatMul", "QDQ"): head(
        f"real = DequantizeLinear<axis = 0>(w, ws, wz)\nout = {MS}.TransposeMatMul<transB = 1>(y, real)",
        "int8[12, 6] w, float[12] ws, int8[12] wz",
        w=levels(12, 6),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    (MS, "FusedMatMulActivation", "capped"): head(
        f'out = {MS}.FusedMatMulActivation<activation = "Tanh">(y, w)', "float[6, 12] w"
    ),
    (MS, "FusedGemm", "capped"): head(
        f'flat = Reshape(y, rows)\nmade = {MS}.FusedGemm<transB = 1, activation = "Tanh">(flat, w, bias)\n{MANY}',
        f"float[12, 6] w, float[12] bias, {FLAT}",
    ),
}
"""Logits, by the operator that multiplies."""
LEVELS = {"w": (12, 6), "places": (9, 6), "kinds": (2, 6), "scale": (6,), "shift": (6,)}
"""What QEmbedLayerNormalization reads, each with a scale and a zero point."""


def listed(ending: str) -> str:
    return ", ".join(f"{name}{ending}" for name in LEVELS)


TABLES: dict[Key, Callable[[], ModelProto]] = {
    ("", "Gather", "of levels"): front(
        "picked = Gather(levels, input_ids)\nx = DequantizeLinear(picked, s, z)",
        "uint8[12, 6] levels, float s = {0.02}, uint8 z = {120}",
        levels=levels(12, 6, kind=np.uint8),
    ),
    ("", "Gather", "of levels with a scale of each row"): front(
        "picked = Gather(levels, input_ids)\nreal = Cast<to = 1>(picked)\nsizes = Gather(ws, input_ids)\n"
        "x = Mul(real, sizes)",
        "int8[12, 6] levels, float[12, 1] ws",
        levels=levels(12, 6),
        ws=scales(12, 1),
    ),
    ("", "Gather", "of levels with a vector of scales"): front(
        "picked = Gather(levels, input_ids)\nreal = Cast<to = 1>(picked)\nsizes = Gather(ws, input_ids)\n"
        "many = Unsqueeze(sizes, last)\nx = Mul(real, many)",
        "int8[12, 6] levels, float[12] ws, int64[1] last = {-1}",
        levels=levels(12, 6),
        ws=scales(12),
    ),
    ("", "Gather", "of three axes"): front(
        "picked = Gather(parts, input_ids)\nx = Reshape(picked, whole)", "float[12, 2, 3] parts"
    ),
    (MS, "GatherBlockQuantized", "4 bits"): front(
        f"x = {MS}.GatherBlockQuantized<bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1>"
        "(w, input_ids, ws, wz)",
        "uint8[12, 3] w, float[12, 1] ws, uint8[12, 1] wz",
        w=levels(12, 3, kind=np.uint8),
        ws=scales(12, 1),
        wz=random.integers(0, 16, (12, 1)).astype(np.uint8),
    ),
    (MS, "GatherBlockQuantized", "8 bits"): front(
        f"x = {MS}.GatherBlockQuantized<bits = 8, block_size = 16, gather_axis = 0, quantize_axis = 1>"
        "(w, input_ids, ws)",
        "uint8[12, 6] w, float[12, 1] ws",
        w=levels(12, 6, kind=np.uint8),
        ws=scales(12, 1),
    ),
    (MS, "QEmbedLayerNormalization", "words and places"): lambda: graph(
        f"x, index = {MS}.QEmbedLayerNormalization(input_ids, types, {listed('')}, , {listed('_s')}, {listed('_z')})",
        more=", ".join(
            f"uint8{list(shape)} {name}, float {name}_s, uint8 {name}_z" for name, shape in LEVELS.items()
        ),
        inputs="int32[batch, seq] input_ids, int32[batch, seq] types",
        output=STATES,
        given={name: levels(*shape, kind=np.uint8) for name, shape in LEVELS.items()}
        | {f"{name}_s": scales() for name in LEVELS}
        | {f"{name}_z": np.array(128, np.uint8) for name in LEVELS},
    ),
}
"""Hidden states, by the operator that picks rows."""
TIED: dict[str, Callable[[], ModelProto]] = {
    "dequantized first": both(
        "real = DequantizeLinear<axis = 0>(w, ws, wz)\nx = Gather(real, input_ids)",
        "turned = Transpose<perm = [1, 0]>(real)\nout = MatMul(y, turned)",
        "int8[12, 6] w, float[12] ws, int8[12] wz",
        w=levels(12, 6),
        ws=scales(12),
        wz=levels(12) // 9,
    ),
    "picked first": both(
        "picked = Gather(w, input_ids)\nx = DequantizeLinear(picked, s, z)",
        "real = DequantizeLinear(w, s, z)\nturned = Transpose<perm = [1, 0]>(real)\nout = MatMul(y, turned)",
        "int8[12, 6] w, float s = {0.02}, int8 z = {3}",
        w=levels(12, 6),
    ),
    "integers": both(
        "picked = Gather(w, input_ids)\nx = DequantizeLinear(picked, s, z)",
        "turned = Transpose<perm = [1, 0]>(w)\nyq, ys, yz = DynamicQuantizeLinear(y)\n"
        "sums = MatMulInteger(yq, turned, yz, z)\nreal = Cast<to = 1>(sums)\nboth = Mul(ys, s)\nout = Mul(real, both)",
        "uint8[12, 6] w, float s = {0.02}, uint8 z = {120}",
        w=levels(12, 6, kind=np.uint8),
    ),
    "blocks": both(
        "rows = Reshape(w, flat)\nsizes = Reshape(ws, columns)\n"
        f"wide = {MS}.GatherBlockQuantized<bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1>"
        "(rows, input_ids, sizes)\nx = Slice(wide, from, to, last)",
        f"filled = Pad(y, ends)\nout = {MS}.MatMulNBits<K = 16, N = 12, bits = 4, block_size = 16>(filled, w, ws)",
        "uint8[12, 1, 8] w, float[12] ws, int64[2] flat = {12, 8}, int64[2] columns = {12, 1},"
        " int64[1] from = {0}, int64[1] to = {6}, int64[1] last = {2}, int64[6] ends = {0, 0, 0, 0, 0, 10}",
        w=levels(12, 1, 8, kind=np.uint8),
        ws=scales(12),
    ),
}
"""Logits by the same stored levels as the table's."""
BLOCKED: dict[str, Callable[[], ModelProto]] = {
    "DequantizeLinear": front(
        "real = DequantizeLinear<axis = 0, block_size = 4>(w, ws, wz)\nx = Gather(real, input_ids)",
        "int8[12, 6] w, float[3, 6] ws, int8[3, 6] wz",
        w=levels(12, 6),
        ws=scales(3, 6),
        wz=np.zeros((3, 6), np.int8),
    ),
    "GatherBlockQuantized": front(
        f"x = {MS}.GatherBlockQuantized<block_size = 16, gather_axis = 0, quantize_axis = 0>(w, input_ids, ws)",
        "uint8[24, 3] w, float[2, 6] ws",
        w=levels(24, 3, kind=np.uint8),
        ws=scales(2, 6),
    ),
}
"""A scale belongs to several tokens."""
