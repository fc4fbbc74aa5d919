"""`validate` must not be foolable: every kind of wrong cut is shown to fail, every weak proof to be called weak."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import (
    Validation,
    ValidationFailedError,
    apply_plan,
    plan_pruning,
    prune,
    validate,
)
from onnxheadprune.validation import runs
from tests import attacks
from tests.graphs import toys
from tests.recording import VALIDATION, recorded, rewritten


def pruned(model: ModelProto, heads: Any = "0:1") -> ModelProto:
    return apply_plan(plan_pruning(model, heads=heads), model)


def check(model: ModelProto, smaller: ModelProto, **options: Any) -> Validation:
    """Validates on the CPU, and that neither model is changed by it."""
    before = model.SerializeToString(), smaller.SerializeToString()
    result = validate(model, smaller, provider="cpu", **options)
    assert (model.SerializeToString(), smaller.SerializeToString()) == before
    json.dumps(result.to_dict(), allow_nan=True)
    return result


# What passes


CONTRACTS: dict[str, tuple[dict[str, Any], ...]] = {
    "narrowed": ({"heads": "{}:1"},),
    "kept": ({"heads": "{}:1", "cache": "keep"},),
    "kept, then gone": ({"heads": "{}:1", "cache": "keep"}, {"heads": "{}:*"}),
    "dropped": ({"heads": "{}:*", "cache": "renumber"},),
    "maps": ({"heads": "{}:1", "allow_io_change": True},),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("later", CONTRACTS)
@pytest.mark.parametrize("first", CONTRACTS)
def test_each_cut_is_proven_under_its_own_contract(first: str, later: str) -> None:
    """Whatever was agreed to in the other one, and both together."""
    model = toys.decoder(3, cache=True)
    for site, name in enumerate((first, later)):
        if name == "maps":
            weights = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"][site]
            shape = ["batch", toys.DECODER["heads"], "sequence", "keys"]
            model.graph.output.append(helper.make_tensor_value_info(weights, TensorProto.FLOAT, shape))
    models = [model]
    for site, name in enumerate((first, later)):
        for call in CONTRACTS[name]:
            asked = call | {"heads": call["heads"].format(site)}
            models.append(prune(models[-1], **asked, validate=False).model)
    for before, after in itertools.combinations(models, 2):
        result = check(before, after)
        assert result.exact == "yes", result.reason


# What must fail


def test_a_weight_that_no_input_reads_is_seen() -> None:
    """Row 18 of the table is read by one token in 19; feeds may miss it, the comparison of weights does not."""
    model = toys.attention(ids=True)
    smaller = pruned(model)
    table = toys.get_initializer(smaller, "embed.weight")
    table[18, 0] = np.nextafter(table[18, 0], np.float32(1))
    toys.set_initializer(smaller, "embed.weight", table)
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert "embed.weight" in result.reason


def test_a_cache_that_was_not_narrowed_fails() -> None:
    model = toys.attention(cache=True)
    smaller = pruned(model)
    for info in (*smaller.graph.input, *smaller.graph.output):
        if info.name == "past_key":
            info.type.tensor_type.shape.dim[1].dim_value = toys.HEADS
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert "Inferred=3 Declared=4" in result.reason


# What proves nothing


def test_heads_that_do_not_matter_prove_nothing() -> None:
    model = toys.attention(silent_heads=(1,))
    result = check(model, pruned(model, "0:1"))
    assert result.verdict == "inconclusive"
    assert "a wrong cut would not show" in result.reason
    assert check(model, pruned(model, "0:2")).verdict == "passed"


def test_heads_that_matter_less_than_rounding_prove_nothing() -> None:
    model = toys.attention(out_scale=1e-7)
    result = check(model, pruned(model))
    assert result.verdict == "inconclusive"
    assert 0 < result.power < 10 * result.tolerance.epsilon
    assert "that rounding is" in result.reason


@pytest.mark.slow
@pytest.mark.parametrize("scale", 10.0 ** -np.arange(0, 9))
def test_a_difference_as_large_as_the_effect_never_passes(scale: float) -> None:
    """Another head is gone than the record says, and no tensor has its name."""
    model = toys.attention(out_scale=float(scale))
    wrong = pruned(model, "0:2")
    with rewritten(wrong) as record:
        record |= recorded(pruned(model, "0:1"))
    for position, tensor in enumerate(wrong.graph.initializer):
        for node in wrong.graph.node:
            node.input[:] = [str(position) if name == tensor.name else name for name in node.input]
        tensor.name = str(position)
    result = check(model, wrong)
    assert result.verdict != "passed"
    if result.verdict == "inconclusive":
        assert "a wrong cut would not show" in result.reason
        assert "less than 10x the" in result.reason or "at all" in result.reason


def test_outputs_that_are_not_finite_prove_nothing() -> None:
    model = toys.attention()
    weight = toys.get_initializer(model, "attn.q.weight")
    toys.set_initializer(model, "attn.q.weight", np.full_like(weight, np.inf))
    result = check(model, pruned(model))
    assert result.verdict == "inconclusive"
    assert "NaN" in result.reason


def with_filled(model: ModelProto, number: float, places: Any) -> ModelProto:
    """The output is `number` at some places of its last two axes, whatever is computed."""
    last = next(item for item in model.graph.node if "y" in item.output)
    last.output[0] = "computed"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(number), "number"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(places), "places"))
    model.graph.node.append(helper.make_node("Where", ["places", "number", "computed"], ["y"], name="fill"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("number", [-np.inf, np.nan])
def test_what_is_no_number_by_design_hides_nothing(number: float) -> None:
    """Tokens that are ruled out, rows that attend to nothing: the other numbers prove the cut."""
    model = with_filled(toys.attention(), number, np.arange(toys.HIDDEN) < 3)
    smaller = pruned(model)
    found = check(model, smaller)
    assert found.verdict == "passed", found.reason
    assert any("NaN" in note for note in found.notes) == np.isnan(number)
    attacks.weight_corrupted(smaller)
    assert check(model, smaller).verdict == "failed"


def test_another_infinity_fails() -> None:
    model = with_filled(toys.attention(), -np.inf, np.arange(toys.HIDDEN) < 3)
    smaller = pruned(model)
    toys.set_initializer(smaller, "number", np.float32(np.inf))
    next(tensor for tensor in smaller.graph.initializer if tensor.name == "number").name = "other"
    next(item for item in smaller.graph.node if item.name == "fill").input[1] = "other"
    found = check(model, smaller)
    assert found.verdict == "failed" and "y differs" in found.reason


def test_a_runtime_that_crashes_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "survives_optimization", lambda *_: False)
    model = toys.attention(dtype=np.float16)
    result = check(model, pruned(model))
    assert result.verdict == "passed"
    assert {case.settings for case in result.cases} == {"exact"}
    assert any("crashes" in note for note in result.notes)


# Drift, data and labels


@pytest.mark.slow
def test_accuracy_is_what_numpy_says(digits: Path, digits_test: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "pruned.onnx"
    result = prune(digits, out, heads="1:0,1,2,3", data=digits_test, provider="cpu").validation
    assert result is not None
    assert result.accuracy is not None
    data = np.load(digits_test)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": data["images"]})
    assert result.accuracy.pruned == pytest.approx(float((logits.argmax(1) == data["labels"]).mean()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels",
    [np.zeros((8, 3), np.int64), *(np.array([0, -100, 3, 3, 3, 3, 3, one]) for one in (-1, 10, 255))],
)
def test_labels_that_do_not_fit_are_noted(digits: Path, labels: np.ndarray[Any, Any]) -> None:
    """Of another shape, or numbers of no class: an accuracy would count them as mistakes of both models."""
    data = np.load(digits.with_name("digits_test.npz"))
    wrong = {"images": data["images"][:8], "labels": labels}
    result = validate(digits, pruned(onnx.load(digits)), data=wrong, provider="cpu")
    assert result.accuracy is None
    assert any("label" in note and "no accuracy" in note for note in result.notes)


# Writing


@pytest.mark.slow
def test_prune_refuses_to_write_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxheadprune.edit import apply

    right = apply.apply_plan

    def broken(plan: Any, model: ModelProto) -> ModelProto:
        result = right(plan, model)
        attacks.weight_corrupted(result)
        return result

    monkeypatch.setattr(apply, "apply_plan", broken)
    with pytest.raises(ValidationFailedError, match="nothing is written") as caught:
        prune(toys.attention(), tmp_path / "out.onnx", heads="0:1", provider="cpu")
    assert caught.value.validation.verdict == "failed"
    assert not list(tmp_path.iterdir())


def test_prune_writes_what_is_inconclusive_only_when_told(tmp_path: Path) -> None:
    model = toys.attention(silent_heads=(1,))
    with pytest.raises(ValidationFailedError, match="inconclusive"):
        prune(model, tmp_path / "out.onnx", heads="0:1", provider="cpu")
    assert not list(tmp_path.iterdir())
    prune(model, tmp_path / "out.onnx", heads="0:1", provider="cpu", accept_inconclusive=True)
    assert _stamp(tmp_path / "out.onnx").startswith("inconclusive CPU")


def _stamp(path: Path) -> str:
    return next(entry.value for entry in onnx.load(path).metadata_props if entry.key == VALIDATION)


# What cannot be compared


@pytest.mark.slow
def test_an_original_that_does_not_repeat_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every difference of such a model would be blamed on the cut."""
    # As of an operator that nothing replaces.
    monkeypatch.setattr("onnxheadprune.runtime.session.without_randomness", lambda model: model)
    model = toys.attention()
    last = next(item for item in model.graph.node if "y" in item.output)
    last.output[0] = "steady"
    model.graph.node.append(helper.make_node("RandomNormalLike", ["steady"], ["drawn"]))
    model.graph.node.append(helper.make_node("Add", ["steady", "drawn"], ["y"]))
    found = check(model, pruned(model))
    assert found.verdict == "inconclusive"
    assert "the original is not deterministic: its outputs differ each time it runs" in found.reason
