"""`prune --report`: what was done and proven, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[1] / "sample_models"


def test_a_page_says_what_the_terminal_says_and_shows_the_heads(command: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    data = SAMPLES / "digits_calibration.npz"
    result = command(
        "prune", SAMPLES / "digits_vit.onnx", "-o", tmp_path / "out.onnx", "--ratio", "0.25", "--data", data,
        "--report", page,
    )  # fmt: skip
    assert result.exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "removing 8 of 32 heads" in text and "validation" in text and "passed" in text
    assert text.count("<svg") == 1 and text.startswith("<!doctype html>")


def test_a_page_of_named_heads_has_no_picture(command: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = command(
        "prune", SAMPLES / "digits_vit.onnx", "-o", tmp_path / "out.onnx", "--heads", "0:1", "--report", page
    )
    assert result.exit_code == 0
    assert "<svg" not in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_one_sentence(command: Any, tmp_path: Path) -> None:
    page = tmp_path / "missing" / "report.html"
    result = command(
        "prune", SAMPLES / "digits_vit.onnx", "-o", tmp_path / "out.onnx", "--heads", "0:1", "--report", page
    )
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
