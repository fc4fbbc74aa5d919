"""What a proof may cost: memory in multiples of the file, and time that does not grow with the square of the nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from onnxheadprune import validate
from onnxheadprune.validation.graph import undocumented
from tests import attacks
from tests.graph_text import model_of
from tests.graphs import toys

MEGABYTE = 10**6
MEMORY, TIMES = 300 * MEGABYTE, 5
"""What a proof may take beside so many times the file."""
NODES, GROWTH = 3_000, 5
"""A chain of small nodes, and how much longer the proof of one four times as long may take. Where the planner of ONNX
Runtime looks for memory to use again, that takes sixteen times as long."""
NODE_BYTES = 9_000
"""Memory for each further node, so that 100,000 of them take less than 1 GB."""


def cost_of(*arguments: object, seconds: float = 3600) -> tuple[int, float]:
    """The most bytes in memory and the seconds of a command, which may take no more than so many."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "onnxheadprune", *map(str, arguments)])
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        if time.monotonic() - began > seconds:
            process.kill()
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    assert process.returncode == 0, arguments
    return 1024 * ended[2].ru_maxrss, time.monotonic() - began


def encoder(path: Path, layers: int = 4) -> None:
    onnx.save(toys.encoder(layers, hidden=512, heads=8, inner=2048), path)


def chained(nodes: int) -> ModelProto:
    """Two layers, and behind them a chain of so many small nodes."""
    model = toys.stack(layers=2)
    value = model.graph.output[0].name
    steps = [helper.make_node(("Neg", "Abs")[at % 2], [f"c{at}"], [f"c{at + 1}"]) for at in range(nodes)]
    steps[0].input[0], steps[-1].output[0] = f"{value}/raw", value
    attacks.behind(model, value, *steps)
    return model


def quantized(path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    encoder(path.with_suffix(".whole"), 6)
    quantize_dynamic(path.with_suffix(".whole"), path)


def documented(path: Path, characters: int = 60 * MEGABYTE) -> None:
    """As exporters write stack traces."""
    model = toys.attention()
    for node in model.graph.node:
        node.doc_string = "x" * (characters // len(model.graph.node))
    onnx.save(model, path)


MODELS: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (encoder, quantized, documented)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_proof_takes_a_few_times_the_file(name: str, tmp_path: Path) -> None:
    model, pruned = tmp_path / "model.onnx", tmp_path / "pruned.onnx"
    MODELS[name](model)
    allowed = MEMORY + TIMES * model.stat().st_size
    assert cost_of("prune", model, "--heads", "0:1", "-o", pruned, "--provider", "cpu")[0] <= allowed
    assert cost_of("validate", model, pruned, "--provider", "cpu")[0] <= allowed


@pytest.mark.slow
def test_the_proof_of_many_nodes(tmp_path: Path) -> None:
    """One model is in memory at a time, and none is planned in quadratic time."""

    def proof(nodes: int, seconds: float) -> tuple[int, float]:
        model, pruned = tmp_path / f"{nodes}.onnx", tmp_path / f"{nodes}.pruned.onnx"
        onnx.save(chained(nodes), model)
        arguments = ("prune", model, "--heads", "0:1", "-o", pruned, "--provider", "cpu")
        return cost_of(*arguments, seconds=seconds)

    few, seconds = proof(NODES, 3600)
    # The start of the program is in both, so less than four times as long is linear.
    many, _ = proof(4 * NODES, GROWTH * seconds)
    assert (many - few) / (3 * NODES) <= NODE_BYTES


def test_doc_strings_of_nodes_are_left_out() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y) <float[2] w> {
        y = If (c) <
            then_branch = t () => (float[2] a) { a = Add(x, w) },
            else_branch = e () => (float[2] b) { b = Mul(x, w) }
        >
    }"""
    model, bare = model_of(text), model_of(text)
    model.functions.append(
        helper.make_function("f", "F", ["p"], ["q"], [helper.make_node("Neg", ["p"], ["q"])], [])
    )
    bare.CopyFrom(model)
    branches = (attribute.g for attribute in model.graph.node[0].attribute)
    for nodes in (model.graph, *branches, *model.functions):
        nodes.node[0].doc_string = "x" * 2**19
    assert undocumented(model) == bare
    assert undocumented(bare) is bare


def test_a_documented_model_is_validated(tmp_path: Path) -> None:
    model, pruned = tmp_path / "model.onnx", tmp_path / "pruned.onnx"
    documented(model, 2 * MEGABYTE)
    from onnxheadprune import prune

    prune(model, pruned, heads="0:1", provider="cpu", validate=False)
    assert len(onnx.load(pruned).graph.node[0].doc_string) > 1000
    assert validate(model, pruned, provider="cpu").passed
