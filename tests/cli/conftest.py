"""A folder with everything that the examples of the help name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.options.models import write_models


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples name."""
    write_models(tmp_path)
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
