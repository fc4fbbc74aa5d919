"""Layers inside the bodies of `Loop` and `If`, with the exit that may end them early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxheadprune import apply_plan, inspect
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Net
from tests.graphs.parts import WIDTH, B, D, H, S
from tests.liveness.masks import Array
from tests.liveness.one_node import check_equal, run

CLASSES = 3


class _Model:
    """An encoder layer and an exit, to be put where the test wants them."""

    def __init__(self, outside: bool) -> None:
        self.net = Net(PLAIN)
        self.main = self.net.nodes, self.net.initializers
        self.outside = outside
        self.x = self.net.input("x", (B, S, WIDTH), "bs-")
        self.net.inputs.append(self.net.info("sure", []))

    def weight(self, name: str, *shape: int) -> Any:
        """A weight of the body itself, or one of the main graph that it reads."""
        if not self.outside:
            return self.net.weight(name, *shape)
        body = self.net.nodes, self.net.initializers
        self.net.nodes, self.net.initializers = self.main
        handed = self.net.op("Identity", self.net.weight(name, *shape))
        self.net.nodes, self.net.initializers = body
        return handed

    def layer(self, x: Any) -> Any:
        op, ints = self.net.op, self.net.ints
        q, k, v = (
            op("Reshape", op("MatMul", x, self.weight(name, WIDTH, H * D)), ints(0, 0, H, D))
            for name in "qkv"
        )
        scores = op("MatMul", op("Transpose", q, perm=[0, 2, 1, 3]), op("Transpose", k, perm=[0, 2, 3, 1]))
        context = op("MatMul", op("Softmax", scores, axis=-1), op("Transpose", v, perm=[0, 2, 1, 3]))
        merged = op("Reshape", op("Transpose", context, perm=[0, 2, 1, 3]), ints(0, 0, H * D))
        return op("Add", x, op("MatMul", merged, self.weight("o", H * D, WIDTH)))

    def exit(self, x: Any) -> tuple[Any, Any]:
        """The answer, and whether to go on."""
        op = self.net.op
        answer = op("MatMul", op("ReduceMean", x, axes=[1], keepdims=0), self.weight("exit", WIDTH, CLASSES))
        surest = op("ReduceMax", op("Softmax", answer, axis=-1), keepdims=0)
        return answer, op("Less", surest, "sure")

    def loop(self) -> ModelProto:
        """One layer until it is sure, four times at most."""
        net, info = self.net, self.net.info
        first, _ = self.exit(self.x)

        def turn() -> list[ValueInfoProto]:
            made = self.layer("state")
            answer, more = self.exit(made)
            return [info(more, None, TensorProto.BOOL), info(made, None), info(answer, None)]

        states = [info("state", [None, None, WIDTH]), info("last", [None, CLASSES])]
        body = net.body(
            turn, [info("turn", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), *states]
        )
        turns, go = net.constant("turns", np.array(4)), net.constant("go", np.array(True))
        _, result = net.op("Loop", turns, go, self.x, first, outputs=2, body=body)
        return net.export([result])

    def branch(self) -> ModelProto:
        """The second layer runs if the first one is not sure."""
        made = self.layer(self.x)
        early, more = self.exit(made)
        net = self.net
        then = net.body(lambda: [net.info(self.exit(self.layer(made))[0], [B, CLASSES])])
        other = net.body(lambda: [net.info(net.op("Identity", early), [B, CLASSES])])
        return net.export([net.op("If", more, then_branch=then, else_branch=other)])

    def feed(self, sure: float) -> dict[str, Array]:
        return self.net.feed | {"sure": np.array(sure, dtype=np.float32)}


@pytest.mark.each_choice
@pytest.mark.parametrize("outside", [False, True], ids=("weights inside", "weights outside"))
@pytest.mark.parametrize("form", ["loop", "branch"])
def test_layers_that_may_be_skipped_lose_heads(form: str, outside: bool) -> None:
    made = _Model(outside)
    model = getattr(made, form)()
    sites = inspect(model)
    assert [(site.num_heads, site.reason) for site in sites] == [(H, None)] * (2 if form == "branch" else 1)
    for gone in ([1], [0, 2], list(range(H))):
        planning = analyse(model, {len(sites) - 1: gone}, form)
        assert not planning.plan.edge_gathers
        masked = masked_reference(planning.view, planning.sites, planning.heads)
        pruned = apply_plan(planning.plan, model)
        # Sure at once, never sure, and in between: the exit is part of what must stay equal.
        for sure in (0.0, 0.5, 2.0):
            want, got = run(masked, made.feed(sure)), run(pruned, made.feed(sure))
            check_equal(got, want)
