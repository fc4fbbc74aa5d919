"""All that a plan does not name is bit-identical, however exotic; and the same input gives the same bytes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, TrainingInfoProto, helper, numpy_helper

from onnxheadprune import plan_pruning, prune
from onnxheadprune.model.storage.tensors import BITS, tensors_of
from tests.conftest import ROOT
from tests.edit.lossless import unexplained
from tests.graphs import toys

ELEMENTS = 40_000
UNKNOWN = b"\xfa\x3e\x07unknown\xc0\x3e\x2a\xc3\x3e\x08\x01\xc4\x3e"
"""Field 1007 with text, 1000 with a number, 1000 as a group: no ONNX version has them."""


def with_unknown(message: Any) -> None:
    message.MergeFromString(UNKNOWN)


def note(message: Any, key: str) -> None:
    message.doc_string = f"doc of {key}"
    message.metadata_props.add(key=key, value="kept\n\x7f é")
    message.metadata_props.add(key=key, value="the same key again")


def museum() -> ModelProto:
    """An attention block that carries one of everything ONNX can hold."""
    model = toys.attention(cache=True, extra_weight=ELEMENTS)
    graph = model.graph
    model.producer_name, model.producer_version, model.domain, model.model_version = "p", "v", "d", 7
    model.ir_version = 11
    model.opset_import.append(helper.make_opsetid("com.unused", 3))
    graph.doc_string = "doc of the graph"
    graph.metadata_props.add(key="graph", value="kept")
    model.doc_string = "doc of the model"
    for name, number in TensorProto.DataType.items():
        if number in BITS:
            data = np.random.default_rng(number).bytes(BITS[number])
            graph.initializer.append(
                TensorProto(name=f"raw {name}", data_type=number, dims=[8], raw_data=data)
            )
    graph.initializer.append(helper.make_tensor("strings", TensorProto.STRING, [2], [b"\xff\xfe", b""]))
    for kind, field in (
        (TensorProto.FLOAT16, [0x7E01, 3]),
        (TensorProto.FLOAT8E5M2, [0x7F, 3]),
        (TensorProto.INT64, [-(2**63), 3]),
        (TensorProto.DOUBLE, [1e-320, 3.0]),
        (TensorProto.COMPLEX64, [1.0, 2.0, 3.0, float("inf")]),
        (TensorProto.UINT64, [2**64 - 1, 3]),
    ):
        tensor = TensorProto(name=f"typed {kind}", data_type=kind, dims=[2])
        {
            TensorProto.INT64: tensor.int64_data,
            TensorProto.DOUBLE: tensor.double_data,
            TensorProto.COMPLEX64: tensor.float_data,
            TensorProto.UINT64: tensor.uint64_data,
        }.get(kind, tensor.int32_data).extend(field)
        graph.initializer.append(tensor)
    big = np.random.default_rng(1).bytes(4 * ELEMENTS)
    nan = np.frombuffer(big, np.float32).copy()
    graph.initializer.append(numpy_helper.from_array(nan, "large unused"))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("sparse indices", TensorProto.INT64, [2], [1, 4]),
        [6],
    )
    graph.sparse_initializer.append(sparse)
    annotation = graph.quantization_annotation.add(tensor_name="attn.q.weight")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="raw FLOAT")
    training = TrainingInfoProto()
    training.algorithm.node.append(helper.make_node("Identity", ["t"], ["u"]))
    training.algorithm.initializer.append(numpy_helper.from_array(nan, "t"))
    training.update_binding.add(key="t", value="u")
    model.training_info.append(training)
    configuration = model.configuration.add(name="two", num_devices=2)
    configuration.device.extend(["a", "b"])
    attribute = helper.make_attribute("exotic", [numpy_helper.from_array(nan, "inside")])
    graph.node.append(helper.make_node("Odd", ["y"], ["odd"], domain="com.unused", overload="second"))
    last = graph.node[-1]
    last.attribute.append(attribute)
    graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    for index, node in enumerate(graph.node):
        note(node, f"node {index}")
    for tensor in graph.initializer:
        note(tensor, f"tensor {tensor.name}")
    for info in (*graph.input, *graph.output):
        note(info, f"info {info.name}")
    graph.value_info.append(
        helper.make_tensor_value_info("projected", TensorProto.FLOAT, ["batch", None, 12])
    )
    note(graph.value_info[-1], "info")
    for message in (model, graph, graph.node[3], graph.initializer[0], graph.input[0], annotation, training):
        with_unknown(message)
    with_unknown(last.attribute[-1].tensors[0])
    return model


@pytest.fixture(scope="module")
def exhibits() -> ModelProto:
    return museum()


def stored(model: ModelProto, folder: Path, form: str) -> Path:
    path = folder / "m.onnx"
    copy = ModelProto()
    copy.CopyFrom(model)
    if form == "inside":
        path.write_bytes(copy.SerializeToString())
    else:
        onnx.save(copy, path, save_as_external_data=True, location="w.bin", size_threshold=64)
    return path


def as_read(path: Path) -> ModelProto:
    """Read by onnx, which leaves a mark where data was external."""
    model = onnx.load(path)
    for stored in tensors_of(model):
        if stored.tensor.data_location == TensorProto.DEFAULT:
            stored.tensor.ClearField("data_location")
    return model


@pytest.mark.parametrize(
    ("form", "external"), list(itertools.product(("inside", "beside"), ("auto", "always", "never")))
)
def test_all_else_is_bit_identical(exhibits: ModelProto, tmp_path: Path, form: str, external: Any) -> None:
    path = stored(exhibits, tmp_path, form)
    plan = plan_pruning(path, heads="0:1,3")
    assert {"slice", "constant", "input", "dim"} <= plan.counts().keys()
    prune(path, tmp_path / "o.onnx", heads="0:1,3", validate=False, external_data=external)
    found = as_read(tmp_path / "o.onnx")
    assert unexplained(exhibits, found, plan) == []
    assert bool(list(tmp_path.glob("o.onnx.*.data"))) == (
        external == "always" or (external, form) == ("auto", "beside")
    )


@pytest.mark.slow
def test_same_input_and_plan_same_bytes(exhibits: ModelProto, tmp_path: Path) -> None:
    """Also in another process with other hash seeds, at another time and place."""
    written = []
    for number, form in enumerate(("beside", "beside", "beside")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = stored(exhibits, folder, form)
        out = folder / "o.onnx"
        arguments = ["prune", path, "-o", out, "--heads", "0:1", "--no-validate", "--external-data", "always"]
        subprocess.run(
            [sys.executable, "-m", "onnxheadprune", *map(str, arguments)],
            cwd=ROOT,
            check=True,
            env={"PYTHONHASHSEED": str(number), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        files = sorted(folder.glob("o.onnx*"))
        written.append([(item.name, item.read_bytes()) for item in files])
        assert len(files) == 2
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("external", ["always", "never"])
def test_a_run_over_an_older_output_gives_the_same_bytes(
    exhibits: ModelProto, tmp_path: Path, external: Any
) -> None:
    path = stored(exhibits, tmp_path, "inside")
    out = tmp_path / "o.onnx"
    prune(path, out, heads="0:1", validate=False, external_data=external)
    first = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    prune(path, out, heads="0:2", validate=False, external_data=external)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} != first
    prune(path, out, heads="0:1", validate=False, external_data=external)
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == first
