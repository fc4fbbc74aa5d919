"""The table of strategies, one per operator that has a liveness rule, and the small draws they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case

Strategy: TypeAlias = Callable[[Draw, str], Case]
Key: TypeAlias = tuple[str, str]

STRATEGIES: dict[Key, Strategy] = {}
EXEMPT: dict[Key, str] = {
    ("com.microsoft", "FusedMatMulActivation"): "only DirectML has a kernel",
    ("com.microsoft", "MoE"): "its kernel overwrites tokens that nobody else reads; QMoE has the same law",
    ("com.microsoft", "PackedAttention"): "only CUDA has a kernel",
    ("com.microsoft", "PackedMultiHeadAttention"): "only CUDA has a kernel",
    ("", "LinearAttention"): "no runtime has a kernel, see test_onnx_attention.py",
    ("", "CausalConvWithState"): "no runtime has a kernel; the rule is that of com.microsoft",
    ("ai.onnx.preview", "FlexAttention"): "no runtime has a kernel, see test_onnx_attention.py",
    ("com.microsoft", "SparseAttention"): "past and present must share a buffer, which needs I/O binding",
    ("", "DynamicQuantizeLinear"): "exact only ahead of a projection, see test_rule_pairs.py",
    (
        "com.microsoft",
        "SimplifiedLayerNormalization",
    ): "ONNX Runtime registers its kernel in the domain ai.onnx",
}
"""Operators that no one-node model can show or run here, with the reason."""

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def strategy(*op_types: str, domain: str = "") -> Callable[[Strategy], Strategy]:
    """Registers a strategy for operators of one domain."""

    def register(function: Strategy) -> Strategy:
        for op_type in op_types:
            assert (domain, op_type) not in STRATEGIES, f"two strategies for {op_type}"
            STRATEGIES[(domain, op_type)] = function
        return function

    return register


def draw_shape(draw: Draw, low: int = 2, high: int = 4) -> tuple[int, ...]:
    """A shape of small, often equal dimensions."""
    return tuple(draw(st.lists(st.sampled_from((2, 4, 3, 4, 1)), min_size=low, max_size=high)))


def floats(draw: Draw, shape: Sequence[int], low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers that differ almost surely, so that no wrong index can hide."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.uniform(low, high, shape).astype(np.float32)


def integers(draw: Draw, shape: Sequence[int], low: int, high: int, dtype: type = np.int64) -> Array:
    """Integers of `[low, high)`."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.integers(low, high, shape).astype(dtype)


def vector(*numbers: int) -> Array:
    """A one-dimensional shape or list of axes."""
    return np.array(numbers, dtype=np.int64)


def broadcastable(draw: Draw, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`: leading axes dropped, others of size 1."""
    offset = draw(st.integers(0, len(shape))) if draw(st.integers(0, 2)) == 0 else 0
    return tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in shape[offset:])


def batch_axis(draw: Draw, shape: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Sometimes: axis 0 of input 0 is known only by name."""
    return {0: (0,)} if shape and draw(st.booleans()) else {}


def signed(draw: Draw, axis: int, rank: int) -> int:
    """The axis, sometimes counted from the end."""
    return axis - rank if draw(st.booleans()) else axis
