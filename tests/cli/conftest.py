"""A folder with everything that the examples of the help name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.options.models import write_models


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and what goes with them, written once."""
    folder = tmp_path_factory.mktemp("toys")
    write_models(folder)
    return folder


@pytest.fixture
def desk(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples name."""
    shutil.copytree(toys, tmp_path, dirs_exist_ok=True)
    files = {
        "toy.onnx": "model.onnx", "toy-less.onnx": "pruned.onnx", "toy.npz": "data.npz", "export-toy": "bert",
        "folder-toy": "models", "job-toy.yaml": "job.yaml", "curve.json": "result.json",
    }  # fmt: skip
    for old, new in files.items():
        copy = shutil.copytree if (tmp_path / old).is_dir() else shutil.copy
        copy(tmp_path / old, tmp_path / new)
    (tmp_path / "lines.txt").write_text("\n".join(f"w{row % 9} w{row % 7} w3" for row in range(40)))
    monkeypatch.chdir(tmp_path)
    return tmp_path
