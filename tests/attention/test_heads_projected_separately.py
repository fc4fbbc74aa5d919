"""Heads picked one by one and projected apart, however their results are joined: equal to a mask at the core.

The mask is a multiplication that the builder puts behind the attention itself, so it knows nothing of what the
package takes for a site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.toy_parts import HIDDEN, D, H, context
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import run

Join = Callable[[GraphBuilder, list[str]], str]
CUTS: tuple[tuple[int, ...], ...] = ((2,), (0, 1), (0, 1, 2))


def gathered(toy: GraphBuilder, found: str, head: int) -> str:
    index = toy.constant(f"index{head}", np.array(head if head else -H))
    return toy.node("Gather", [found, index], f"head{head}", axis=1)


def sliced(toy: GraphBuilder, found: str, head: int) -> str:
    bounds = [
        toy.constant(f"{n}{head}", np.array([i]))
        for n, i in (("start", head), ("end", head + 1), ("axis", 1))
    ]
    piece = toy.node("Slice", [found, *bounds], f"slice{head}")
    return toy.node("Squeeze", [piece, bounds[2]], f"head{head}")


def projected(toy: GraphBuilder, head: int, bias: bool) -> str:
    made = toy.node("MatMul", [f"head{head}", toy.weight(f"o{head}.weight", D, HIDDEN)], f"product{head}")
    return toy.node("Add", [made, toy.weight(f"o{head}.bias", HIDDEN)], f"biased{head}") if bias else made


def normed(toy: GraphBuilder, value: str, name: str) -> str:
    return toy.node("LayerNormalization", [value, toy.weight(f"{name}.gain", HIDDEN)], name, axis=-1)


def folded(op_type: str) -> Join:
    def join(toy: GraphBuilder, parts: list[str]) -> str:
        total = parts[0]
        for number, part in enumerate(parts[1:]):
            total = toy.node(op_type, [total, part], f"{op_type}{number}")
        return total

    return join


def at_once(op_type: str) -> Join:
    return lambda toy, parts: toy.node(op_type, parts, op_type)


def normed_each(toy: GraphBuilder, parts: list[str]) -> str:
    return toy.node("Sum", [normed(toy, part, f"norm{i}") for i, part in enumerate(parts)], "sum")


def normed_sum(toy: GraphBuilder, parts: list[str]) -> str:
    return normed(toy, folded("Add")(toy, parts), "norm")


def normed_stream(toy: GraphBuilder, parts: list[str]) -> str:
    stream = "x"
    for number, part in enumerate(parts):
        stream = normed(toy, toy.node("Add", [stream, part], f"stream{number}"), f"norm{number}")
    return stream


def joined(toy: GraphBuilder, parts: list[str]) -> str:
    side = toy.node("Concat", parts, "side_by_side", axis=-1)
    return toy.node("MatMul", [side, toy.weight("mix", H * HIDDEN, HIDDEN)], "mixed")


def stacked(toy: GraphBuilder, parts: list[str]) -> str:
    axis = toy.constant("first", np.array([0]))
    rows = [toy.node("Unsqueeze", [part, axis], f"row{i}") for i, part in enumerate(parts)]
    return toy.node("ReduceMax", [toy.node("Concat", rows, "stack", axis=0)], "most", axes=[0], keepdims=0)


JOINS: dict[str, Join] = {
    "add": folded("Add"),
    "sub": folded("Sub"),
    "mul": folded("Mul"),
    "sum": at_once("Sum"),
    "mean": at_once("Mean"),
    "max": at_once("Max"),
    "each normalised": normed_each,
    "sum normalised": normed_sum,
    "one after the other": normed_stream,
    "concatenated": joined,
    "stacked": stacked,
}


def build(pick: Any, join: Join, bias: bool, silent: Sequence[int] = (), size: Any = "batch") -> ModelProto:
    toy = GraphBuilder()
    found = context(toy, silent)
    for head in range(H):
        pick(toy, found, head)
    total = join(toy, [projected(toy, head, bias) for head in range(H)])
    toy.node("Add", [total, "x"], "y")
    info = [size, "sequence" if size == "batch" else 5, HIDDEN]
    return toy.model([toy.info("x", info)], [toy.info("y", info)])


@pytest.mark.each_choice
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("pick", [gathered, sliced])
@pytest.mark.parametrize("name", JOINS)
def test_a_projection_of_one_head_goes_with_it(name: str, pick: Any, bias: bool) -> None:
    feed = {"x": np.random.default_rng(1).standard_normal((2, 5, HIDDEN)).astype(np.float32)}
    model = build(pick, JOINS[name], bias)
    (site,) = inspect(model)
    assert (site.num_heads, site.removable) == (H, True)
    whole = run(model, feed)["y"]
    for gone in CUTS:
        want = run(build(pick, JOINS[name], bias, gone), feed)["y"]
        assert not np.allclose(want, whole, atol=1e-3)
        pruned = apply_plan(analyse(model, {0: gone}, "apart").plan, model)
        np.testing.assert_allclose(run(pruned, feed)["y"], want, atol=1e-5)
        assert not {f"o{head}.weight" for head in gone} & {tensor.name for tensor in pruned.graph.initializer}
