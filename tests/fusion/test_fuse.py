"""Every way of writing an attention, fused and run beside the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.fusion.result import FuseMode
from tests.fusion.blocks import CONDITION, EAGER, FULL_MASK, HEADS, KEY_MASK, MASKED, SIZE, WIDTH, block, feed
from tests.fusion.running import assert_same, executed, fused

MODES: tuple[FuseMode, ...] = ("contrib", "onnx")
SPLIT_SCALE = """
    half = Sqrt(scale)
    q2 = Mul(q, half)
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    k2 = Mul(kt, half)
    raw = MatMul(q2, k2)
"""
"""The scale in two halves, as `scaled_dot_product_attention` is exported."""
BY_SIZE = """
    seen = Shape(q)
    size = Gather(seen, three)
    width = Cast<to=1>(size)
    divisor = Sqrt(width)
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Div(raw, divisor)
    p = Softmax<axis=-1>(scaled)
    context = MatMul(p, v)
"""
NAN_TO_ZERO = f"""
    {SPLIT_SCALE}
    hidden = Where(visible, zero, minus)
    masked = Add(raw, hidden)
    soft = Softmax<axis=-1>(masked)
    strange = IsNaN(soft)
    p = Where(strange, zero, soft)
    context = MatMul(p, v)
"""
FILLED = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    masked = Where(visible, scaled, lowest)
    p = Softmax<axis=-1>(masked)
    context = MatMul(p, v)
"""
FILLED_INVERSE = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    covered = Not(visible)
    masked = Where(covered, lowest, scaled)
    p = Softmax<axis=-1>(masked)
    context = MatMul(p, v)
"""
BIASED_TWICE = """
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    moved = Sub(raw, position)
    scaled = Mul(moved, scale)
    masked = Add(mask, scaled)
    p = Softmax<axis=-1>(masked)
    context = MatMul(p, v)
"""
EINSUM = """
    raw = Einsum<equation="bhid,bhjd->bhij">(q, k)
    scaled = Mul(raw, scale)
    p = Softmax<axis=-1>(scaled)
    context = Einsum<equation="bhij,bhjd->bhid">(p, v)
"""
BATCHED_HEADS = """
    length = Shape<start=2, end=3>(q)
    joined = Concat<axis=0>(open, length, eight)
    heads = Concat<axis=0>(open, four, length, length)
    together = Concat<axis=0>(open, length, length)
    back4 = Concat<axis=0>(open, four, length, eight)
    q3 = Reshape(q, joined)
    k3 = Reshape(k, joined)
    v3 = Reshape(v, joined)
    kt = Transpose<perm=[0, 2, 1]>(k3)
    raw = MatMul(q3, kt)
    scaled = Mul(raw, scale)
    apart = Reshape(scaled, heads)
    masked = Add(apart, mask)
    soft = Softmax<axis=-1>(masked)
    p = Reshape(soft, together)
    ctx3 = MatMul(p, v3)
    context = Reshape(ctx3, back4)
"""
"""Batch and heads in one axis, as `nn.MultiheadAttention` has it; the mask is added with them apart."""
REPEATED = """
    k5 = Unsqueeze(k, two)
    kx = Expand(k5, twice)
    kr = Reshape(kx, spread)
    v5 = Unsqueeze(v, two)
    vx = Expand(v5, twice)
    vr = Reshape(vx, spread)
    kt = Transpose<perm=[0, 1, 3, 2]>(kr)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    masked = Add(scaled, mask)
    p = Softmax<axis=-1>(masked)
    context = MatMul(p, vr)
"""
REPEATED_NUMBERS = {
    "two": np.array([2]),
    "twice": np.array([1, 1, 2, 1, 1]),
    "spread": np.array([0, HEADS, -1, SIZE]),
}
CACHED = """
    present_key = Concat<axis=2>(past_key, k)
    present_value = Concat<axis=2>(past_value, v)
    kt = Transpose<perm=[0, 1, 3, 2]>(present_key)
    raw = MatMul(q, kt)
    scaled = Mul(raw, scale)
    p = Softmax<axis=-1>(scaled)
    context = MatMul(p, present_value)
"""
CACHED_NAN_TO_ZERO = f"""
    present_key = Concat<axis=2>(past_key, k)
    present_value = Concat<axis=2>(past_value, v)
    {NAN_TO_ZERO.replace("(k)", "(present_key)").replace("(p, v)", "(p, present_value)")}
"""
PAST = f"float[batch, {HEADS}, past, {SIZE}] past_key, float[batch, {HEADS}, past, {SIZE}] past_value"
PRESENT = (
    f"float[batch, {HEADS}, total, {SIZE}] present_key, float[batch, {HEADS}, total, {SIZE}] present_value"
)
CONDITION_OF_ALL = "bool[batch, 1, sequence, total] visible"
LOWEST = {"lowest": np.float32(np.finfo(np.float32).min)}
INFINITE = {"zero": np.float32(0), "minus": np.float32(-np.inf)}
LOW = {"zero": np.float32(0), "minus": LOWEST["lowest"]}
"""A softmax of such rows is a number after all, so that nothing of them is made zero."""
POSITION = {"position": np.random.default_rng(2).standard_normal((1, HEADS, 1, 1)).astype(np.float32)}
JOINED = {
    "open": np.array([-1]),
    "four": np.array([HEADS]),
    "eight": np.array([SIZE]),
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "eager": (EAGER, {}),
    "key-mask": (MASKED, {"inputs": KEY_MASK}),
    "full-mask": (MASKED, {"inputs": FULL_MASK}),
    "mask-of-heads": (MASKED, {"inputs": f"float[1, {HEADS}, sequence, sequence] mask"}),
    "mask-of-rank-two": (MASKED, {"inputs": "float[sequence, sequence] mask"}),
    "mask-of-unknown-length": (MASKED, {"inputs": "float[batch, 1, sequence, other] mask"}),
    "split-scale": (SPLIT_SCALE + "p = Softmax<axis=-1>(raw)\ncontext = MatMul(p, v)", {}),
    "scale-from-shape": (BY_SIZE, {"numbers": {"three": np.int64(3)}}),
    "nan-to-zero": (NAN_TO_ZERO, {"inputs": CONDITION, "numbers": INFINITE}),
    "low-nan-to-zero": (NAN_TO_ZERO, {"inputs": CONDITION, "numbers": LOW}),
    "cached-nan-to-zero": (
        CACHED_NAN_TO_ZERO,
        {"inputs": f"{PAST}, {CONDITION_OF_ALL}", "outputs": PRESENT, "numbers": INFINITE},
    ),
    "cached-low-nan-to-zero": (
        CACHED_NAN_TO_ZERO,
        {"inputs": f"{PAST}, {CONDITION_OF_ALL}", "outputs": PRESENT, "numbers": LOW},
    ),
    "filled": (FILLED, {"inputs": CONDITION, "numbers": LOWEST}),
    "filled-inverse": (FILLED_INVERSE, {"inputs": CONDITION, "numbers": LOWEST}),
    "biased-twice": (BIASED_TWICE, {"inputs": KEY_MASK, "numbers": POSITION}),
    "einsum": (EINSUM, {}),
    "batched-heads": (BATCHED_HEADS, {"inputs": KEY_MASK, "numbers": JOINED}),
    "wide-values": (EAGER, {"v_size": 12}),
    "grouped": (REPEATED, {"inputs": KEY_MASK, "kv_heads": 2, "numbers": REPEATED_NUMBERS}),
    "grouped-without-mask": (
        REPEATED.replace("masked = Add(scaled, mask)", "masked = Identity(scaled)"),
        {"kv_heads": 2, "numbers": REPEATED_NUMBERS},
    ),
    "multi-query": (MASKED, {"inputs": KEY_MASK, "kv_heads": 1}),
    "cached": (CACHED, {"inputs": PAST, "outputs": PRESENT}),
}


def ort_version() -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def build(name: str) -> ModelProto:
    core, options = CASES[name]
    return block(core, **options)


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in CASES if "nan-to-zero" in name or "filled" in name])
def test_rows_without_a_visible_key_are_as_in_the_original(name: str, mode: FuseMode) -> None:
    """Left padding leaves the first tokens of a causal model nothing to attend to.

    A softmax of minus infinities is no number and made zeros, one of lowest numbers is the mean of all values.
    """
    model = build(name)
    result, fusion = fused(model, mode)
    assert fusion.sites[0].operator
    feeds = feed(model)
    condition = next(value for value in feeds.values() if value.dtype == np.bool_)
    condition[..., 0, :], condition[..., 1, :] = True, False
    assert_same(model, result, feeds)


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_a_fused_block_equals_the_original(name: str, mode: FuseMode, tmp_path: Path) -> None:
    model = build(name)
    result, fusion = fused(model, mode)
    assert [site.operator != "" for site in fusion.sites] == [True], str(fusion)
    if fusion.sites[0].operator == "GroupQueryAttention" and ort_version() < (1, 29):
        pytest.skip("before 1.29 ONNX Runtime runs no GroupQueryAttention without present outputs")
    assert_same(model, result, feed(model))
    if "mask-of" not in name:
        assert_same(model, result, feed(model, batch=1, sequence=5))
    operators = executed(result, tmp_path)
    assert operators[fusion.sites[0].operator] == 1
    assert operators["Softmax"] == 0
    assert sum(operators[kind] for kind in ("MatMul", "FusedMatMul")) <= 4


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_a_fused_block_has_the_same_site(name: str, mode: FuseMode) -> None:
    """What is fused can still be pruned: heads, groups and channels are found again."""
    model = build(name)
    before, after = inspect(model)[0], inspect(fused(model, mode)[0])[0]
    assert (after.num_heads, after.kv_num_heads) == (before.num_heads, before.kv_num_heads)
    assert after.groups == before.groups
    assert after.removable == before.removable
    assert after.projections[0].channels == before.projections[0].channels


@pytest.mark.parametrize("mode", MODES)
def test_a_softmax_in_float_within_half_precision(mode: FuseMode) -> None:
    core = """
        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        raw = MatMul(q, kt)
        wide = Cast<to=1>(raw)
        scaled = Mul(wide, wide_scale)
        masked = Add(scaled, wide_mask)
        soft = Softmax<axis=-1>(masked)
        p = Cast<to=10>(soft)
        context = MatMul(p, v)
    """
    mask = np.zeros((5, 5), np.float32)
    mask[:, 3] = np.finfo(np.float32).min
    numbers = {"wide_scale": np.float32(1 / np.sqrt(SIZE)), "wide_mask": mask}
    model = block(core, dtype=np.float16, numbers=numbers)
    result, fusion = fused(model, mode)
    assert fusion.made
    assert_same(model, result, feed(model, dtype=np.float16, whole_rows=False))


ALL_VISIBLE = """
    size = Shape<start=0, end=1>(x)
    goal = Concat<axis=0>(size, ones3)
    seen = Expand(true, goal)
    hidden = Where(seen, zero, minus)
    kt = Transpose<perm=[0, 1, 3, 2]>(k)
    raw = MatMul(q, kt)
    masked = Add(raw, hidden)
    filled = Where(seen, masked, minus)
    soft = Softmax<axis=-1>(filled)
    strange = IsNaN(soft)
    p = Where(strange, zero, soft)
    context = MatMul(p, v)
"""


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_that_masks_nothing_is_left_out(value: bool) -> None:
    numbers = {**INFINITE, "ones3": np.array([1, 1, 1]), "true": np.full((1, 1, 1, 1), value)}
    model = block(ALL_VISIBLE, numbers=numbers)
    result, fusion = fused(model, "contrib")
    assert fusion.made
    (node,) = (node for node in result.graph.node if node.op_type == "MultiHeadAttention")
    assert len(node.input) == (3 if value else 6)
    assert ("IsNaN" in [node.op_type for node in result.graph.node]) is not value
    if value:
        assert_same(model, result, feed(model))


def test_one_expanded_mask_serves_all_layers() -> None:
    two = block(MASKED + MERGE_INTO_X, inputs=KEY_MASK, merge="")
    result, fusion = fused(two, "contrib")
    assert len(fusion.made) == 2
    assert [node.op_type for node in result.graph.node].count("Expand") == 1
    assert_same(two, result, feed(two))


MERGE_INTO_X = """
    back_a = Transpose<perm=[0, 2, 1, 3]>(context)
    merged_a = Reshape(back_a, merge)
    out_a = MatMul(merged_a, wo)
    x_a = Add(x, out_a)
    qa_product = MatMul(x_a, wq)
    qa_split = Reshape(qa_product, split_q)
    qa = Transpose<perm=[0, 2, 1, 3]>(qa_split)
    va_product = MatMul(x_a, wv)
    va_split = Reshape(va_product, split_v)
    va = Transpose<perm=[0, 2, 1, 3]>(va_split)
    ka = Transpose<perm=[0, 1, 3, 2]>(qa)
    raw_a = MatMul(qa, ka)
    masked_a = Add(raw_a, mask)
    p_a = Softmax<axis=-1>(masked_a)
    context_a = MatMul(p_a, va)
    back_b = Transpose<perm=[0, 2, 1, 3]>(context_a)
    merged = Reshape(back_b, merge)
"""


def test_heads_sit_side_by_side() -> None:
    assert WIDTH == HEADS * SIZE
