"""`score` on the command line: what it prints and writes, and what it turns away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxheadprune import read_scores
from onnxheadprune.settings.registry import WITHOUT_DATA, methods_of
from onnxheadprune.settings.units import HEAD
from tests.calibration_files import pictures, tokenizer
from tests.choosing.conftest import is_picture
from tests.conftest import Command

CPU = ("--provider", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", methods_of(HEAD.scored_by))
def test_score_writes_scores_and_a_picture(
    method: str, command: Command, toy: Path, data: Path, tmp_path: Path
) -> None:
    out, picture = tmp_path / "scores.json", tmp_path / "heat.svg"
    options = [] if method in WITHOUT_DATA else ["--data", data]
    outcome = command("score", toy, "--method", method, *options, "-o", out, "--heatmap", picture, *CPU)
    assert outcome.exit_code == 0, outcome.stderr
    assert f"heads scored by {method}" in outcome.stdout and "low to high score" in outcome.stdout
    assert read_scores(out).method == method and is_picture(picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heat.svg", "scores.json"]


def test_score_json_is_the_file_format(command: Command, toy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    outcome = command("score", toy, "--data", data, "-o", out, "--json", *CPU)
    assert {"written_by": "onnxheadprune", **outcome.document} == json.loads(out.read_text(encoding="utf-8"))
    assert outcome.document["method"] == "reconstruction" and outcome.stderr == ""
    assert [len(site["scores"]) for site in outcome.document["sites"]] == [4, 4]
    assert command("score", toy, "--json").document["method"] == "weight"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_picture_twice_is_the_same_file(
    suffix: str, command: Command, toy: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        path = tmp_path / f"{name}{suffix}"
        assert command("score", toy, "--heatmap", path).exit_code == 0
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_score_asks_the_users_own_measure(
    command: Command, toy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def count(before, after, feed):\n    return float(before['logits'].size)\n"
    (tmp_path / "mine_for_scores.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ("--method", "ablation", "--data", data, "--json", *CPU)
    document = command("score", toy, *options, "--drift", "mine_for_scores:count").document
    assert document["unit"] == "count"
    assert document["sites"][0]["scores"] == [32 * 6 * 19] * 4
    outcome = command("score", toy, *options, "--drift", "mine_for_scores:nothing")
    assert outcome.exit_code == 2 and "cannot be imported" in outcome.document["error"]


@pytest.mark.slow
def test_score_reads_text_and_pictures(command: Command, tiny: Path, digits: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    words = np.random.default_rng(0).integers(0, 40, (40, 6))
    text.write_text("\n".join(" ".join(f"w{word}" for word in line) for line in words), encoding="utf-8")
    options = ("--data", text, "--tokenizer", tokenizer(tmp_path, 50), "--max-length", 5, "--json", *CPU)
    document = command("score", tiny / "bert-dynamo-sdpa.onnx", *options).document
    assert document["data"]["samples"] == 40 and len(document["sites"]) == 3
    folder = pictures(tmp_path / "pictures", 20)
    document = command("score", digits, "--data", folder, "--image-size", "8", "--json", *CPU).document
    assert document["data"]["samples"] == 20
