"""An operator of a domain that this package has never heard of: heads go through it once it is registered."""

from __future__ import annotations

import subprocess
import sys

import pytest

GRAPH = """
from onnxheadprune import RefusedError, apply_plan, inspect, plan_pruning
from tests.graph_text import model_of
from tests.vocabulary.graphs import ATTENTION, PLAIN, WEIGHTS

plain = ATTENTION.format(masked=PLAIN)
body = plain.replace("Reshape(ct, whole)", "Reshape(bent, whole)").replace("joined =", "bent = mylib.Bend(ct) joined =")
model = model_of(
    '<ir_version: 10, opset_import: ["" : 17, "mylib" : 1]>'
    f"g (float[b, s, 6] x) => (float[b, s, 6] y) <{WEIGHTS}> {{ {body} }}",
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
from onnxheadprune.operators.record import operator

operator("mylib.Bend", axes="...->...")
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
