"""What a proof may cost: memory in multiples of the file, and time that does not grow with the square of the nodes."""

from __future__ import annotations

import cProfile
import math
import pstats
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from benchmarks.depth import Cost, Encoder, cost_of
from benchmarks.planning import stack
from onnxheadprune import validate
from onnxheadprune.attention.sites import neurons
from onnxheadprune.operators import view_of
from onnxheadprune.validation.graph import undocumented
from tests.graph_builder import GraphBuilder
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


def encoder(path: Path) -> None:
    onnx.save(Encoder(4, 512).build(), path)


def quantized(path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(Encoder(6, 512).build(), path.with_suffix(".whole"))
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
    assert cost_of("prune", model, "--heads", "0:1", "-o", pruned, "--provider", "cpu").peak <= allowed
    assert cost_of("validate", model, pruned, "--provider", "cpu").peak <= allowed


@pytest.mark.slow
def test_the_proof_of_many_nodes(tmp_path: Path) -> None:
    """One model is in memory at a time, and none is planned in quadratic time."""

    def proof(nodes: int, seconds: float) -> Cost:
        model, pruned = tmp_path / f"{nodes}.onnx", tmp_path / f"{nodes}.pruned.onnx"
        onnx.save(stack(2, chain=nodes), model)
        arguments = ("prune", model, "--heads", "0:1", "-o", pruned, "--provider", "cpu")
        return cost_of(*arguments, seconds=math.ceil(seconds))

    few = proof(NODES, 3600)
    # The start of the program is in both, so less than four times as long is linear.
    many = proof(4 * NODES, GROWTH * few.seconds)
    assert (many.peak - few.peak) / (3 * NODES) <= NODE_BYTES


def calls(blocks: int) -> int:
    """Calls of functions while neurons are looked for in attention blocks without normalisations."""
    view = view_of(stack(blocks, norms=False))
    profile = cProfile.Profile()
    profile.runcall(neurons.found, view, [])
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_stream_without_normalisations_is_walked_once() -> None:
    assert calls(40) < 2.5 * calls(20)


def made_by(count: int) -> ModelProto:
    """One layer that sums up the neurons of many: an activation behind each, then a Concat."""
    toy = GraphBuilder()
    names = [
        toy.node("Relu", [toy.node("MatMul", ["x", toy.weight(f"w{index}", 6, 2)], f"p{index}")], f"a{index}")
        for index in range(count)
    ]
    joined = toy.node("Concat", names, "joined", axis=-1)
    out = toy.node("MatMul", [joined, toy.weight("down", 2 * count, 6)], "y")
    return toy.model([toy.info("x", ["batch", "length", 6])], [toy.info(out, ["batch", "length", 6])])


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 400])
def test_neurons_that_many_layers_make_are_found(count: int) -> None:
    (site,) = neurons.found(view_of(made_by(count)), []).sites
    assert site.num_units == 2 * count
    assert len(site.cores) == count
    assert site.reason is None


def test_doc_strings_are_left_out_wherever_they_are() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y) <float[2] w> {
        y = If (c) <
            then_branch = t () => (float[2] a) { k = Constant <value = float[2] {1, 2}> () a = Add(x, k) },
            else_branch = e () => (float[2] b) { b = Mul(x, w) }
        >
    }"""
    model = model_of(text)
    model.functions.append(
        helper.make_function("f", "F", ["p"], ["q"], [helper.make_node("Neg", ["p"], ["q"])], [])
    )
    bare = ModelProto.FromString(model.SerializeToString())
    document(model)
    assert undocumented(model) == bare
    short = ModelProto.FromString(bare.SerializeToString())
    short.doc_string = "made by hand"
    assert undocumented(short) is short


def document(message: object) -> None:
    """Writes a doc string into every message of a model that has a field for one."""
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        if field.message_type is not None:
            held = getattr(message, field.name)
            if field.is_repeated:
                for item in held:
                    document(item)
            elif message.HasField(field.name):  # type: ignore[attr-defined]
                document(held)
        elif field.name == "doc_string":
            message.doc_string = "x" * 2**19  # type: ignore[attr-defined]


def test_a_documented_model_is_validated(tmp_path: Path) -> None:
    model, pruned = tmp_path / "model.onnx", tmp_path / "pruned.onnx"
    documented(model, 2 * MEGABYTE)
    from onnxheadprune import prune

    prune(model, pruned, heads="0:1", provider="cpu", validate=False)
    assert len(onnx.load(pruned).graph.node[0].doc_string) > 1000
    assert validate(model, pruned, provider="cpu").passed
