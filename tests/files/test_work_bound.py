"""Lists of a file fit their tensors before an analysis counts with them, and any analysis ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from onnxheadprune import ModelError, inspect
from onnxheadprune.model import work_bound
from onnxheadprune.model.graph.misfits import CONTENT, takes_list
from onnxheadprune.operators import view_of
from tests.conftest import Command
from tests.graphs import toys
from tests.limits import within

INTS = OpSchema.AttrType.INTS
MANY = 1000
NEWEST = onnx.defs.onnx_opset_version()
RANK = 4


def _schemas() -> Iterator[OpSchema]:
    """Every version of every standard operator."""
    return (item for item in onnx.defs.get_all_schemas_with_history() if item.domain == "")


def _listed_inputs(schema: OpSchema) -> list[int]:
    """The inputs that are lists of integers about axes."""
    return [
        index
        for index, item in enumerate(schema.inputs)
        if takes_list(schema, index) and item.name not in CONTENT
    ]


def _lists() -> Iterator[tuple[str, int, str]]:
    """Every list about axes, as an attribute or an input, with its operator and version."""
    for schema in _schemas():
        attributes = {name for name, item in schema.attributes.items() if item.type == INTS} - CONTENT
        for name in sorted(attributes | {schema.inputs[index].name for index in _listed_inputs(schema)}):
            yield schema.name, schema.since_version, name


LISTS = sorted(_lists())


def _with_list(op_type: str, version: int, name: str, numbers: list[int]) -> ModelProto:
    """One node, one list of which has these numbers; its other inputs have four axes."""
    schema = onnx.defs.get_schema(op_type, version, "")
    graph = onnx.GraphProto(name="one", output=[helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    node = graph.node.add(op_type=op_type, output=["y"])
    listed = _listed_inputs(schema)
    for index in range(min(len(schema.inputs), max([schema.min_input, 1, *(place + 1 for place in listed)]))):
        item = schema.inputs[index]
        if item.name == name:
            graph.initializer.append(numpy_helper.from_array(np.array(numbers), name))
        elif index not in listed:
            graph.input.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, ["n"] * RANK))
        node.input.append(name if item.name == name else "" if index in listed else f"x{index}")
    if name in schema.attributes:
        node.attribute.append(helper.make_attribute(name, numbers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def test_a_list_is_no_longer_than_tensors_have_axes() -> None:
    """Of every version of every standard operator: each integer list that its schema names, unless it is data."""
    for op_type, version, name in LISTS:
        with within(10), pytest.raises(ModelError, match=rf"is not valid: {name} has {MANY:,} entries"):
            view_of(_with_list(op_type, version, name, [0] * MANY))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8])
def test_data_is_as_long_as_it_likes(dtype: type[np.generic]) -> None:
    """Of every standard operator: each input that takes such numbers and is no list about axes."""
    kind = f"tensor({np.dtype(dtype)})"
    for schema in onnx.defs.get_all_schemas():
        lists = _listed_inputs(schema)
        for index, item in enumerate(schema.inputs if not schema.domain else ()):
            if kind not in item.types or index in lists:
                continue
            graph = onnx.GraphProto(name="one")
            graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
            graph.node.add(op_type=schema.name, input=["x"] * index + ["stored"], output=["y"])
            graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"] * RANK))
            graph.initializer.append(numpy_helper.from_array(np.zeros(MANY, dtype), "stored"))
            said = ""
            try:
                view_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", NEWEST)]))
            except ModelError as error:
                said = str(error)
            assert f"has {MANY:,} entries" not in said


@pytest.mark.parametrize(
    ("op_type", "name", "numbers"),
    [
        *(
            ("Transpose", "perm", numbers)
            for numbers in ([0, 1, 2], [0, 0, 1, 2], [0, 1, 2, 4], [0, 1, 2, -5])
        ),
        *((op, "axes", numbers) for op in ("Squeeze", "ReduceSum", "ReduceMax") for numbers in ([4], [-5])),
        ("Unsqueeze", "axes", [1, 1]),
        ("Tile", "repeats", [1, 1, 1]),
        ("Conv", "kernel_shape", [1, 1, 1]),
    ],
)
def test_a_list_fits_the_rank_of_its_tensor(op_type: str, name: str, numbers: list[int]) -> None:
    version = onnx.defs.get_schema(op_type, 18 if op_type != "Transpose" else 13, "").since_version
    with pytest.raises(ModelError, match="is not valid: "):
        view_of(_with_list(op_type, version, name, numbers))


SIZES = ([-12], [1] * 65, [2**40, 2**40])


@pytest.mark.parametrize("dims", SIZES, ids=["negative", "axes", "giant"])
@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_a_declared_shape_is_possible(place: str, dims: list[int], command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    declared = helper.make_tensor_value_info("x" if place == "input" else "y", TensorProto.FLOAT, dims)
    del getattr(model.graph, place)[:]
    getattr(model.graph, place).append(declared)
    onnx.save(model, tmp_path / "m.onnx")
    outcome = command("inspect", tmp_path / "m.onnx")
    assert outcome.exit_code == 3
    assert "m.onnx is not a valid ONNX model: " in outcome.stderr


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that any analysis of many blocks meets."""
    monkeypatch.setattr(work_bound, "SECONDS", 0.1)
    monkeypatch.setattr(work_bound, "SECONDS_PER_NODE", 0)
    monkeypatch.setattr(work_bound, "LOOK", 0.02)


@pytest.mark.usefixtures("impatient")
def test_an_analysis_that_takes_too_long_ends(tmp_path: Path, command: Command) -> None:
    """In the thread that analyses, whichever that is; what is nested has no bound of its own."""
    model = toys.encoder(300)
    onnx.save(model, tmp_path / "m.onnx")
    outcome = command("inspect", tmp_path / "m.onnx")
    assert outcome.exit_code == 3, outcome
    assert "m.onnx takes more than 0 seconds of work to analyse; that was stopped" in outcome.stderr
    errors: list[BaseException] = []

    def look() -> None:
        with pytest.raises(ModelError, match="seconds of work") as caught:
            inspect(model)
        errors.append(caught.value)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert errors


@pytest.mark.slow
def test_honest_work_is_not_stopped() -> None:
    assert inspect(toys.encoder(300))
