"""Weights packed in blocks whose products round activations to int8: only a deployment does so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import apply_plan, plan_pruning, prune, validate
from onnxheadprune.model.load import open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.int8_saturation import LEVEL, unrounded
from onnxheadprune.runtime.tolerances import FLOAT32, QUANTIZED, tolerance_for
from tests.graph_builder import GraphBuilder
from tests.graphs import fused, toys
from tests.graphs.toys import set_initializer

INT8 = 4


def decoder(level: int = INT8) -> ModelProto:
    return toys.packed(fused.decoder(), level)


def levels(model: ModelProto) -> set[int]:
    """Accuracy levels that are written in the main graph."""
    attributes = (attribute for node in model.graph.node for attribute in node.attribute)
    return {attribute.i for attribute in attributes if attribute.name == LEVEL}


def on_the_edge() -> tuple[ModelProto, list[dict[str, Any]]]:
    """A product, and two inputs in neighbouring float32 numbers that round to neighbouring int8 levels."""
    toy = GraphBuilder()
    weight = np.zeros((toys.BLOCK, 1), np.float32)
    weight[1] = 1
    toy.node("MatMul", ["x", toy.constant("weight", weight)], "y")
    model = toy.model([toy.info("x", ["batch", toys.BLOCK])], [toy.info("y", ["batch", 1])])
    below = np.zeros((1, toys.BLOCK), np.float32)
    below[0, :2] = 127, 2.5
    above = below.copy()
    above[0, 1] = np.nextafter(np.float32(2.5), np.float32(3))
    return toys.packed(model, INT8), [{"x": below}, {"x": above}]


@pytest.mark.parametrize("optimize", [False, True])
def test_one_bit_is_a_level_only_when_deployed(optimize: bool) -> None:
    model, feeds = on_the_edge()
    session = Session(model, Provider(CPU, "test"), optimize=optimize)
    below, above = (float(session.run(feed)["y"].item()) for feed in feeds)
    assert levels(model) == {INT8}  # not changed
    if optimize:
        assert (below, above) == (2, 3)
    else:
        assert (below, above) == pytest.approx((2.5, 2.5), rel=1e-6)


def test_the_level_widens_what_a_deployment_may_do_and_nothing_else() -> None:
    assert tolerance_for(view_of(decoder(1))) == FLOAT32
    tolerance = tolerance_for(view_of(decoder(INT8)))
    assert (tolerance.precision, tolerance.exact) == ("float32", FLOAT32.exact)
    assert tolerance.deployed == QUANTIZED.deployed == tolerance.when_deployed(tf32=True)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["exact", "deployed"])
def test_a_wrong_cut_fails(settings: str) -> None:
    """Even what is allowed when deployed is a fraction of one head."""
    model = decoder()
    wrong = apply_plan(plan_pruning(model, heads="0:0,1"), model)
    other = apply_plan(plan_pruning(model, heads="0:2,3"), model)
    for tensor in other.graph.initializer:
        set_initializer(wrong, tensor.name, onnx.numpy_helper.to_array(tensor))
    result = validate(model, wrong, provider="cpu")
    assert result.verdict == "failed"
    case = max(
        (case for case in result.cases if case.settings == settings), key=lambda case: case.max_rel_error
    )
    assert case.max_rel_error > 2 * QUANTIZED.deployed


def test_blocks_that_a_deployment_fuses_round_there_too(tmp_path: Path) -> None:
    """ONNX Runtime makes a MatMulNBits of weights that are dequantized in blocks and the product that reads them.

    Where a head is no whole block, a gather stands between the two, and the pruned model alone keeps its floats.
    """
    toy, width, heads, size = GraphBuilder(seed=3), 16, 4, 8
    parts = [_in_blocks(toy, "x", name, (width, heads * size), 1) for name in "qkv"]
    shape = toy.constant("split", np.array([0, 0, heads, size]))
    q, k, v = (
        toy.node(
            "Transpose", [toy.node("Reshape", [part, shape], f"{part}_split")], f"{part}_heads", perm=perm
        )
        for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    maps = toy.node("Softmax", [toy.node("MatMul", [q, k], "scores")], "maps", axis=-1)
    context = toy.node("Transpose", [toy.node("MatMul", [maps, v], "context")], "back", perm=[0, 2, 1, 3])
    merge = toy.constant("merge", np.array([0, 0, heads * size]))
    merged = toy.node("Reshape", [context, merge], "merged")
    projected = _in_blocks(toy, merged, "o", (heads * size, width), 0)
    toy.node("Add", [projected, "x"], "y")
    info = ["batch", "sequence", width]
    model = toy.model([toy.info("x", info)], [toy.info("y", info)], opset=21)
    model.ir_version = 10
    found = tolerance_for(view_of(model))
    assert (found.exact, found.deployed) == (FLOAT32.exact, QUANTIZED.deployed)
    result = prune(model, heads="0:1", output=tmp_path / "smaller.onnx", provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"


def _in_blocks(toy: GraphBuilder, source: str, name: str, shape: tuple[int, int], axis: int) -> str:
    """A product with int8 weights that have a scale per 16 positions of an axis."""
    levels = toy.constant(f"{name}.weight", toy.rng.integers(-100, 100, shape).astype(np.int8))
    scales = [size // 16 if position == axis else size for position, size in enumerate(shape)]
    scale = toy.constant(f"{name}.scale", (0.003 * toy.rng.random(scales)).astype(np.float32))
    weight = toy.node("DequantizeLinear", [levels, scale], f"{name}.floats", axis=axis, block_size=16)
    return toy.node("MatMul", [source, weight], name)


def test_exact_settings_of_packed_weights_are_no_file(tmp_path: Path) -> None:
    """A model that was changed has none: what runs is what it is, not what it was."""
    path = tmp_path / "packed.onnx"
    onnx.save(toys.packed(toys.attention(hidden=32), 4), path)
    assert unrounded(open_structure(path)).path is None
