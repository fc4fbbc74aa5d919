"""What is said where two things do not fit together, and where files went."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from tests import toys
from tests.conftest import Command

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
FIRST = "first (float[N, 4] x, int64[N] ids) => (float[N, 4] y) { y = Identity(x) z = Identity(ids) }"
OTHERS = {
    "one more input": "other (float[N, 4] x, int64[N] ids, float[N] w) => (float[N, 4] y) { y = Identity(x) }",
    "another name": "other (float[N, 4] a, int64[N] ids) => (float[N, 4] y) { y = Identity(a) }",
    "another type": "other (double[N, 4] x, int64[N] ids) => (double[N, 4] y) { y = Identity(x) }",
    "another rank": "other (float[N, 4, 2] x, int64[N] ids) => (float[N, 4, 2] y) { y = Identity(x) }",
    "one less": "other (float[N, 4] x) => (float[N, 4] y) { y = Identity(x) }",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.attention(), path)
    return path


@pytest.mark.parametrize("what", OTHERS)
def test_bench_compares_no_models_of_other_inputs(what: str, command: Command, tmp_path: Path) -> None:
    paths = [tmp_path / "first.onnx", tmp_path / "other.onnx"]
    for path, text in zip(paths, (FIRST, OTHERS[what]), strict=True):
        onnx.save(onnx.parser.parse_model(HEAD + text), path)
    outcome = command("bench", *paths, "--provider", "cpu")
    assert outcome.exit_code == 2 and "do not take the same inputs" in outcome.stderr, outcome
    assert outcome.stderr.count("\n") == 1 and outcome.stdout == ""


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


@pytest.mark.parametrize("content", ["hello, world\n", "a: 1\nb: [2, 3]\n", "größer\n" * 800, "#!/bin/sh\n"])
def test_a_text_is_called_one(content: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text(content, encoding="utf-8")
    outcome = command("inspect", path)
    assert outcome.exit_code != 0 and "not an ONNX model but a text file" in outcome.stderr
    assert "wire" not in outcome.stderr


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
