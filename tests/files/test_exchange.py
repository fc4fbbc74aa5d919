"""Graphs of onnx-graphsurgeon and models of onnx_ir, in and out: nothing that they can hold is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, helper

import onnxheadprune as ohp
from onnxheadprune import ModelError, UsageError
from onnxheadprune.model.exchange import METADATA, to_graphsurgeon, to_onnx_ir
from onnxheadprune.model.load import open_structure
from tests.graphs import toys

LARGE = 20_000
"""Elements of a tensor that stays in its file."""


@pytest.fixture
def ir() -> ModuleType:
    """onnx_ir, which the `test` extra brings."""
    return pytest.importorskip("onnx_ir")


def with_function() -> ModelProto:
    """The toy with a local function that no head passes, and metadata."""
    model = toys.attention()
    body = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    made = helper.make_function("tests", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    model.functions.append(made)
    model.opset_import.append(helper.make_opsetid("tests", 1))
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(helper.make_node("Twice", ["sum"], ["y"], domain="tests"))
    return model


def value_names(model: ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def initializers(model: ModelProto) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}


def as_graph(result: ohp.PruneResult) -> Any:
    return result.to_graphsurgeon()


def as_ir(result: ohp.PruneResult) -> Any:
    return result.to_onnx_ir()


def graph_of(model: ModelProto) -> Any:
    return to_graphsurgeon(model)


def ir_of(model: ModelProto) -> Any:
    pytest.importorskip("onnx_ir")
    return to_onnx_ir(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("into", "out"), [(graph_of, as_graph), (ir_of, as_ir)], ids=["graphsurgeon", "onnx_ir"]
)
def test_what_comes_in_goes_out(
    into: Callable[[ModelProto], Any], out: Callable[[ohp.PruneResult], Any]
) -> None:
    original = with_function()
    before = original.SerializeToString()
    given = into(original)
    result = ohp.prune(given, heads={0: [1]})
    made = out(result)
    assert type(made) is type(given)
    again = open_structure(made)
    held = again.as_stored
    assert value_names(held) == value_names(result.model)
    assert initializers(held) == initializers(result.model)
    assert not held.functions
    assert metadata(held) == metadata(result.model)
    assert metadata(held)["author"] == "tests" and len(metadata(held)) >= 3
    # The record of the heads came along: it need not be said which ones are gone, and another cut goes on from there.
    assert ohp.validate(given, made).verdict == "passed"
    second = ohp.prune(made, heads={0: [2]})
    (site,) = ohp.inspect(out(second))
    assert site.removed == (1, 2)
    assert original.SerializeToString() == before


@pytest.mark.parametrize("into", [graph_of, ir_of])
def test_every_function_takes_them(into: Callable[[ModelProto], Any]) -> None:
    given = into(toys.attention())
    plan = ohp.plan_pruning(given, heads={0: [1]})
    assert plan.model == "toy"
    assert ohp.validate(given, ohp.apply_plan(plan, given)).verdict == "passed"
    assert ohp.score(given, method="weight").sites


def on_disk(folder: Path, name: str = "w.bin") -> Path:
    path = folder / "toy.onnx"
    toy = toys.attention(extra_weight=LARGE)
    onnx.save(toy, path, save_as_external_data=True, location=name, size_threshold=100)
    return path


def test_weights_of_onnx_ir_stay_in_their_file(ir: ModuleType, tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    given = ir.load(path)
    loaded = open_structure(given)
    assert loaded.sources["w.bin"].path == tmp_path / "w.bin"
    (outside,) = [item for item in loaded.proto.graph.initializer if item.data_location]
    assert outside.name == "extra.weight" and outside.dims == [LARGE]
    before = (tmp_path / "w.bin").read_bytes()
    result = ohp.prune(given, tmp_path / "less.onnx", heads={0: [1]})
    assert ohp.validate(path, tmp_path / "less.onnx").verdict == "passed"
    assert initializers(ir.to_proto(result.to_onnx_ir())) == initializers(result.model)
    assert (tmp_path / "w.bin").read_bytes() == before
    with pytest.raises(UsageError, match="the model's weights"):
        ohp.prune(given, tmp_path / "w.bin", heads={0: [1]})


def test_weights_outside_of_the_folder_are_not_read(ir: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    given = ir.load(on_disk(tmp_path / "in"))
    (tmp_path / "in" / "w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "in" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="outside of its folder"):
        ohp.inspect(given)


def test_two_files_of_one_name_are_told(ir: ModuleType, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    given, foreign = ir.load(on_disk(one)), ir.load(on_disk(other))
    values = given.graph.initializers
    values["extra.weight"].const_value = foreign.graph.initializers["extra.weight"].const_value
    with pytest.raises(ModelError, match=r"two files called 'w\.bin'"):
        ohp.inspect(given)


def test_a_plain_graph_has_no_metadata() -> None:
    graph = gs.import_onnx(toys.attention())
    assert not hasattr(graph, METADATA)
    assert len(ohp.inspect(graph)) == 1


def test_without_onnx_ir_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(UsageError, match="requires onnx_ir, which is not installed: pip install 'onnx-ir"):
        ohp.prune(toys.attention(), heads={0: [1]}).to_onnx_ir()
