"""Drift: one measure for each kind of output, the same in `prune` and in `validate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxheadprune import UsageError, prune
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.model.graph.main_output import MainOutput, main_output
from onnxheadprune.operators import view_of
from tests.conftest import Command
from tests.graphs import toys

LOGITS = MainOutput("y", True)
HIDDEN = MainOutput("y", False)


def moved(before: Any, after: Any, main: MainOutput = LOGITS, effect: Any = None) -> float:
    meter = EffectMeter(main, (), effect)
    meter.add({"y": np.asarray(before, np.float32)}, {"y": np.asarray(after, np.float32)}, {})
    return meter.mean()


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax(values: Any) -> Any:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# The measures


def test_logits_drift_by_divergence_and_vectors_by_angle() -> None:
    left, right = numbers(3, 5), numbers(3, 5, seed=1)
    share = softmax(left.astype(np.float64))
    expected = (share * np.log(share / softmax(right.astype(np.float64)))).sum(axis=-1).mean()
    assert moved(left, right) == pytest.approx(expected, rel=1e-5)
    cosine = (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)
    assert moved(left, right, HIDDEN) == pytest.approx((1 - cosine).mean(), rel=1e-5)
    assert EffectMeter(LOGITS, ()).name == "kl" and EffectMeter(HIDDEN, ()).name == "1 - cosine"
    # What was asked for goes before what the output looks like.
    assert moved(left, right, LOGITS, "cosine") == moved(left, right, HIDDEN)
    assert moved(left, right, HIDDEN, "kl") == moved(left, right)
    assert moved(left, right, LOGITS, "auto") == moved(left, right)
    with pytest.raises(UsageError, match="measured by auto, kl, cosine or module:function, not 'mse'"):
        EffectMeter(LOGITS, (), "mse")


def test_probabilities_drift_as_their_logits_do() -> None:
    left, right = numbers(3, 5), numbers(3, 5, seed=1)
    ready = MainOutput("y", True, True)
    assert moved(softmax(left), softmax(right), ready) == pytest.approx(moved(left, right), rel=1e-4)


@pytest.mark.parametrize(
    ("op", "axis", "found"), [("Softmax", -1, True), ("Softmax", 1, False), ("LogSoftmax", -1, False)]
)
def test_probabilities_are_known_by_their_softmax(op: str, axis: int, found: bool) -> None:
    model = toys.stack(layers=1)
    last = model.graph.node[-1]
    last.output[0] = "raw"
    model.graph.node.append(helper.make_node(op, ["raw"], ["logits"], axis=axis))
    main = main_output(view_of(model), ())
    assert main is not None and main.is_logits and main.is_probabilities is found


# One meaning in both commands


def embedder() -> onnx.ModelProto:
    return toys.attention(ids=True)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "logits": lambda: toys.stack(),
    "grouped": lambda: toys.stack(heads=6, kv_heads=2),
    "quantized": lambda: toys.stack(quantized=True),
    "embeddings": embedder,
}


def saved(folder: Path, kind: str, rows: int) -> tuple[Path, Path]:
    onnx.save(MODELS[kind](), folder / "m.onnx")
    ids = np.random.default_rng(5).integers(0, toys.VOCABULARY, (rows, 6))
    np.savez(folder / "d.npz", input_ids=ids)
    return folder / "m.onnx", folder / "d.npz"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rows", "measure", "unit"),
    [
        ("logits", 32, None, "kl"),
        ("logits", 224, "cosine", "1 - cosine"),
        ("grouped", 224, None, "kl"),
        ("quantized", 32, None, "kl"),
        ("quantized", 224, "kl", "kl"),
        ("embeddings", 32, None, "1 - cosine"),
        ("embeddings", 224, "kl", "kl"),
    ],
)
def test_what_is_pruned_under_a_limit_passes_it(
    kind: str, rows: int, measure: str | None, unit: str, command: Command, tmp_path: Path
) -> None:
    """32 samples are one feed, which calibration divides and validation does not."""
    model, data = saved(tmp_path, kind, rows)
    chosen = () if measure is None else ("--drift", measure)
    common = ("--data", data, "--provider", "cpu", "--json", *chosen)
    whole = command("prune", model, "--max-drift", 1e3, "--dry-run", *common).document["choice"]
    limit = max(trial["measured"] for trial in whole["trials"]) * 0.9
    outcome = command("prune", model, "--max-drift", limit, "-o", tmp_path / "out.onnx", *common)
    if outcome.exit_code == 3:
        # The smallest cut drifts further: then nothing is claimed.
        assert "no cut stays within" in outcome.document["error"] and not (tmp_path / "out.onnx").exists()
        limit = max(trial["measured"] for trial in whole["trials"]) * 1.01
        outcome = command("prune", model, "--max-drift", limit, "-o", tmp_path / "out.onnx", *common)
    assert outcome.exit_code == 0, outcome.stdout
    choice = outcome.document["choice"]
    assert choice["drift_unit"] == unit
    removed = sum(map(len, choice["selection"]["heads"].values()))
    measured = next(trial["measured"] for trial in choice["trials"] if trial["removed"] == removed)
    judged = command("validate", model, tmp_path / "out.onnx", "--max-drift", limit, *common)
    assert judged.exit_code == 0, judged.stdout
    (gate,) = judged.document["gates"]
    assert gate["passed"] and gate["measure"] == unit == judged.document["drift"]["measure"]
    assert gate["value"] == judged.document["drift"]["value"] <= measured * (1 + 1e-6)
    if choice["drift"] < measured:
        assert gate["value"] == pytest.approx(measured, rel=1e-6)
    # The gate can fail.
    broken = command("validate", model, tmp_path / "out.onnx", "--max-drift", gate["value"] / 2, *common)
    assert broken.exit_code == 1 and not broken.document["accepted"]


def test_a_cut_without_numbers_is_never_near() -> None:
    """A drift that is no number is over every limit."""
    with pytest.raises(UsageError, match="no number to compare"):
        prune(toys.stack(), max_drift=5.0, data=toys.ids(), drift=lambda *_: float("nan"), provider="cpu")


@pytest.mark.slow
def test_prune_and_validate_give_one_number_as_a_library() -> None:
    model, feeds = toys.stack(), toys.ids(6)
    result = prune(model, heads={0: [1]}, data=feeds, provider="cpu", refit=True, drift="cosine")
    assert result.chosen is not None and result.validation is not None and result.validation.drift is not None
    assert json.dumps(result.to_dict()["choice"]["drift_unit"]) == '"1 - cosine"'
    assert result.chosen.drift == pytest.approx(result.validation.drift.value, rel=1e-9)
