"""What is said where two things do not fit together, and where files went."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from tests.conftest import Command
from tests.graphs import toys


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.attention(), path)
    return path


@pytest.mark.slow
def test_other_heads_than_those_of_the_record(toy: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert command("prune", toy, "--heads", "0:1", "-o", out).exit_code == 0
    same = command("validate", toy, out, "--heads", "0:1")
    assert same.exit_code == 0, same
    other = command("validate", toy, out, "--heads", "0:0")
    assert other.exit_code == 2 and other.stdout == "" and other.stderr.count("\n") == 1
    assert "out.onnx records that attn.0:1 is removed, and --heads names attn.0:0" in other.stderr
    # Without a record the heads that are named are all that is known.
    bare = onnx.load(out)
    del bare.metadata_props[:]
    onnx.save(bare, out)
    assert command("validate", toy, out, "--heads", "0:1").exit_code == 0
    assert command("validate", toy, out, "--heads", "0:0").exit_code == 1


@pytest.mark.slow
def test_a_cut_says_where_its_files_went(toy: Path, command: Command, tmp_path: Path) -> None:
    out, page, plot = (tmp_path / name for name in ("out.onnx", "page.html", "heads.svg"))
    words = ("--ratio", "0.25", "-o", out, "--report", page, "--heatmap", plot, "--provider", "cpu")
    outcome = command("prune", toy, *words)
    assert outcome.exit_code == 0, outcome
    assert "chosen by weights alone" in outcome.stdout and "--recover" not in outcome.stdout
    flat = "".join(outcome.stdout.split())
    for label, path in (("", out), ("report", page), ("plot", plot)):
        assert f"{label}{path}" in flat
