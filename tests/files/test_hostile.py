"""Files that want harm: one clear sentence each, in bounded time and memory, and nothing outside is touched."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import ModelError, inspect, prune
from tests.files.hostile_models import set_entry, stored_outside
from tests.graph_builder import GraphBuilder
from tests.graphs import toys
from tests.limits import bounded


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_leave_the_folder(tmp_path: Path, what: str) -> None:
    location = "link.bin" if what == "file" else "link/secret.bin"
    path = stored_outside(tmp_path / "inside", set_entry("location", location))
    (tmp_path / "secret.bin").write_bytes(b"s" * 100_000)
    (path.parent / location.split("/")[0]).symlink_to("../secret.bin" if what == "file" else "..")
    with pytest.raises(ModelError, match=r"a link to .*, which is outside of its folder"):
        inspect(path)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    path = stored_outside(tmp_path / "inside")
    weights, real = path.with_name("w.bin"), path.with_name("real.bin")
    weights.rename(real)
    weights.symlink_to("real.bin")
    assert len(inspect(path)) == 1
    real.unlink()
    weights.unlink()
    weights.symlink_to("w.bin")
    with pytest.raises(ModelError, match="no such file"):
        inspect(path)


def test_a_fifo_is_no_file_with_weights(tmp_path: Path) -> None:
    path = stored_outside(tmp_path / "inside", set_entry("location", "pipe"))
    os.mkfifo(path.with_name("pipe"))
    with pytest.raises(ModelError, match="not a regular file"):
        inspect(path)


@pytest.mark.parametrize("rows", [1, toys.HIDDEN - 1, toys.HIDDEN + 1, 2 * toys.HIDDEN])
def test_weights_around_a_body_that_do_not_fit_their_product(tmp_path: Path, rows: int) -> None:
    """onnx checks no body against the tensors around it."""
    model = toys.attention()
    toys.set_initializer(model, "attn.out.weight", np.ones((rows, toys.HIDDEN), np.float32))
    bodies = [helper.make_graph(list(model.graph.node), part, [], list(model.graph.output)) for part in "ab"]
    for body in bodies:
        made = {value for node in body.node for value in node.output}
        for node in body.node:
            node.input[:] = [value + body.name if value in made else value for value in node.input]
            node.output[:] = [value + body.name for value in node.output]
        body.output[0].name += body.name
    del model.graph.node[:]
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    outputs = [item.name for item in model.graph.output]
    branches = {"then_branch": bodies[0], "else_branch": bodies[1]}
    model.graph.node.append(helper.make_node("If", ["flag"], outputs, **branches))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        prune(tmp_path / "m.onnx", tmp_path / "o.onnx", heads="0:1", validate=False)
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_every_truncation(tmp_path: Path) -> None:
    """Cut anywhere: an error, or a model with less in it, never anything else."""
    whole = toys.attention(extra_weight=40_000).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in [*range(0, 200, 7), *range(200, len(whole), len(whole) // 100)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            inspect(path)


def nested(depth: int) -> ModelProto:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["out"])], "g", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["out"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph)
        graph = helper.make_graph([node], "g", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_deep_nesting(tmp_path: Path) -> None:
    """Thousands of messages in messages, made byte by byte: protobuf's own writer stops at a hundred."""
    path = tmp_path / "m.onnx"
    path.write_bytes(nested(25).SerializeToString())
    with pytest.raises(ModelError):
        inspect(path)
    body = b"\x22\x01x" + b"\x0a" * 0 + b"\x00" * 0
    tail = b"d" * 70_000
    body = b"\x52" + _length(len(tail)) + tail
    for _ in range(5000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            body = tag + _length(len(body)) + body
    path.write_bytes(b"\x3a" + _length(len(body)) + body)
    with pytest.raises(ModelError, match="is not an ONNX model"):
        inspect(path)


def _length(number: int) -> bytes:
    coded = b""
    while number > 127:
        coded, number = coded + bytes([number & 127 | 128]), number >> 7
    return coded + bytes([number])


def test_custom_domains_load_nothing(tmp_path: Path) -> None:
    model = toys.attention()
    node = helper.make_node("Evil", ["y"], ["z"], domain="com.evil", library="/tmp/evil.so")
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    model.graph.output[0].name = "z"
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert len(inspect(path)) == 1
    with pytest.raises(ModelError, match="does not load in ONNX Runtime"):
        prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


BOMBS = {
    "ConstantOfShape": ([np.array([2**31, 2**10])], {}),
    "Expand": ([np.array([1.0], np.float32), np.array([2**20, 2**20])], {}),
    "Tile": ([np.array([1]), np.array([2**40])], {}),
    "Range": ([np.array(0), np.array(2**40), np.array(1)], {}),
    "Pad": ([np.array([1.0], np.float32), np.array([0, 2**40])], {}),
    "OneHot": ([np.array([0]), np.array(2**40), np.array([0, 1])], {}),
    "EyeLike": ([np.zeros((4, 4))], {}),
    "Loop": ([np.array(2**40)], {}),
}


@pytest.mark.parametrize("op_type", BOMBS)
def test_constants_that_explode_when_they_are_folded(op_type: str, tmp_path: Path) -> None:
    """Within 1.5 GB and 20 seconds, in a process that may have no more."""
    arrays, attributes = BOMBS[op_type]
    model = toys.attention()
    names = [f"bomb{index}" for index in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    model.graph.node.append(helper.make_node(op_type, names, ["boom"], **attributes))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    result = bounded("inspect", path)
    assert result.exit_code in (0, 3), result.stderr
    assert "Traceback" not in result.stderr


def test_operators_of_other_domains_are_not_trusted() -> None:
    """onnx checks nothing of theirs: shapes that such an operator does not take are no bug of the analysis."""
    toy = GraphBuilder()
    attend = helper.make_node(
        "Attention",
        ["x", toy.weight("b", 36), toy.weight("w", 12, 36)],
        ["c"],
        domain="com.microsoft",
        num_heads=4,
    )
    toy.nodes.append(attend)
    toy.node("MatMul", ["c", toy.weight("o", 12, 12)], "y")
    model = toy.model([toy.info("x", ["b", "s", 12])], [toy.info("y", ["b", "s", 12])])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    told = r"onnx cannot check \(com.microsoft.Attention\).*if it runs in ONNX Runtime, please report"
    with pytest.raises(ModelError, match=told):
        inspect(model)
