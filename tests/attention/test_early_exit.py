"""Layers inside the bodies of `Loop` and `If`, with the exit that may end them early."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.net_parts import WIDTH, B, D, H, S
from tests.liveness.masks import Array
from tests.liveness.one_node import run

CLASSES = 3


class _Model:
    """An encoder layer and an exit, to be put where the test wants them."""

    def __init__(self, outside: bool) -> None:
        self.net = Net(PLAIN)
        self.main = self.net.graph
        self.outside = outside
        self.x = self.net.input("x", (B, S, WIDTH), "bs-")
        self.sure = gs.Variable("sure", dtype=np.float32, shape=())
        self.main.inputs.append(self.sure)

    def weight(self, name: str, *shape: int) -> Any:
        """A weight of the body itself, or one of the main graph that it reads."""
        stored = self.net.weight(name, *shape)
        if not self.outside:
            return stored
        body, self.net.graph = self.net.graph, self.main
        handed = self.net.op("Identity", stored)
        self.net.graph = body
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
        return answer, op("Less", surest, self.sure)

    def loop(self) -> ModelProto:
        """One layer until it is sure, four times at most."""
        body = gs.Graph(opset=PLAIN.opset, name="body")
        state = gs.Variable("state", dtype=np.float32, shape=(None, None, WIDTH))
        last = gs.Variable("last", dtype=np.float32, shape=(None, CLASSES))
        body.inputs = [
            gs.Variable("turn", dtype=np.int64, shape=()),
            gs.Variable("going", dtype=np.bool_, shape=()),
            state,
            last,
        ]
        first, _ = self.exit(self.x)
        self.net.graph = body
        made = self.layer(state)
        answer, more = self.exit(made)
        for value, kind in ((more, np.bool_), (made, np.float32), (answer, np.float32)):
            value.dtype = np.dtype(kind)
        body.outputs = [more, made, answer]
        self.net.graph = self.main
        turns, go = gs.Constant("turns", np.array(4)), gs.Constant("go", np.array(True))
        _, result = self.net.op("Loop", turns, go, self.x, first, outputs=2, body=body)
        return self.net.export([result])

    def branch(self) -> ModelProto:
        """The second layer runs if the first one is not sure."""
        made = self.layer(self.x)
        early, more = self.exit(made)
        bodies = {}
        for name in ("then_branch", "else_branch"):
            self.net.graph = body = gs.Graph(opset=PLAIN.opset, name=name)
            if name == "then_branch":
                answer, _ = self.exit(self.layer(made))
            else:
                answer = self.net.op("Identity", early)
            answer.dtype, answer.shape = np.dtype(np.float32), (B, CLASSES)
            body.outputs = [answer]
            bodies[name] = body
        self.net.graph = self.main
        return self.net.export([self.net.op("If", more, **bodies)])

    def feed(self, sure: float) -> dict[str, Array]:
        return self.net.feed | {"sure": np.array(sure, dtype=np.float32)}


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
            for name, array in want.items():
                np.testing.assert_allclose(got[name], array, atol=1e-5)
