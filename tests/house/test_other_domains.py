"""An operator of a domain that this package has never heard of: heads go through it once it is registered."""

from __future__ import annotations

import subprocess
import sys

import pytest

GRAPH = """
from onnxheadprune import RefusedError, apply_plan, inspect, plan_pruning
from tests.graph_text import model_of

model = model_of(
    '''<ir_version: 10, opset_import: ["" : 17, "mylib" : 1]>
    g (float[b, s, 6] x) => (float[b, s, 6] y) <
        float[6, 6] w_q, float[6, 6] w_k, float[6, 6] w_v, float[6, 6] w_o,
        int64[4] split = {0, 0, 2, 3}, int64[3] whole = {0, 0, 6}
    > {
        q = MatMul(x, w_q)
        k = MatMul(x, w_k)
        v = MatMul(x, w_v)
        q4 = Reshape(q, split)
        k4 = Reshape(k, split)
        v4 = Reshape(v, split)
        qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        kt = Transpose<perm = [0, 2, 3, 1]>(k4)
        vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        scores = MatMul(qt, kt)
        p = Softmax<axis = -1>(scores)
        c = MatMul(p, vt)
        ct = Transpose<perm = [0, 2, 1, 3]>(c)
        bent = mylib.Bend(ct)
        joined = Reshape(bent, whole)
        o = MatMul(joined, w_o)
        y = Add(x, o)
    }''',
    0,
)
for site in inspect(model):
    print("site", site.num_heads)
for miss in inspect(model).near_misses:
    print("missed", miss.node)
try:
    pruned = apply_plan(plan_pruning(model, heads="0:1"), model)
    print({tensor.name: list(tensor.dims) for tensor in pruned.graph.initializer if tensor.name.startswith("w_")})
except RefusedError as error:
    print("refused", error)
"""
REGISTERED = """
from onnxheadprune.liveness.registry import Answer, rule
from onnxheadprune.model.graph.tables import declare, shape_function
import onnxheadprune.operators

declare("Bend", domain="mylib")

@shape_function("Bend", domain="mylib")
def _shape(node):
    return [node.shape(0)]

@rule("Bend", domain="mylib")
def _rule(node, lives):
    return Answer({0: lives[0]}, kept=lives)
"""


@pytest.mark.parametrize("registered", [True, False])
def test_it_is_cut_through_or_named(registered: bool) -> None:
    code = (REGISTERED if registered else "") + GRAPH
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if registered:
        narrow = {"w_q": [6, 3], "w_k": [6, 3], "w_v": [6, 3], "w_o": [3, 6]}
        assert run.stdout.splitlines() == ["site 2", str(narrow)]
    else:
        assert "Bend -> bent" in run.stdout and not run.stdout.startswith("site"), run.stdout
