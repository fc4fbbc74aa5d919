"""COLUMNS says how wide a report is; what is no width, or none that a table can be read at, hides nothing."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from tests.conftest import Command
from tests.graphs import toys

NO_WIDTHS = ["0", "-1", "", "wide", "1e3", "\u0668\u0660", " "]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, batch_in_process: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("model.onnx", "folder/model.onnx"):
        onnx.save(toys.attention(), tmp_path / name)
    (tmp_path / "job.yaml").write_text("model: model.onnx\noutput: out\nprune: {heads: {'0': [1]}}\n")
    told = command("prune", "model.onnx", "--heads", "0:1", "-o", "pruned.onnx", "--json")
    (tmp_path / "pruned.json").write_text(told.stdout)
    return tmp_path


@pytest.mark.parametrize("columns", NO_WIDTHS)
def test_what_is_no_width_is_as_if_nobody_asked(
    columns: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command("inspect", "model.onnx").stdout
    monkeypatch.setenv("COLUMNS", columns)
    assert command("inspect", "model.onnx").stdout == before


@pytest.mark.parametrize("columns", ["1", "2", "59", "60", "080", "1000", "1001", "9" * 5000])
def test_any_width_shows_every_number(
    columns: str, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    outcome = command("inspect", "model.onnx")
    words = re.findall(r"[\w.]+", outcome.stdout)
    assert outcome.exit_code == 0 and {"attn.0", "attn", "mha", "4"} <= set(words), outcome.stdout
    assert all(len(line) <= 1000 for line in outcome.stdout.splitlines())
