"""A target for the size of the file: met within a percent, or refused with what can be reached."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxheadprune as ohp
from tests.conftest import SAMPLES

NEAR = 0.016
"""Part of the original's size by which a file may be smaller than asked for: a head of the vision transformer."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vision transformer, a decoder with a vocabulary, and a little data for both."""
    folder = tmp_path_factory.mktemp("size")
    for name, few in (("digits_vit", 16), ("char_gpt", 8)):
        shutil.copy(SAMPLES / f"{name}.onnx", folder)
        arrays = np.load(SAMPLES / f"{name.partition('_vit')[0]}_calibration.npz")
        np.savez(folder / f"{name}.npz", **{key: array[:few] for key, array in arrays.items()})
    return folder


def ratio_of(before: Path, after: Path) -> float:
    return after.stat().st_size / before.stat().st_size


@pytest.mark.parametrize(
    ("model", "target", "more"),
    [
        ("digits_vit", "75%", {}),
        pytest.param("digits_vit", 0.4, {}, marks=pytest.mark.slow),
        pytest.param("digits_vit", 0.9, {"units": "heads", "refit": False}, marks=pytest.mark.slow),
        pytest.param("digits_vit", 0.6, {"units": "all"}, marks=pytest.mark.slow),
        pytest.param("char_gpt", 0.75, {"protect": "0"}, marks=pytest.mark.slow),
        pytest.param("char_gpt", 0.75, {"vocab_size": 60, "refit": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_file_is_as_small_as_asked_for(
    model: str, target: Any, more: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    original, output = place / f"{model}.onnx", tmp_path / "out.onnx"
    result = ohp.prune(original, output, target_size=target, data=place / f"{model}.npz", **more)
    wanted = float(target.rstrip("%")) / 100 if isinstance(target, str) else target
    assert wanted - NEAR <= ratio_of(original, output) <= wanted
    (gate,) = result.gates
    assert gate.passed and gate.value == pytest.approx(ratio_of(original, output))
    if "units" not in more:
        assert {cut.units for cut in result.plan.losing} == {"heads", "neurons"}
