"""Parts of an attention block on a `GraphBuilder`, for tests that write the rest of it in many ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.graph_builder import GraphBuilder

H, D, HIDDEN = 3, 4, 6
WIDTH = H * D


def context(toy: GraphBuilder, silent: Sequence[int]) -> str:
    """[batch, H, sequence, D], some of the heads multiplied by zero."""
    split = toy.constant("split_shape", np.array([0, 0, H, D]))
    for name in "qkv":
        product = toy.node("MatMul", ["x", toy.weight(f"{name}.weight", HIDDEN, H * D)], f"{name}_product")
        toy.node("Reshape", [product, split], f"{name}_split")
        toy.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])
    toy.node("Transpose", ["k_heads"], "keys", perm=[0, 1, 3, 2])
    toy.node("Softmax", [toy.node("MatMul", ["q_heads", "keys"], "scores")], "weights", axis=-1)
    found = toy.node("MatMul", ["weights", "v_heads"], "context")
    if silent:
        mask = np.ones((1, H, 1, 1), np.float32)
        mask[:, list(silent)] = 0
        found = toy.node("Mul", [found, toy.constant("mask", mask)], "silenced")
    return found


def operands(toy: GraphBuilder, name: str = "") -> tuple[str, str, str]:
    """Queries, transposed keys and values, [batch, H, sequence, D]."""
    split = toy.constant(f"{name}split_shape", np.array([0, 0, H, D]))
    for letter in "qkv":
        product = toy.node(
            "MatMul", ["x", toy.weight(f"{name}{letter}.weight", HIDDEN, WIDTH)], f"{name}{letter}_flat"
        )
        toy.node("Reshape", [product, split], f"{name}{letter}_split")
        order = [0, 2, 3, 1] if letter == "k" else [0, 2, 1, 3]
        toy.node("Transpose", [f"{name}{letter}_split"], f"{name}{letter}_heads", perm=order)
    return f"{name}q_heads", f"{name}k_heads", f"{name}v_heads"


def attended(toy: GraphBuilder, spell: Callable[[GraphBuilder, str], str], name: str = "") -> str:
    queries, keys, values = operands(toy, name)
    scores = toy.node("MatMul", [queries, keys], f"{name}scores")
    return toy.node("MatMul", [spell(toy, scores), values], f"{name}context")


def softmax(toy: GraphBuilder, scores: str) -> str:
    return toy.node("Softmax", [scores], f"{scores}_weights", axis=-1)


def merged(toy: GraphBuilder, context: str, name: str = "") -> str:
    turned = toy.node("Transpose", [context], f"{name}turned", perm=[0, 2, 1, 3])
    return toy.node(
        "Reshape", [turned, toy.constant(f"{name}merge", np.array([0, 0, WIDTH]))], f"{name}merged"
    )


def projected(toy: GraphBuilder, context: str, name: str = "") -> str:
    return toy.node(
        "MatMul", [merged(toy, context, name), toy.weight(f"{name}o.weight", WIDTH, HIDDEN)], f"{name}y"
    )
