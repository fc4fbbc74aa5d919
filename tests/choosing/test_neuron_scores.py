"""Scores of neurons: each method against its definition, files, and what a choice makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.settings.registry import methods_of
from onnxheadprune.settings.units import NEURON
from tests.graphs import toys

BOTH = frozenset({"heads", "neurons"})


# Choices


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model and its data."""
    onnx.save(toys.stack(), tmp_path / "toy.onnx")
    rows = np.concatenate([feed["input_ids"] for feed in toys.ids(20)])
    np.savez(tmp_path / "ids.npz", input_ids=rows)
    return tmp_path


QUICK = ("weight", "taylor")


@pytest.mark.parametrize(
    "method",
    [
        *QUICK,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in methods_of(NEURON.scored_by)
            if name not in QUICK
        ),
    ],
)
def test_a_choice_of_heads_and_neurons_by_every_method_is_exact(method: Any, place: Path) -> None:
    target: Any = {"ratio": 0.4, "units": BOTH, "method": method, "multiple_of": {"neurons": 2}}
    result = ohp.prune(place / "toy.onnx", **target, data=str(place / "ids.npz"), provider="cpu")
    assert result.validation is not None and result.validation.passed and result.chosen is not None
    selection = result.chosen.selection
    assert f"scores ({method}) within blocks, measured drift after refit" in selection.basis
    kinds = {site >= 1_000_000 for site, units in selection.heads.items() if units}
    assert kinds == {True, False}, "heads went, and neurons"
