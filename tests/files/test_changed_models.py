"""A model that was changed has no file: whoever measures or writes it gets what it is, not what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import Compensation, bench, prune
from onnxheadprune.benchmarking.entry import Entry
from onnxheadprune.choosing.compensation.record import refitted
from onnxheadprune.edit.submodel import with_stored
from onnxheadprune.model.load import LoadedModel, load_model, open_model, open_structure
from onnxheadprune.model.new_contents import with_contents
from onnxheadprune.model.save import save_model
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.bound import BoundSession
from onnxheadprune.runtime.int8_saturation import unrounded
from tests.clocks import heavy, patient
from tests.graphs import toys

HERE = Provider(CPU, "for the test")
QUICK: dict[str, Any] = {"provider": "cpu", "repeats": 10, "memory": False, "threads": 1}


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


def test_only_a_file_that_was_read_gives_a_path(stored: Path) -> None:
    loaded = open_structure(stored)
    assert loaded.path == stored and open_model(stored).path == stored
    other = shorter(loaded.proto)
    for made in (
        loaded.changed(other),
        dataclasses.replace(loaded, proto=other),
        dataclasses.replace(open_model(stored), proto=other),
        LoadedModel(other, "m"),
        with_contents(loaded, {"attn.q.bias": np.zeros(64, np.float32)}),
        refitted(loaded, Compensation("", 1, {"attn.q.bias": np.zeros(64, np.float32)})),
        loaded.changed(with_stored(loaded.proto, {})),
        prune(stored, heads={0: [1]}, provider="cpu").pruned,
    ):
        assert made.path is None and made.data_files == ()
    with pytest.raises(TypeError):
        LoadedModel(other, "m", path=stored)  # type: ignore[call-arg]
    # ValueError up to Python 3.12, then TypeError.
    with pytest.raises((ValueError, TypeError), match="init=False"):
        dataclasses.replace(loaded, path=stored)


def test_exact_settings_of_packed_weights_are_no_file(tmp_path: Path) -> None:
    path = tmp_path / "packed.onnx"
    onnx.save(toys.packed(toys.attention(hidden=32), 4), path)
    assert unrounded(open_structure(path)).path is None


def test_a_changed_model_is_what_runs(stored: Path, tmp_path: Path) -> None:
    loaded = open_structure(stored)
    entry = Entry.of(loaded.changed(shorter(loaded.proto)), tmp_path / "spare", 0)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 48, 16)).astype(np.float32)}
    bound = BoundSession(entry.path, HERE).bind(feed)
    bound.run()
    (found,) = bound.outputs().values()
    assert np.array_equal(found, 2 * feed["x"])


@pytest.mark.slow
@patient
def test_a_changed_model_is_what_is_measured(stored: Path) -> None:
    loaded = open_structure(stored)
    cut = prune(stored, heads={0: range(14)}, validate=False).pruned
    assert cut.path is None and cut.inline == loaded.inline
    result = bench(loaded, cut, loaded.changed(loaded.proto), **QUICK)
    assert result.speedup(1).value > 1.2
    assert result.speedup(2).value < 1.4
    # All files count that a model without a file of its own is written to.
    whole, small, same = (facts.file_bytes for facts in result.models)
    assert whole == sum(file.stat().st_size for file in stored.parent.iterdir())
    assert small < whole / 2 and abs(same - whole) < 2**13


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 1_000_000])
def test_weights_that_stay_on_disk_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Tensors are references into the original's own file and into one beside it, as beyond 2 GB (`limit`)."""
    for module in ("benchmarking.entry", "model.save") if limit else ():
        monkeypatch.setattr(f"onnxheadprune.{module}.INLINE_LIMIT", limit)
    path = tmp_path / "model.onnx"
    onnx.save(toys.attention(extra_weight=400_000), path)
    for external in (True, None) if limit is None else (True,):
        home = tmp_path / f"home-{external}"
        home.mkdir()
        kept = home / "model.onnx"
        save_model(load_model(path), kept, external=external)
        loaded = open_structure(kept)
        assert loaded.sources
        cut = prune(kept, heads={0: [1, 2, 3]}, validate=False).pruned
        assert cut.sources and cut.path is None
        monkeypatch.chdir(tmp_path)
        result = bench(loaded, cut, batch=[1], seq=[4], **QUICK)
        assert result.models[1].params < result.models[0].params
        assert 400_000 * 4 < result.models[1].file_bytes < result.models[0].file_bytes + 2**14
