"""Proofs of models that are too large to be in memory several times: weights stay in files, and models take turns."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune import prune
from onnxheadprune.model import load, new_contents
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage import wire
from onnxheadprune.runtime import CPU, Provider, Session, memory_limits
from onnxheadprune.runtime.memory_limits import Turns
from tests.graphs import toys

HEADS = "0:1 1:0,3"
DATA: Any = toys.ids(24)
HERE = Provider(CPU, "test")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model that counts as larger than memory, its tensors of 100 bytes and more as large ones."""
    for module in ("runtime.memory_limits", "model.load"):
        monkeypatch.setattr(f"onnxheadprune.{module}.MAPPED_FROM", 1000)
    for module in (wire, memory_limits, load, new_contents):
        monkeypatch.setattr(module, "BIG", 100)
    monkeypatch.setattr("onnxheadprune.validation.runs.SPARED", 0)
    path = tmp_path / "model.onnx"
    save_model(toys.stack(), path, external="always")
    return path


def is_open(session: Session) -> bool:
    return session._session is not None


def test_one_of_several_large_models_is_open_at_a_time(large: Path) -> None:
    turns, feed = Turns(), DATA[0]
    first, second = (Session(open_structure(large), HERE).taking(turns) for _ in range(2))
    assert not is_open(first) and is_open(second)
    expected = second.run(feed)
    found = first.run(feed)
    assert is_open(first) and not is_open(second)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert second.output_types() == first.output_types()
    turns.rest()
    assert not is_open(first) and not is_open(second)


def test_what_is_cut_is_mapped_from_a_file_that_goes_with_the_session(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    cut = prune(large, heads=HEADS, provider="cpu", validate=False)
    session = Session(cut.pruned, HERE)
    assert "weights" in {item.name for item in own.rglob("*") if item.is_file()}
    found = session.run(DATA[0])["logits"]
    assert np.array_equal(found, Session(cut.model, HERE).run(DATA[0])["logits"])
    del session
    gc.collect()
    assert not list(own.iterdir())
