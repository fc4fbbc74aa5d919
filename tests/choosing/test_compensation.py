"""Refits: they pay, they find what least squares finds, and leave alone what they may not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pytest
from onnx import ModelProto

from onnxheadprune import prune, validate
from tests.conftest import SAMPLES
from tests.graphs import toys
from tests.liveness.one_node import run
from tests.recording import recorded

CALIBRATION, TEST = SAMPLES / "digits_calibration.npz", SAMPLES / "digits_test.npz"
DATA: Any = toys.ids(24)


def refitted(model: ModelProto, heads: Any, data: Any = None) -> Any:
    """A cut with its refit, which is proven."""
    made = prune(model, heads=heads, data=data or DATA, refit=True, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    assert made.chosen is not None and made.chosen.compensation is not None
    return made


# It pays


def logits(model: ModelProto) -> Any:
    with np.load(TEST) as data:
        return run(model, {"images": data["images"]})["logits"]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The digits ViT without half of its heads, chosen and refitted on its calibration data."""
    out = tmp_path_factory.mktemp("refitted") / "pruned.onnx"
    return prune(SAMPLES / "digits_vit.onnx", output=out, ratio=0.5, data=str(CALIBRATION), provider="cpu")


def test_half_of_the_heads_of_the_digits_cost_at_most_half_a_point(half: Any, digits: Path) -> None:
    """And less than without the refit: in outputs, in drift and in the held-out error of every layer."""
    heads = half.chosen.selection.spec
    plain = prune(digits, heads=heads, provider="cpu", validate=False).model
    before, bare, after = map(logits, (onnx.load(digits), plain, half.model))
    with np.load(TEST) as data:
        right = [float((found.argmax(axis=1) == data["labels"]).mean()) for found in (before, after)]
    assert half.chosen.selection.count == 16 and half.validation.verdict == "passed"
    assert right[0] - right[1] <= 0.005
    assert np.square(after - before).mean() < 0.5 * np.square(bare - before).mean()
    drift = validate(digits, plain, data=str(CALIBRATION), provider="cpu").drift
    assert drift is not None and half.chosen.drift < 0.5 * drift.value
    refits = half.chosen.compensation.refits
    assert {str(item.site) for item in refits if item.site is not None} == {
        key for key in heads if heads[key]
    }
    assert all(item.skipped is None and item.after <= item.before for item in refits)
    assert sum(item.after for item in refits) < 0.8 * sum(item.before for item in refits)
    assert set(recorded(half.model)["refit"]["tensors"]) == set(half.chosen.compensation.stored)


# What is changed


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"quantized": True}, {"dtype": np.float16}, {"heads": 6, "kv_heads": 2}])
def test_refits_keep_the_stored_type(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    found = refitted(model, "0:0-2" if "kv_heads" in form else "0:1 1:3").chosen.compensation
    new, old = found.stored["layer0.attn.out.weight"], toys.get_initializer(model, "layer0.attn.out.weight")
    assert new.dtype == old.dtype and new.shape == old.shape and not np.array_equal(new, old)


@pytest.mark.slow
def test_a_refitted_model_can_be_cut_again() -> None:
    """Also under other names: its record speaks of tensors that were there when it was refitted."""
    original = toys.stack()
    first = refitted(original, "0:1").model
    second = refitted(first, "1:2").model
    assert validate(original, second, provider="cpu").verdict == "passed"
    renamed = onnx.compose.add_prefix(first, "a_")
    twice = prune(renamed, heads="1:2", provider="cpu").validation
    assert twice is not None and twice.passed and not twice.refitted


@pytest.mark.slow
def test_data_may_fill_a_cache_that_the_cut_narrows() -> None:
    model, random = toys.attention(cache=True), np.random.default_rng(0)
    past = (4, toys.HEADS, 3, toys.HEAD_SIZE)
    shapes = {"x": (4, 6, toys.HIDDEN), "past_key": past, "past_value": past}
    data = [
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(8)
    ]
    found = prune(model, ratio=0.5, data=data, provider="cpu")
    assert found.chosen is not None and found.chosen.drift is not None and found.chosen.drift > 0
    assert found.validation is not None and found.validation.verdict == "passed"


# One layer, against least squares
