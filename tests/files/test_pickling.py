"""Models on their way to workers."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.pickling import arrived, sent
from onnxheadprune.model.storage.tensors import is_outside
from tests.graphs import toys


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelProto, Path]:
    """A model in memory, and the same with every weight of more than 64 bytes in a file beside it that is not read."""
    for module in ("load", "new_contents", "storage.wire"):
        monkeypatch.setattr(f"onnxheadprune.model.{module}.BIG", 64)
    model, copy = toys.stack(layers=3), ModelProto()
    copy.CopyFrom(model)
    path = tmp_path / "model.onnx"
    onnx.save(copy, path, save_as_external_data=True, location="weights", size_threshold=64)
    return model, path


def test_small_models_travel_whole_and_large_ones_by_path(outside: tuple[ModelProto, Path]) -> None:
    loaded = open_structure(outside[1])
    whole, by_path = sent(loaded), sent(loaded, whole_up_to=0)
    assert whole.content is not None and whole.path is None
    assert by_path.content is None and by_path.path == outside[1].resolve()
    assert len(pickle.dumps(by_path)) < 1000 < len(pickle.dumps(whole))
    for task in (whole, by_path):
        there = arrived(pickle.loads(pickle.dumps(task)))
        assert [node.name for node in there.proto.graph.node] == [n.name for n in loaded.proto.graph.node]
    assert all(not is_outside(tensor) for tensor in arrived(whole).proto.graph.initializer)


def test_a_worker_says_which_file_it_cannot_reach(outside: tuple[ModelProto, Path], tmp_path: Path) -> None:
    task = sent(open_structure(outside[1]), whole_up_to=0)
    onnx.save(toys.stack(layers=2), outside[1])
    with pytest.raises(UsageError, match="is another model for a worker"):
        arrived(task)
    outside[1].unlink()
    with pytest.raises(UsageError, match=r"a worker cannot read .* workers need the same files"):
        arrived(task)
