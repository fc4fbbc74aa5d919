"""What comes after tokens are removed knows the ids that are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxheadprune as ohp
from tests.conftest import Command
from tests.vocabulary.places import KEPT, fill


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)


def test_data_is_the_original_s(command: Command, place: Path) -> None:
    """It is translated where it meets the pruned model; without, its ids would be none of that model's, or others."""
    path, out = place / "models" / "m.onnx", place / "out.onnx"
    made = command("prune", path, "-o", out, "--vocab", "keep.txt", "--data", "d.npz", "--json").document
    drift = made["validation"]["drift"]
    again = command("validate", path, out, "--data", "d.npz", "--json").document
    assert again["verdict"] == "passed" and again["drift"] == drift
    ids = np.load(place / "d.npz")["input_ids"]
    ids[:, 0] = 18
    np.savez(place / "none.npz", input_ids=ids)
    none = command("validate", path, out, "--data", "none.npz")
    assert none.exit_code == 2 and "no sample of the data has tokens that are kept only" in none.stderr


def test_a_recovery_behind_it_is_proven(place: Path) -> None:
    """What was trained has fewer tokens; the reference, which has all of them, gets it in the original's shape."""
    paths = [place / name for name in ("models/m.onnx", "pruned.onnx", "recovered.onnx")]
    data = {"input_ids": np.random.default_rng(0).choice(KEPT, (24, 6))}
    ohp.prune(*paths[:2], vocab=list(KEPT), heads="0:1", validate=False)
    result = ohp.recover(*paths, data=data, budget=1, provider="cpu")
    assert result.validation is not None and "head.weight" in result.validation.refitted
