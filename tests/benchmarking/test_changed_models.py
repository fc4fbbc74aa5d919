"""A model that was changed has no file: a benchmark measures what it is, not what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

from onnxheadprune.benchmarking.entry import Entry
from onnxheadprune.model.load import open_structure
from tests.clocks import heavy


@pytest.fixture(params=["inside", "beside"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with its weights inside the file or in a file beside it; the working directory is another."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    path = home / "model.onnx"
    beside = request.param == "beside"
    onnx.save(heavy(), path, save_as_external_data=beside, location="weights.bin", size_threshold=512)
    monkeypatch.chdir(elsewhere)
    return path


def shorter(model: ModelProto) -> ModelProto:
    """The model with another result: the residual connection alone."""
    changed = ModelProto()
    changed.CopyFrom(model)
    node = next(item for item in changed.graph.node if item.output[0] == changed.graph.output[0].name)
    node.CopyFrom(onnx.helper.make_node("Add", ["x", "x"], list(node.output)))
    return changed


def test_a_changed_model_is_what_runs(stored: Path, tmp_path: Path) -> None:
    loaded = open_structure(stored)
    entry = Entry.of(loaded.changed(shorter(loaded.proto)), tmp_path / "spare", 0)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 48, 16)).astype(np.float32)}
    session = onnxruntime.InferenceSession(entry.path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feed)
    assert np.array_equal(found, 2 * feed["x"])
