"""The character sample: real, and cut by a target at a small price."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from onnxheadprune.data.text import LEAST
from onnxheadprune.runtime import CPU, Provider, Session
from tests.calibration_files import tokenizer
from tests.conftest import SAMPLES

MODEL = SAMPLES / "char_gpt.onnx"
CALIBRATION = SAMPLES / "char_gpt_calibration.npz"
PROVIDER = Provider(CPU, "test")
WINDOWS = 96
"""Held-out windows that are looked at here; benchmarks/char_gpt.py looks at all."""


def perplexity(model: ModelProto) -> float:
    with np.load(SAMPLES / "char_gpt_test.npz") as file:
        ids, labels = file["input_ids"][:WINDOWS], file["labels"][:WINDOWS]
    logits: Any = Session(model, PROVIDER).run({"input_ids": ids})["logits"].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return math.exp(float((np.log(np.exp(logits).sum(axis=-1)) - picked).mean()))


@pytest.fixture(scope="module")
def original() -> float:
    return perplexity(onnx.load(MODEL))


@pytest.mark.slow
def test_it_is_small_and_trained(original: float) -> None:
    assert MODEL.stat().st_size < 3e6
    assert original < 5
    assert [site.num_heads for site in ohp.inspect(MODEL)] == [8] * 4


def test_labels_are_the_next_characters() -> None:
    windows = []
    for part in ("test", "calibration"):
        with np.load(SAMPLES / f"char_gpt_{part}.npz") as file:
            assert np.array_equal(file["input_ids"][:, 1:], file["labels"][:, :-1])
            assert file["input_ids"].min() >= 0 and file["labels"].max() < 96
            windows.append({row.tobytes() for row in file["input_ids"]})
    assert not windows[0] & windows[1]


@pytest.mark.slow
def test_cutting_three_heads_in_ten_costs_less_if_the_rest_is_refitted(original: float) -> None:
    """On one window of sixteen, which costs the same heads as one of two and a tenth of the time."""
    with np.load(CALIBRATION) as file:
        data = {name: file[name][::16] for name in file.files}
    refitted = ohp.prune(MODEL, ratio=0.3, data=data, provider="cpu")
    assert refitted.validation is not None and refitted.validation.verdict == "passed"
    assert refitted.chosen is not None and refitted.chosen.selection.count == 10
    as_it_is = ohp.prune(MODEL, heads=refitted.chosen.selection.spec, validate=False)
    rise = [perplexity(result.model) / original - 1 for result in (refitted, as_it_is)]
    assert 0 < rise[0] < 0.07
    assert rise[1] > 1.3 * rise[0]


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
