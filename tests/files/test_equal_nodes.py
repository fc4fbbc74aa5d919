"""Two nodes with one operator, attributes and inputs are one value: a model is read as if each was computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune import inspect, prune
from onnxheadprune.model.load import open_structure
from tests.graph_builder import GraphBuilder
from tests.graphs import models
from tests.liveness.one_node import check_equal, run

STAY = ("RandomNormalLike", "RandomUniform", "Bernoulli", "Multinomial", "Dropout")
B, S, H, D = 2, 5, 3, 4


def once_per_reader(model: ModelProto) -> ModelProto:
    """An equal model in which each reader has a copy of its own of every node and of every shape that it reads."""
    made = ModelProto()
    made.CopyFrom(model)
    _repeat(made.graph)
    return made


def _repeat(graph: GraphProto) -> None:
    outputs = {info.name for info in graph.output}
    integers = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT64 and tensor.name not in {info.name for info in graph.input}
    }
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                _repeat(attribute.g)
        for index, name in enumerate(node.input):
            if name in integers:
                node.input[index] = f"{node.output[0]}/read{index}"
                nodes.append(helper.make_node("Constant", [], [node.input[index]], value=integers[name]))
        nodes.append(node)
        is_other = node.domain or node.op_type in ("Constant", *STAY) or not outputs.isdisjoint(node.output)
        if is_other or any(attribute.type == attribute.GRAPH for attribute in node.attribute):
            continue
        for number, (reader, index) in enumerate(readers.get(node.output[0], [])[1:]):
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.output[:] = (
                f"{node.name}/copy{number}",
                [f"{name}/copy{number}" for name in node.output],
            )
            reader.input[index] = copy.output[0]
            nodes.append(copy)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _computed(graph: GraphProto) -> Iterator[tuple[str, ...]]:
    """What a graph computes: its nodes by the names of their outputs, without those of constants."""
    for node in graph.node:
        if node.op_type != "Constant":
            yield (node.op_type, *node.output)
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                yield from _computed(attribute.g)


@pytest.mark.parametrize("name", models.EACH)
def test_each_node_is_read_once_however_often_it_is_repeated(name: str) -> None:
    model = models.MODELS[name]()
    want = list(_computed(open_structure(model).proto.graph))
    repeated = once_per_reader(model)
    assert len(list(_computed(repeated.graph))) >= len(want)
    assert list(_computed(open_structure(repeated).proto.graph)) == want
    # Constants of its own move a node that holds a body.
    first, second = (
        [site | {"projections": 0} for site in inspect(item).to_dict()["sites"]] for item in (repeated, model)
    )
    assert first == second


def differential(silent: Mapping[int, float] = {}) -> ModelProto:
    """Differential attention as decomposed by exporters: each map is computed for both halves of the values."""
    net = GraphBuilder()

    def heads(name: str, *order: int) -> str:
        flat = net.op("MatMul", "x", net.weight(name, H * D, 2 * H * D))
        return str(net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, 2 * H, D)), perm=order))

    q, k = heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)
    contexts = []
    for piece in net.op("Split", heads("v", 0, 2, 1, 3), outputs=2, axis=1):
        scaled = net.op("Mul", q, net.op("Constant", value=numpy_helper.from_array(np.float32(0.5))))
        map_ = net.op("Softmax", net.op("MatMul", scaled, k), axis=-1)
        contexts.append(net.op("MatMul", map_, net.op("Tile", piece, net.ints(1, 2, 1, 1))))
    joined = net.op("Transpose", net.op("Concat", *contexts, axis=-1), perm=[0, 2, 1, 3])
    first, second = net.op("Split", joined, outputs=2, axis=2)
    context = net.op("Sub", first, second)
    mask = np.array([silent.get(head, 1) for head in range(H)], np.float32).reshape(H, 1)
    merged = net.op("Reshape", net.op("Mul", context, net.constant("mask", mask)), net.ints(0, 0, H * 2 * D))
    net.node("MatMul", [merged, net.weight("o", H * 2 * D, H * D)], "y")
    return net.model([net.info("x", ["b", "s", H * D])], [net.info("y", ["b", "s", H * D])])


def test_a_map_that_is_computed_twice_is_one_map(tmp_path: Path) -> None:
    (site,) = inspect(differential())
    assert (site.num_heads, site.reason) == (H, None)
    onnx.save(differential(), tmp_path / "model.onnx")
    result = prune(tmp_path / "model.onnx", heads={0: [1]}, output=tmp_path / "smaller.onnx")
    assert result.validation is not None and result.validation.verdict == "passed"
    feed = {"x": np.random.default_rng(0).standard_normal((B, S, H * D)).astype(np.float32)}
    written = onnx.load(tmp_path / "smaller.onnx")
    assert sum(node.op_type == "Softmax" for node in written.graph.node) == 1
    check_equal(run(written, feed), run(differential({1: 0}), feed))


@pytest.mark.parametrize("op_type", STAY)
def test_nodes_that_draw_numbers_are_not_equal(op_type: str) -> None:
    net = GraphBuilder()
    net.constant("training", np.array(True))
    ratio = net.constant("ratio", np.float32(0.5))
    reads = {"Dropout": ["x", ratio, "training"], "RandomUniform": []}.get(op_type, ["x"])
    attributes = {"Multinomial": {"sample_size": 2}, "RandomUniform": {"shape": [2]}}.get(op_type, {})
    drawn = [net.op(op_type, *reads, **attributes) for _ in range(2)]
    quiet = [net.op("Dropout", "x") for _ in range(2)]
    for number, name in enumerate([*drawn, *quiet]):
        net.node("Abs", [name], f"y{number}")
    model = net.model([net.info("x", [2, 3])], [net.info(f"y{number}", None) for number in range(4)])
    read = [node.op_type for node in open_structure(model).proto.graph.node]
    assert read.count("Dropout") == (3 if op_type == "Dropout" else 1)
    assert read.count(op_type) == (3 if op_type == "Dropout" else 2)


def test_weights_are_equal_only_if_they_are_one() -> None:
    """Two norms of new networks have equal weights, until they are trained."""
    net = GraphBuilder()
    for name in ("first", "second"):
        net.node("Mul", ["x", net.constant(name, np.ones(3, np.float32))], f"{name}/scaled")
        net.node("Neg", [f"{name}/scaled"], f"{name}/y")
    outputs = [net.info(f"{name}/y", [2, 3]) for name in ("first", "second")]
    model = net.model([net.info("x", [2, 3])], outputs)
    assert open_structure(model).proto is model
