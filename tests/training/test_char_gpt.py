"""The character sample: real, and cut by a target at a small price."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune.data.text import LEAST
from tests.calibration_files import tokenizer
from tests.conftest import SAMPLES

MODEL = SAMPLES / "char_gpt.onnx"
CALIBRATION = SAMPLES / "char_gpt_calibration.npz"


def test_labels_are_the_next_characters() -> None:
    windows = []
    for part in ("test", "calibration"):
        with np.load(SAMPLES / f"char_gpt_{part}.npz") as file:
            assert np.array_equal(file["input_ids"][:, 1:], file["labels"][:, :-1])
            assert file["input_ids"].min() >= 0 and file["labels"].max() < 96
            windows.append({row.tobytes() for row in file["input_ids"]})
    assert not windows[0] & windows[1]


@pytest.mark.slow
def test_lines_of_text_are_learned_from_as_windows(tmp_path: Path) -> None:
    """Lines too short to learn from alone; windows hold all of their characters, each once."""
    with np.load(CALIBRATION) as file:
        lines = np.maximum(file["input_ids"], 1).reshape(-1, 8)[:1100]
    tokenizer(tmp_path, 96)
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(" ".join(f"w{token - 1}" for token in line) for line in lines))
    made = ohp.prune(
        MODEL, heads={0: [1], 2: [0, 3]}, data=text, tokenizer=tmp_path, recover=1, provider="cpu"
    )
    assert made.chosen is not None and (recovery := made.chosen.recovery) is not None
    assert recovery.samples + recovery.held_out == math.ceil(lines.size / (lines.size // LEAST))
    assert recovery.best > 0 and recovery.curve[-1].loss < recovery.curve[0].loss
