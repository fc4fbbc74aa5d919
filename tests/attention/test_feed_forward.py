"""Neurons are found by structure in every spelling of a feed-forward block, and cut as exactly as heads.

The oracle knows nothing of sites: the weights of the last map, with zeros in the rows of the neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from tests.attention.block_graph import Net
from tests.attention.block_spellings import MAKERS, WIDTH, B, Make, N, S, block_of, down_layer, relu, up_layer
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_exact
from tests.liveness.one_node import check_equal, run
from tests.toys_nbits import BLOCK, packed


def _zeroed(model: ModelProto, gone: Sequence[int]) -> ModelProto:
    """The model with zeros where the last map reads some neurons: rows, or columns where it is stored turned."""
    made = ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name.startswith("down"):
            array = numpy_helper.to_array(tensor).copy()
            if tensor.name.startswith("downs"):
                array[:, list(gone)] = 0
            else:
                array[list(gone)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


@pytest.mark.each_choice
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("gone", [[0], [3, 4, 9], list(range(N))], ids=["one", "some", "all"])
def test_without_neurons_is_with_zeros(make: Make, gone: list[int]) -> None:
    model, net = block_of(make)
    (block,) = inspect(model).neurons
    assert (block.num_units, block.reason) == (N, None)
    plan = analyse(model, {"ffn.0": gone}, "the model").plan
    assert plan.edge_gathers == ()
    made = apply_plan(plan, model)
    want, got = run(_zeroed(model, gone), net.feed), run(made, net.feed)
    check_equal(got, want)
    wide = {size for tensor in made.graph.initializer for size in tensor.dims}
    assert N not in wide and 2 * N not in wide, "some weight kept the neurons"
    # The check can fail: without another neuron the outputs differ.
    if len(gone) < N:
        other = run(_zeroed(model, [n for n in range(N) if n not in gone][:1]), net.feed)
        assert any(np.abs(got[name] - other[name]).max() > 1e-3 for name in want)


def test_a_normalisation_between_the_maps_mixes_neurons() -> None:
    def normed(net: Net, x: Any) -> Any:
        made = net.op(
            "LayerNormalization", up_layer(net, x), net.weight("scale", N), net.weight("shift", N), axis=-1
        )
        return down_layer(net, made)

    model, _ = block_of(normed)
    (block,) = inspect(model).neurons
    assert not block.removable and "mixes" in str(block.reason)
    with pytest.raises(RefusedError, match=r"ffn\.0 .* cannot lose neurons"):
        analyse(model, {"ffn.0": [1]}, "the model")


def test_the_residual_stream_is_no_hidden_layer() -> None:
    """Every map reads the stream and adds to it: its channels are nobody's own."""
    net = Net(PLAIN)
    stream = net.input("x", (B, S, WIDTH), "bs-")
    for _ in range(3):
        stream = net.op("Add", relu(net, stream), stream)
    found = inspect(net.export([stream])).neurons
    assert [(block.key, block.num_units) for block in found] == [("ffn.0", N), ("ffn.1", N), ("ffn.2", N)]


@pytest.mark.each_choice
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_dynamic_quantization_hides_no_block(make: Make, per_channel: bool, tmp_path: Path) -> None:
    """The scale of what a layer reads or makes is one number, by which nothing flows around the layer."""
    net = Net(PLAIN)
    stream = net.input("x", (B, S, WIDTH), "bs-")
    for _ in range(2):
        read = net.op("LayerNormalization", stream, net.weight("norm", WIDTH), axis=-1)
        stream = net.op("Add", stream, make(net, read))
    onnx.save(net.export([stream]), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=per_channel)
    found = [inspect(tmp_path / f"{name}.onnx") for name in ("float", "int8")]
    assert [[block.num_units for block in sites.neurons] for sites in found] == [[N, N]] * 2
    assert not any(sites.of("sublayers") for sites in found)


def test_what_is_also_an_output_stays() -> None:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    hidden = net.op("Relu", up_layer(net, x))
    assert inspect(net.export([down_layer(net, hidden), hidden])).neurons == ()


def test_two_maps_that_read_the_same_neurons_are_one_block() -> None:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    hidden = net.op("Relu", up_layer(net, x))
    model = net.export([down_layer(net, hidden), down_layer(net, hidden)])
    (block,) = inspect(model).neurons
    assert len(block.projections) == 2
    made = apply_plan(analyse(model, {"ffn.0": [2, 5]}, "the model").plan, model)
    want, got = run(_zeroed(model, [2, 5]), net.feed), run(made, net.feed)
    check_equal(got, want)


def test_a_map_between_two_blocks_loses_rows_and_columns() -> None:
    """Three maps in a row, as heads of classifiers and stems of networks have them."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    first = net.op("Relu", up_layer(net, x))
    second = net.op("Relu", net.op("MatMul", first, net.weight("down", N, N)))
    model = net.export([net.op("MatMul", second, net.weight("down", N, WIDTH))])
    assert [block.num_units for block in inspect(model).neurons] == [N, N]
    plan = analyse(model, {"ffn.0": [1, 4], "ffn.1": [0, 7, 8]}, "the model").plan
    assert plan.edge_gathers == ()
    made = apply_plan(plan, model)
    shapes = [tuple(tensor.dims) for tensor in made.graph.initializer if tensor.name.startswith("down")]
    assert sorted(shapes) == [(N - 3, WIDTH), (N - 2, N - 3)]
    zeroed = ModelProto()
    zeroed.CopyFrom(model)
    for tensor, gone in zip(
        [t for t in zeroed.graph.initializer if t.name.startswith("down")], ([1, 4], [0, 7, 8]), strict=True
    ):
        array = numpy_helper.to_array(tensor).copy()
        array[gone] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    want, got = run(zeroed, net.feed), run(made, net.feed)
    check_equal(got, want)


def test_one_map_sums_up_heads_and_neurons() -> None:
    """Parallel blocks with one projection: what both lose goes from it, all of it, too."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    context = projected_context(net, x)
    hidden = net.op("Relu", up_layer(net, x))
    joined = net.op("Concat", context, hidden, axis=-1)
    model = net.export([net.op("MatMul", joined, net.weight("down", WIDTH + N, WIDTH))])
    sites = inspect(model)
    assert ([site.num_heads for site in sites], [block.num_units for block in sites.neurons]) == ([2], [N])
    planning = analyse(model, {"0": [1], "ffn.0": [2, 3]}, "the model")
    rows = [*range(WIDTH // 2, WIDTH), WIDTH + 2, WIDTH + 3]
    want, got = run(_zeroed(model, rows), net.feed), run(apply_plan(planning.plan, model), net.feed)
    masked = run(masked_reference(planning.view, planning.touched, planning.heads), net.feed)
    check_equal(got, want)
    check_equal(masked, want)
    planning = analyse(model, {"0": [0, 1], "ffn.0": range(N)}, "the model")
    nothing = run(_zeroed(model, range(WIDTH + N)), net.feed)
    check_equal(run(apply_plan(planning.plan, model), net.feed), nothing)
    check_equal(run(masked_reference(planning.view, planning.touched, planning.heads), net.feed), nothing)


def projected_context(net: Net, x: Any) -> Any:
    """The contexts of two heads, side by side."""
    size = WIDTH // 2
    parts = {}
    for name in "qkv":
        made = net.op("Reshape", net.op("MatMul", x, net.weight(name, WIDTH, WIDTH)), net.ints(0, 0, 2, size))
        parts[name] = net.op("Transpose", made, perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
    weights = net.op("Softmax", net.op("MatMul", parts["q"], parts["k"]), axis=-1)
    back = net.op("Transpose", net.op("MatMul", weights, parts["v"]), perm=[0, 2, 1, 3])
    return net.op("Reshape", back, net.ints(0, 0, WIDTH))


def test_neurons_of_a_packed_map_go_in_whole_blocks() -> None:
    size = 3 * BLOCK
    net = Net(PLAIN)
    x = net.input("x", (B, S, BLOCK), "bs-")
    hidden = net.op("Relu", net.op("MatMul", x, net.weight("up", BLOCK, size)))
    model = packed(net.export([net.op("MatMul", hidden, net.weight("down", size, BLOCK))]), 0)
    (block,) = inspect(model).neurons
    assert {len(unit) for unit in block.units} == {BLOCK}
    with pytest.raises(RefusedError, match="only go together"):
        analyse(model, {"ffn.0": [1]}, "the model")
    gone = list(range(BLOCK, 2 * BLOCK))
    planning = analyse(model, {"ffn.0": gone}, "the model")
    check_exact(planning, model, net.feed)


def test_a_shape_that_is_asked_for_keeps_no_block_alive() -> None:
    """A normalisation of flat tokens takes its shape back from what it normalised: LeViT's `reshape_as`."""

    def normed(net: Net, x: Any) -> Any:
        made = relu(net, x)
        flat = net.op("Reshape", made, net.ints(-1, WIDTH))
        vectors = [net.weight(stem, WIDTH) for stem in ("scale", "shift", "mean")]
        variance = net.stored("variance", np.ones(WIDTH, dtype=np.float32))
        return net.op(
            "Reshape", net.op("BatchNormalization", flat, *vectors, variance), net.op("Shape", made)
        )

    model, net = block_of(normed)
    cut = apply_plan(analyse(model, {"ffn.0": "*"}, "the model").plan, model)
    assert not {node.op_type for node in cut.graph.node} & {"MatMul", "Relu"}
    (name, want), *_ = run(_zeroed(model, list(range(N))), net.feed).items()
    np.testing.assert_allclose(run(cut, net.feed)[name], want, atol=1e-5)
