"""Models and data that the commands which choose heads are tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import Outcome
from tests.graphs import toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of plain heads, one of grouped heads, and data with labels for both."""
    folder = tmp_path_factory.mktemp("models")
    onnx.save(toys.stack(), folder / "toy.onnx")
    onnx.save(toys.stack(heads=6, kv_heads=2), folder / "gqa.onnx")
    ids = np.concatenate([feed["input_ids"] for feed in toys.ids(24)])
    np.savez(folder / "data.npz", input_ids=ids, labels=ids)
    return folder


@pytest.fixture
def toy(folder: Path) -> Path:
    return folder / "toy.onnx"


@pytest.fixture
def data(folder: Path) -> Path:
    return folder / "data.npz"


def said(outcome: Outcome) -> str:
    return " ".join(outcome.stderr.split())


def is_picture(path: Path) -> bool:
    start = path.read_bytes()[:200]
    return start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start
