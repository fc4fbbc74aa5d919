"""A model or a folder that is replaced: backup and original are named; the next command compares with the original."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest

from tests.conftest import Command
from tests.graphs import toys


@pytest.fixture(params=["file", "folder"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model, or a folder with two."""
    place = tmp_path / "model.onnx"
    if request.param == "file":
        onnx.save(toys.attention(), place)
        return place
    (folder := tmp_path / "exported").mkdir()
    for name in ("model.onnx", "model_copy.onnx"):
        onnx.save(toys.attention(), folder / name)
    (folder / "config.json").write_text("{}")
    return folder


def contents(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def next_words(stdout: str) -> list[str]:
    return shlex.split(stdout.partition("\nnext ")[2].partition("\nmore ")[0].replace("\\\n", ""))


def test_the_original_is_named_however_often_it_is_cut(model: Path, command: Command) -> None:
    original, before = model.with_name(f"{model.name}.bak"), contents(model)
    for number, told in enumerate(("is the original", "was pruned before")):
        backup = model.with_name(f"{model.name}.bak{number or ''}")
        done = command("prune", model, "--heads", f"0:{number}", "--in-place")
        assert done.exit_code == 0, done.stderr
        said = " ".join(done.stdout.split())
        assert f"backup {backup} {told}" in said and f"{original} is the original" in said
        assert next_words(done.stdout)[:4] == ["onnxheadprune", "validate", str(original), str(model)]
    assert contents(original) == before
    assert command("validate", original, model).exit_code == 0
    document = command("prune", model, "--heads", "0:2", "--in-place", "--json").document
    assert document["backup"] == {"path": f"{model}.bak2", "original": str(original)}
