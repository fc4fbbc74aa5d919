"""Models that are too large to be in memory several times: weights stay in files, and sessions take turns."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import prune
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime import CPU, Provider, Session, memory_limits
from onnxheadprune.runtime.memory_limits import Turns
from tests.graphs import toys
from tests.model.storing import FILE, TENSOR, on_disk

HEADS = "0:1 1:0,3"
DATA: Any = toys.ids(24)
HERE = Provider(CPU, "test")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model that counts as larger than memory, its tensors of 100 bytes and more as large ones."""
    on_disk(monkeypatch)
    monkeypatch.setattr(memory_limits, "MAPPED_FROM", FILE)
    monkeypatch.setattr(memory_limits, "BIG", TENSOR)
    path = tmp_path / "model.onnx"
    onnx.save(toys.stack(), path, save_as_external_data=True, size_threshold=0)
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
