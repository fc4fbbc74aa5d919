"""Examples of operators in addition to the strategies for liveness rules, which say too little about gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from onnx import TensorProto

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import FLOAT, STRATEGIES, Key, Strategy, floats, integers, vector

MICROSOFT, INT32 = "com.microsoft", TensorProto.INT32
EXAMPLES: dict[Key, list[Strategy]] = {}
ALIAS = "an alias whose kernel ONNX Runtime registers in another domain"
ELSEWHERE: dict[Key, str] = {
    ("", "QuantizeLinear"): "rounds, see test_quantized.py",
    ("", "DequantizeLinear"): "has no kernel in float64, see test_quantized.py",
    (MICROSOFT, "SimplifiedLayerNormalization"): ALIAS,
    (MICROSOFT, "BiasAdd"): "has no kernel on the CPU",
    (MICROSOFT, "TransposeMatMul"): "the former name of FusedMatMul",
}


def example(*op_types: str, domain: str = "") -> Callable[[Strategy], Strategy]:
    """Registers examples for operators of one domain."""

    def register(function: Strategy) -> Strategy:
        for op_type in op_types:
            EXAMPLES.setdefault((domain, op_type), []).append(function)
        return function

    return register


def examples_of(key: Key) -> list[Strategy]:
    """All examples of an operator."""
    return [*([STRATEGIES[key]] if key in STRATEGIES and key not in REPLACED else []), *EXAMPLES.get(key, [])]


REPLACED = {("", "Pad"), ("", "Attention"), ("", "Max"), ("", "Min")}


@example("Attention")
def attention_of_any_kind(draw: Draw, op_type: str) -> Case:
    """Without scores as an output, whose shape onnx infers without the past; `parts_of` leaves such a node whole."""
    case = STRATEGIES["", "Attention"](draw, op_type)
    assume("qk_matmul_output_mode" not in case.attributes)
    return case


@example("Pad")
def pad(draw: Draw, op_type: str) -> Case:
    """Without values in attributes, which onnx's converter makes float32 of."""
    case = STRATEGIES["", "Pad"](draw, op_type)
    assume(case.opset >= 11)
    return case


@example("Max", "Min")
def extremes(draw: Draw, op_type: str) -> Case:
    """Of operands that are nowhere equal, where slopes meet: two drawn from the same seed are."""
    case = STRATEGIES["", op_type](draw, op_type)
    apart = (
        np.asarray(array + np.float32(at / 97)) for at, array in enumerate(case.inputs) if array is not None
    )
    return replace(case, inputs=tuple(apart))


@example("Pow")
def powers(draw: Draw, op_type: str) -> Case:
    shape = (2, 3)
    exponent = draw(st.sampled_from((np.float32(2), np.float32(3), np.float32(0.5), None)))
    power = floats(draw, (3,), 0.5, 2.0) if exponent is None else np.array(exponent, np.float32)
    return Case(op_type, (floats(draw, shape, 0.2, 2.0), power), fixed=frozenset({1}))


@example(
    "Dropout", "Sin", "Cos", "Softplus", "Softsign", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid", "Mish"
)
def elementwise(draw: Draw, op_type: str) -> Case:
    return Case(op_type, (floats(draw, (3, 4), -4.0, 4.0),), opset=18)


@example("Gather")
def gathers(draw: Draw, op_type: str) -> Case:
    shape = draw(st.sampled_from(((5, 3), (2, 5, 3), (2, 3, 5))))
    axis = shape.index(5)
    indices = draw(st.sampled_from(((), (4,), (2, 3))))
    picked = integers(draw, indices, -5, 5)
    opset = draw(st.sampled_from((14, 18)))
    return Case(
        op_type, (floats(draw, shape), np.asarray(picked)), {"axis": axis}, frozenset({1}), opset=opset
    )


@example("MatMul")
def products(draw: Draw, op_type: str) -> Case:
    left, right = draw(
        st.sampled_from(
            (
                ((4,), (4, 3)), ((4,), (4,)), ((2, 4), (4,)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)),
                ((3, 4), (2, 4, 3)), ((4,), (2, 4, 3)), ((1, 3, 4), (2, 4, 5)),
            )
        )
    )  # fmt: skip
    return Case(op_type, (floats(draw, left), floats(draw, right)))


@example("Conv")
def convolutions(draw: Draw, op_type: str) -> Case:
    if draw(st.booleans()):
        # As in Whisper: the last window reaches into the padding, or the input farther than the last window.
        size = draw(st.sampled_from((6, 7)))
        inputs = (floats(draw, (2, 2, size)), floats(draw, (3, 2, 3)), floats(draw, (3,)))
        return Case(op_type, inputs, {"strides": [2], "pads": [1, 1]}, frozenset({1, 2}))
    groups, rank = draw(st.sampled_from((1, 1, 2))), draw(st.sampled_from((1, 2)))
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {
        "strides": strides,
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
        "pads": [draw(st.integers(0, 1)) for _ in range(2 * rank)],
        "group": groups,
    }
    sizes = [draw(st.integers(5, 8)) for _ in range(rank)]
    inputs = (
        floats(draw, (2, 2 * groups, *sizes)),
        floats(draw, (3 * groups, 2, *kernel)),
        floats(draw, (3 * groups,)),
    )
    return Case(op_type, inputs, attributes, frozenset({1, 2}))


@example("Einsum")
def equations(draw: Draw, op_type: str) -> Case:
    equation, *shapes = draw(
        st.sampled_from(
            (
                ("bhsd,bhtd->bhst", (2, 2, 3, 4), (2, 2, 5, 4)),
                ("...ij,jk->...ik", (2, 3, 4), (4, 5)),
                ("ij->j", (3, 4)),
                ("ij,ij->", (3, 4), (3, 4)),
                ("ij,k->k", (3, 4), (2,)),
            )
        )
    )
    inputs = tuple(floats(draw, shape) for shape in shapes)
    return Case(op_type, inputs, {"equation": equation})


@example("Attention")
def attention(draw: Draw, op_type: str) -> Case:
    heads, kv, size, queries, past = 4, draw(st.sampled_from((1, 2, 4))), 3, 3, draw(st.sampled_from((0, 2)))
    inputs: list[Array | None] = [floats(draw, (2, n * size and n, queries, size)) for n in (heads, kv, kv)]
    mask = draw(st.sampled_from(("none", "bool", "float")))
    seen = np.tril(np.ones((queries, queries + past), bool))
    inputs.append({"none": None, "bool": seen, "float": np.where(seen, 0, -9).astype(np.float32)}[mask])
    if past:
        inputs += [floats(draw, (2, kv, past, size)) for _ in range(2)]
    attributes = {
        "is_causal": draw(st.integers(0, 1)),
        "softcap": draw(st.sampled_from((0.0, 2.0))),
        "scale": draw(st.sampled_from((0.3, 1.0))),
    }
    types = (FLOAT,) * (3 if past else 1)
    return Case(op_type, tuple(inputs), attributes, frozenset({3}), types, opset=23)


@example("MultiHeadAttention", domain=MICROSOFT)
def multi_head(draw: Draw, op_type: str) -> Case:
    heads, size, queries, keys = 2, 4, 3, draw(st.sampled_from((3, 5)))
    causal = draw(st.integers(0, 1)) if keys == queries else 0
    inputs = [floats(draw, (2, length, heads * size)) for length in (queries, keys, keys)]
    padding = np.array([[1] * keys, [1] * (keys - 1) + [0]], np.int32)
    masks = (None, padding, np.repeat(padding[:, None], queries, 1))
    mask = masks[draw(st.sampled_from((0, 1) if causal else (0, 1, 2)))]
    bias = floats(draw, (3 * heads * size,)) if draw(st.booleans()) else None
    attributes = {"num_heads": heads, "unidirectional": causal, "scale": draw(st.sampled_from((0.0, 0.7)))}
    return Case(op_type, (*inputs, bias, mask), attributes, frozenset({3, 4}), domain=MICROSOFT)


@example("Attention", domain=MICROSOFT)
def packed(draw: Draw, op_type: str) -> Case:
    heads, queries = 2, 3
    padding = np.array([[1, 1, 1], [1, 1, 0]], np.int32)
    mask = draw(st.sampled_from((None, padding, np.array([3, 2], np.int32))))
    inputs = (floats(draw, (2, queries, 5)), floats(draw, (5, 24)), floats(draw, (24,)), mask)
    attributes = {"num_heads": heads, "unidirectional": draw(st.integers(0, 1)), "scale": 0.4}
    return Case(op_type, inputs, attributes, frozenset({1, 2, 3}), domain=MICROSOFT)


@example("GroupQueryAttention", domain=MICROSOFT)
def group_query(draw: Draw, op_type: str) -> Case:
    heads, kv, size, queries = 4, 2, 16, draw(st.integers(1, 4))
    past = draw(st.sampled_from((0, 3))) if queries == 1 else 0
    inputs: list[Array | None] = [floats(draw, (2, queries, count * size)) for count in (heads, kv, kv)]
    inputs += [floats(draw, (2, kv, past, size)) for _ in range(2)]
    inputs += [np.full((2,), past + queries - 1, np.int32), np.array(past + queries, np.int32)]
    rotary = draw(st.integers(0, 1))
    if rotary:
        inputs += [np.cos(floats(draw, (9, size // 2))), np.sin(floats(draw, (9, size // 2)))]
    attributes = {
        "num_heads": heads,
        "kv_num_heads": kv,
        "do_rotary": rotary,
        "rotary_interleaved": draw(st.integers(0, 1)),
        "local_window_size": draw(st.sampled_from((-1, 2))),
        "softcap": draw(st.sampled_from((0.0, 2.0))),
    }
    fixed = frozenset({5, 6, 7, 8})
    return Case(op_type, tuple(inputs), attributes, fixed, (FLOAT,) * 3, domain=MICROSOFT)


@example("RotaryEmbedding", domain=MICROSOFT)
@example("RotaryEmbedding")
def rotations(draw: Draw, op_type: str) -> Case:
    heads, size, length = 2, 8, 3
    four, part = draw(st.booleans()), draw(st.sampled_from((0, 4)))
    x = floats(draw, (2, heads, length, size) if four else (2, length, heads * size))
    rows = (part or size) // 2
    tables = (floats(draw, (9, rows)), floats(draw, (9, rows)))
    ids = np.array([[0, 1, 2], [3, 4, 5]], np.int64)
    attributes = {"interleaved": draw(st.integers(0, 1)), "rotary_embedding_dim": part, "num_heads": heads}
    return Case(op_type, (x, *tables, ids), attributes, frozenset({3}), opset=23)


@example("RotaryEmbedding", domain=MICROSOFT)
def microsoft_rotations(draw: Draw, op_type: str) -> Case:
    case = rotations(draw, op_type)
    x, cos, sin, ids = case.inputs
    ids = draw(st.sampled_from((ids, np.array([4], np.int64))))
    attributes = {**case.attributes}
    return Case(op_type, (x, ids, cos, sin), attributes, frozenset({1}), domain=MICROSOFT)


@example("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skips(draw: Draw, op_type: str) -> Case:
    vectors = 2 if op_type == "SkipLayerNormalization" else 1
    inputs = [floats(draw, (2, 3, 8)), floats(draw, (2, 3, 8)), *(floats(draw, (8,)) for _ in range(vectors))]
    inputs += [floats(draw, (8,))] if draw(st.booleans()) else []
    return Case(op_type, tuple(inputs), {"epsilon": 1e-3}, domain=MICROSOFT)


@example("EmbedLayerNormalization", domain=MICROSOFT)
def embeddings(draw: Draw, op_type: str) -> Case:
    ids = integers(draw, (2, 3), 0, 5, np.int32)
    kinds = integers(draw, (2, 3), 0, 2, np.int32) if draw(st.booleans()) else None
    tables = (floats(draw, (5, 8)), floats(draw, (4, 8)), None if kinds is None else floats(draw, (2, 8)))
    inputs = (ids, kinds, *tables, floats(draw, (8,)), floats(draw, (8,)))
    fixed = frozenset({0, 1})
    return Case(op_type, inputs, {"epsilon": 1e-3}, fixed, (FLOAT, INT32), domain=MICROSOFT)


@example("Slice")
def stretches(draw: Draw, op_type: str) -> Case:
    size, every = 7, draw(st.sampled_from((1, 2, 3, -1, -2)))
    start, end = draw(st.sampled_from(((0, 7), (2, 6), (-5, -1), (1, 2**62), (-100, 5))))
    if every < 0:
        start, end = draw(st.sampled_from(((6, 0), (-1, -100), (4, 1))))
    inputs = (floats(draw, (2, size, 3)), vector(start), vector(end), vector(1), vector(every))
    return Case(op_type, inputs, fixed=frozenset({3, 4}))


@example("Cast", "CastLike")
def casts(draw: Draw, op_type: str) -> Case:
    x = floats(draw, (2, 3))
    if op_type == "Cast":
        return Case(op_type, (x,), {"to": int(FLOAT)}, types=(FLOAT,))
    return Case(op_type, (x, floats(draw, (1,))))
