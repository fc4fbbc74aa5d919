"""Attention blocks whose core is written as ONNX text, so that every way of writing one is a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto

from tests.graph_text import model_of

HEADS, SIZE, HIDDEN = 4, 8, 24
WIDTH = HEADS * SIZE
EAGER = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    p = Softmax<axis=-1>(scaled)
    context = MatMul(p, v)
"""
MASKED = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Div(raw, root)
    masked = Add(scaled, mask)
    p = Softmax<axis=-1>(masked)
    context = MatMul(p, v)
"""
MERGE = """
    back = Transpose<perm=[0, 2, 1, 3]>(context)
    merged = Reshape(back, merge)
"""
KEY_MASK = "float[batch, 1, 1, sequence] mask"
FULL_MASK = "float[batch, 1, sequence, sequence] mask"
CONDITION = "bool[batch, 1, sequence, sequence] visible"


def block(
    core: str,
    *,
    inputs: str = "",
    outputs: str = "",
    kv_heads: int = HEADS,
    merge: str = MERGE,
    dtype: Any = np.float32,
    opset: int = 17,
    split: bool = True,
    v_size: int = SIZE,
    numbers: dict[str, Any] | None = None,
) -> ModelProto:
    """`x [batch, sequence, HIDDEN]` -> `y`, with an attention in the middle.

    Args:
        core: nodes from `q, k, v [batch, heads, sequence, SIZE]` to `context`.
        inputs, outputs: further graph inputs and outputs, as text.
        kv_heads: heads of `k` and `v`.
        merge: nodes from `context` to `merged [batch, sequence, WIDTH]`.
        dtype: of all floats.
        opset: of the model.
        split: whether `q, k, v` are split into heads; if not, they are `[batch, sequence, WIDTH]`.
        v_size: width of a value head.
        numbers: further constants by name.
    """
    name = {"float32": "float", "float16": "float16", "float64": "double"}[np.dtype(dtype).name]
    widths = {"q": HEADS * SIZE, "k": kv_heads * SIZE, "v": kv_heads * v_size}
    projected = "\n".join(
        f"{letter}_product = MatMul(x, w{letter})\n"
        f"{letter if not split else letter + '_flat'} = Add({letter}_product, b{letter})"
        for letter in widths
    )
    views = "\n".join(
        f"{letter}_split = Reshape({letter}_flat, split_{letter})\n"
        f"{letter} = Transpose<perm=[0, 2, 1, 3]>({letter}_split)"
        for letter in widths
    )
    text = f"""
    <ir_version: {11 if opset >= 23 else 9}, opset_import: ["": {opset}]>
    block ({name}[batch, sequence, {HIDDEN}] x{", " + inputs if inputs else ""})
        => ({name}[batch, sequence, {HIDDEN}] y{", " + outputs if outputs else ""}) {{
    {projected}
    {views if split else ""}
    {core}
    {merge}
    projected = MatMul(merged, wo)
    y = Add(x, projected)
    }}"""
    random = np.random.default_rng(0)
    stored: dict[str, Any] = {
        "wo": random.standard_normal((HEADS * v_size, HIDDEN)).astype(dtype),
        "scale": np.array(1 / np.sqrt(SIZE), dtype),
        "root": np.array(np.sqrt(SIZE), dtype),
        "merge": np.array([0, 0, HEADS * v_size]),
        "split_q": np.array([0, 0, HEADS, SIZE]),
        "split_k": np.array([0, 0, kv_heads, SIZE]),
        "split_v": np.array([0, 0, kv_heads, v_size]),
        **(numbers or {}),
    }
    for letter, width in widths.items():
        stored[f"w{letter}"] = (0.4 * random.standard_normal((HIDDEN, width))).astype(dtype)
        stored[f"b{letter}"] = (0.4 * random.standard_normal(width)).astype(dtype)
    return model_of(text.replace("float[", f"{name}["), given=stored)


def feed(
    model: ModelProto, batch: int = 2, sequence: int = 5, dtype: Any = np.float32, whole_rows: bool = True
) -> dict[str, Any]:
    """Inputs for a block; masks hide the last key, and all keys from the first query.

    Without `whole_rows` every query sees a key. What a row is that sees none depends in half precision on where
    a runtime rounds.
    """
    random = np.random.default_rng(1)
    made: dict[str, Any] = {"x": random.standard_normal((batch, sequence, HIDDEN)).astype(dtype)}
    lowest = np.finfo(dtype).min
    sizes = {"batch": batch, "sequence": sequence, "other": sequence, "past": 3, "total": 3 + sequence}
    for item in model.graph.input:
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in item.type.tensor_type.shape.dim]
        if item.name == "mask":
            mask = np.zeros(shape, dtype)
            mask[..., -1] = lowest
            if whole_rows:
                mask[..., 0, :] = lowest
            made["mask"] = mask
        elif item.name == "visible":
            visible = np.ones(shape, bool)
            visible[0, ..., -1] = False
            visible[-1, :, 0] = not whole_rows
            made["visible"] = visible
        elif item.name not in made:
            made[item.name] = random.standard_normal(shape).astype(dtype)
    return made
