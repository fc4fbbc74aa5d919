"""What joins two linear layers makes a block of some kind, a near miss, or nothing; what an attention owns is none."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto

from tests.conftest import Command
from tests.graph_text import text_model

WEIGHTS = """
  float[8, 12] up, float[12] b, float[12, 8] down, float[8, 12] gate,
  float[12, 8, 1] up_conv, float[8, 12, 1] down_conv, float[12, 8, 3] wide, float[12, 1, 3] depth,
  float[8, 2] to_scale, float[2, 3] to_scales, int64[1] last = {-1}, float two = {2.0},
  int64[1] narrow = {8}, int64[1] broad = {12}
"""


def _model(body: str, ends: str = "y", weights: str = WEIGHTS) -> ModelProto:
    return text_model(body, ends, weights)


def test_no_choice_takes_ranks(command: Command, tmp_path: Path) -> None:
    """They are there to be named; a choice by data takes neurons."""
    body = "u = MatMul (x, up) h = Relu (u) d = MatMul (h, down) z = Add (d, x)"
    low = "p = MatMul (z, gate) q = MatMul (p, down) y = Add (q, z)"
    onnx.save(_model(f"{body} {low}"), tmp_path / "both.onnx")
    onnx.save(_model("u = MatMul (x, up) d = MatMul (u, down) y = Add (d, x)"), tmp_path / "low.onnx")
    words = ("--ratio", "0.3", "--units", "neurons", "--data", "random", "--multiple-of", "neurons=1")
    made = command("prune", tmp_path / "both.onnx", "-o", tmp_path / "o.onnx", *words, "--json")
    assert made.exit_code == 0, made.stderr
    lost = {cut["key"]: cut["removed"] for cut in made.document["plan"]["neurons"]}
    assert lost["ffn.0"] and not lost.get("ffn.1")
    refused = command("prune", tmp_path / "low.onnx", "-o", tmp_path / "o.onnx", *words)
    assert refused.exit_code == 3 and "no activation in between: name them" in refused.stderr
    named = command("prune", tmp_path / "low.onnx", "-o", tmp_path / "o.onnx", "--neurons", "0:1")
    assert named.exit_code == 0, named.stderr
