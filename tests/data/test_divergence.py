"""The Kullback-Leibler divergence in single precision, beside the same in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.runtime import Array


def exact(before: Array, after: Array) -> float:
    left, right = (rows.astype(np.float64) for rows in (before, after))
    left, right = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (left, right))
    share = np.exp(left)
    with np.errstate(invalid="ignore"):
        return float(np.where(share > 0, share * (left - right), 0).sum(axis=1).mean())


def measured(before: Array, after: Array) -> float:
    meter = EffectMeter(MainOutput("y", True, False), (), "kl")
    meter.add({"y": before}, {"y": after}, {})
    return meter.mean()


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0, 300.0])
@pytest.mark.parametrize("moved", [1e-3, 1e-2, 0.1, 1.0, 30.0])
def test_single_precision_is_as_good(scale: float, moved: float) -> None:
    random = np.random.default_rng(0)
    before = (scale * random.standard_normal((24, 3000))).astype(np.float32)
    after = before + (moved * random.standard_normal(before.shape)).astype(np.float32)
    assert measured(before, after) == pytest.approx(exact(before, after), rel=1e-4, abs=3e-8)
    assert measured(before, before) == 0.0
    assert measured(before, before + np.float32(3)) == pytest.approx(0, abs=1e-7)


def test_tokens_that_are_ruled_out() -> None:
    random = np.random.default_rng(1)
    before = random.standard_normal((6, 50)).astype(np.float32)
    after = before + random.standard_normal(before.shape).astype(np.float32)
    before[:, :10] = after[:, :10] = -np.inf
    after[:, 10] = 2
    assert measured(before, after) == pytest.approx(exact(before, after), rel=1e-6)
    after[0, 20] = -np.inf
    assert measured(before, after) == np.inf
