"""`validate` must not be foolable: every kind of wrong cut is shown to fail, every weak proof to be called weak."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import (
    RefusedError,
    UsageError,
    Validation,
    ValidationFailedError,
    apply_plan,
    plan_pruning,
    prune,
    validate,
)
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.edit.records import VALIDATION_KEY
from onnxheadprune.model.load import load_model
from onnxheadprune.operators import view_of
from onnxheadprune.validation import runs
from onnxheadprune.validation.result import shows
from tests import attacks
from tests.corruptions import (
    one_corrupted_weight,
    record,
    set_record,
    stale_reshape,
    wrong_head_in_the_record,
)
from tests.graph_builder import GraphBuilder
from tests.graphs import toys

Corruption = Callable[[ModelProto], None]


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


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"ids": True}, {"dtype": np.float64}])
def test_a_right_cut_passes(options: dict[str, Any]) -> None:
    model = toys.attention(**options)
    result = check(model, pruned(model, "0:0,2"))
    assert result.verdict == "passed"
    assert result.heads == {0: (0, 2)}
    exact = [case for case in result.cases if case.settings == "exact"]
    assert len({tuple(case.shapes.items()) for case in exact}) == len(exact) >= 3
    assert [case.settings for case in result.cases][-1] == "deployed"
    assert result.power > 10 * result.tolerance.exact
    assert result.provider.name == "CPUExecutionProvider"
    assert result.placement.keys() == {"CPUExecutionProvider"}


@pytest.mark.slow
def test_precision_decides_the_tolerance() -> None:
    half = toys.attention(dtype=np.float16)
    result = check(half, pruned(half))
    assert result.verdict == "passed"
    assert result.tolerance.precision == "float16"


def test_pruned_twice_is_checked_against_either_model() -> None:
    model = toys.attention()
    once = pruned(model, "0:1")
    twice = pruned(once, "0:3")
    assert check(once, twice).heads == {0: (3,)}
    assert check(model, twice).heads == {0: (1, 3)}


def test_kept_cache_shape_is_recognised() -> None:
    model = toys.attention(cache=True)
    smaller = apply_plan(plan_pruning(model, heads="0:1", cache="keep"), model)
    assert check(model, smaller).verdict == "passed"


def test_a_whole_site_may_go() -> None:
    model = toys.attention()
    smaller = pruned(model, "0:0-3")
    assert "Softmax" not in {node.op_type for node in smaller.graph.node}
    result = check(model, smaller)
    assert result.verdict == "passed"
    assert result.heads == {0: (0, 1, 2, 3)}


@pytest.mark.slow
def test_named_heads_replace_the_record() -> None:
    model = toys.attention()
    smaller = pruned(model)
    del smaller.metadata_props[:]
    with pytest.raises(UsageError, match=r"no record of removed heads.*heads="):
        check(model, smaller)
    assert check(model, smaller, heads="0:1").verdict == "passed"
    assert check(model, smaller, heads="0:2").verdict == "failed"


# What must fail


def one_corrupted_bias(model: ModelProto) -> None:
    bias = toys.get_initializer(model, "attn.q.bias")
    bias[0] += 0.1
    toys.set_initializer(model, "attn.q.bias", bias)


def swapped_heads(model: ModelProto) -> None:
    """Every weight is right, but two heads of the output projection changed places."""
    weight = toys.get_initializer(model, "attn.out.weight")
    size = toys.HEAD_SIZE
    order = np.r_[size : 2 * size, :size, 2 * size : 3 * size]
    toys.set_initializer(model, "attn.out.weight", weight[order])


def wrong_axis_order(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.name == "Transpose_context_back":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("perm", [0, 3, 2, 1]))


def missing_node(model: ModelProto) -> None:
    """The softmax is gone."""
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Identity"
            del node.attribute[:]


def nan_weight(model: ModelProto) -> None:
    weight = toys.get_initializer(model, "attn.v.weight")
    weight[0, 0] = np.nan
    toys.set_initializer(model, "attn.v.weight", weight)


@pytest.mark.parametrize(
    "corrupt",
    [
        wrong_head_in_the_record,
        one_corrupted_weight,
        one_corrupted_bias,
        stale_reshape,
        swapped_heads,
        wrong_axis_order,
        missing_node,
        nan_weight,
    ],
)
def test_a_wrong_model_fails(corrupt: Corruption) -> None:
    model = toys.attention()
    smaller = pruned(model)
    assert check(model, smaller).verdict == "passed"
    corrupt(smaller)
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert result.reason == result.problems[0]
    assert not result.passed


@pytest.mark.slow
@pytest.mark.parametrize("corrupt", [one_corrupted_weight, one_corrupted_bias, swapped_heads])
def test_a_wrong_weight_is_seen_in_the_outputs_alone(corrupt: Corruption) -> None:
    """Whatever its tensors are called."""
    model = toys.attention()
    smaller = pruned(model)
    corrupt(smaller)
    result = check(model, attacks.unnamed(smaller))
    assert result.verdict == "failed"
    assert "differs from the masked reference" in result.reason


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


@pytest.mark.slow
def test_the_wrong_head_removed_fails_on_a_trained_model(digits: Path) -> None:
    model = onnx.load(digits)
    smaller = pruned(model, "2:5")
    claimed = pruned(model, "2:4")
    set_record(smaller, record(claimed))
    assert check(model, smaller).verdict == "failed"


def test_a_cache_that_was_not_narrowed_fails() -> None:
    model = toys.attention(cache=True)
    smaller = pruned(model)
    for info in (*smaller.graph.input, *smaller.graph.output):
        if info.name == "past_key":
            info.type.tensor_type.shape.dim[1].dim_value = toys.HEADS
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert "past_key" in result.reason


def test_a_model_that_the_checker_refuses_fails() -> None:
    model = toys.attention()
    smaller = pruned(model)
    smaller.graph.node[0].input[0] = "nowhere"
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert "not a valid ONNX model" in result.reason


def test_a_model_that_does_not_load_fails() -> None:
    model = toys.attention()
    smaller = pruned(model)
    # The checker does not know this domain, so it lets the operator pass; ONNX Runtime does not.
    smaller.opset_import.append(helper.make_opsetid("nobody.has.this", 1))
    for node in smaller.graph.node:
        if node.op_type == "Softmax":
            node.op_type, node.domain = "Softermax", "nobody.has.this"
    result = check(model, smaller)
    assert result.verdict == "failed"
    assert "does not load" in result.reason


def test_a_deployment_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(runs.Session):
        """Stands for an optimizer that breaks the pruned model."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.broken = kwargs.get("optimize", False) and "pruned" in kwargs["name"]

        def run(self, feed: Any) -> Any:
            outputs = super().run(feed)
            return {name: value + 0.1 * self.broken for name, value in outputs.items()}

    monkeypatch.setattr(runs, "Session", Wrong)
    model = toys.attention()
    result = check(model, pruned(model))
    assert result.verdict == "failed"
    assert "deployed settings" in result.reason


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


@pytest.mark.parametrize("scale", [1e-3, 1e-4, 1e-5, 1e-6])
def test_a_small_effect_is_enough_where_no_difference_is_left(scale: float) -> None:
    model = toys.attention(out_scale=scale)
    result = check(model, pruned(model))
    assert (result.verdict, result.error) == ("passed", 0.0)
    assert all(case.conclusive for case in result.cases)


@pytest.mark.slow
@pytest.mark.parametrize("scale", 10.0 ** -np.arange(0, 9))
def test_a_difference_as_large_as_the_effect_never_passes(scale: float) -> None:
    """Another head is gone than the record says, and no tensor has its name."""
    model = toys.attention(out_scale=float(scale))
    wrong = pruned(model, "0:2")
    set_record(wrong, record(pruned(model, "0:1")))
    for position, tensor in enumerate(wrong.graph.initializer):
        for node in wrong.graph.node:
            node.input[:] = [str(position) if name == tensor.name else name for name in node.input]
        tensor.name = str(position)
    result = check(model, wrong)
    assert result.verdict != "passed"
    if result.verdict == "inconclusive":
        assert "a wrong cut would not show" in result.reason
        assert "less than 10x the" in result.reason or "at all" in result.reason


@pytest.mark.parametrize(
    ("power", "error", "epsilon", "expected"),
    [
        (2e-5, 0.0, 1e-7, True),
        (2e-5, 1e-6, 1e-7, True),
        (2e-5, 1e-5, 1e-7, False),
        (5e-7, 0.0, 1e-7, False),
        (0.0, 0.0, 0.0, False),
    ],
)
def test_conclusive_is_an_effect_far_above_the_difference(
    power: float, error: float, epsilon: float, expected: bool
) -> None:
    assert shows(power, error, epsilon) is expected


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
    one_corrupted_weight(smaller)
    assert check(model, smaller).verdict == "failed"


def test_another_infinity_fails() -> None:
    model = with_filled(toys.attention(), -np.inf, np.arange(toys.HIDDEN) < 3)
    smaller = pruned(model)
    toys.set_initializer(smaller, "number", np.float32(np.inf))
    next(tensor for tensor in smaller.graph.initializer if tensor.name == "number").name = "other"
    next(item for item in smaller.graph.node if item.name == "fill").input[1] = "other"
    found = check(model, smaller)
    assert found.verdict == "failed" and "y differs" in found.reason


def test_inputs_that_cannot_be_made_up_prove_nothing() -> None:
    """The model divides by a Gather whose index no made-up input gets right, until the user helps."""
    toy_model = toys.attention()
    graph = toy_model.graph
    graph.input.append(helper.make_tensor_value_info("magic", TensorProto.INT64, [1]))
    graph.initializer.append(numpy_helper.from_array(np.array([1000], dtype=np.int64), "thousand"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), "nothing"))
    graph.node.append(helper.make_node("Sub", ["magic", "thousand"], ["offset"], name="offset"))
    graph.node.append(helper.make_node("Reshape", ["offset", "one"], ["flat"], name="flat"))
    graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "one"))
    graph.node.append(helper.make_node("Expand", ["nothing", "flat"], ["zeros"], name="zeros"))
    graph.node.append(helper.make_node("ReduceSum", ["zeros"], ["zero"], name="zero", keepdims=0))
    graph.output[0].name = "y_plus"
    graph.node.append(helper.make_node("Add", ["y", "zero"], ["y_plus"], name="y_plus"))
    smaller = pruned(toy_model)
    result = check(toy_model, smaller)
    assert result.verdict == "inconclusive"
    assert "no random inputs fit" in result.reason
    assert "with data=" in result.reason
    x = np.random.default_rng(0).standard_normal((2, 3, toys.HIDDEN)).astype(np.float32)
    given = check(toy_model, smaller, data=[{"x": x, "magic": np.array([1003])}])
    assert given.verdict == "passed"


def test_a_runtime_that_crashes_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "survives_optimization", lambda *_: False)
    model = toys.attention(dtype=np.float16)
    result = check(model, pruned(model))
    assert result.verdict == "passed"
    assert {case.settings for case in result.cases} == {"exact"}
    assert any("crashes" in note for note in result.notes)


# What does not belong together


# Drift, data and labels


@pytest.mark.slow
def test_data_that_are_read_say_the_same(digits: Path, digits_test: Path) -> None:
    smaller = prune(digits, heads="1:0,3", validate=False).model
    data = calibration_data(str(digits_test), view_of(load_model(digits)))
    found = [validate(digits, smaller, data=source, provider="cpu") for source in (digits_test, data)]
    assert found[0].accuracy == found[1].accuracy and found[0].accuracy is not None
    assert found[0].accuracy.count == 450 and found[0].drift == found[1].drift


@pytest.mark.slow
def test_drift_and_accuracy_on_labelled_data(digits: Path, digits_test: Path) -> None:
    result = prune(digits, heads="*:0", data=digits_test, provider="cpu").validation
    assert result is not None
    assert result.accuracy is not None
    assert result.accuracy.count == 450
    assert result.accuracy.original == pytest.approx(0.9867, abs=1e-4)
    assert 0.1 < result.accuracy.pruned < result.accuracy.original
    assert result.drift is not None
    assert result.drift.source == "data"
    assert result.drift.output == "logits"
    assert result.drift.top1_agreement is not None
    assert 0.5 < result.drift.top1_agreement < 1
    assert 0.5 < result.drift.cosine < 1
    assert 0 < result.drift.mean < result.drift.max
    data = [case for case in result.cases if case.source == "data" and case.settings == "exact"]
    assert [case.feeds for case in data] == [4]


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
def test_hidden_states_are_no_logits(tiny: Path) -> None:
    model = onnx.load(tiny / "bert-torchscript-eager.onnx")
    result = check(model, pruned(model))
    assert result.drift is not None
    assert result.drift.top1_agreement is None
    language_model = onnx.load(tiny / "gpt2-torchscript-eager.onnx")
    drift = check(language_model, pruned(language_model)).drift
    assert drift is not None
    assert drift.top1_agreement is not None


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
        one_corrupted_weight(result)
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


def test_metadata_tells_whether_it_was_validated(tmp_path: Path) -> None:
    model = toys.attention()
    prune(model, tmp_path / "proven.onnx", heads="0:1", provider="cpu")
    prune(model, tmp_path / "unproven.onnx", heads="0:1", validate=False)
    assert _stamp(tmp_path / "proven.onnx").startswith("passed CPU")
    assert _stamp(tmp_path / "unproven.onnx") == "skipped (--no-validate)"
    author = {entry.key: entry.value for entry in onnx.load(tmp_path / "proven.onnx").metadata_props}
    assert author["author"] == "tests"


def _stamp(path: Path) -> str:
    return next(entry.value for entry in onnx.load(path).metadata_props if entry.key == VALIDATION_KEY)


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


def test_maps_that_leave_the_model_are_proven_as_they_were_agreed_to(tmp_path: Path) -> None:
    """A contract under which the cut is refused was not the one that was agreed to."""
    heads, size, hidden = 4, 8, 12
    toy = GraphBuilder()
    parts = [toy.node("MatMul", ["x", toy.weight(f"{n}.weight", hidden, heads * size)], n) for n in "qkv"]
    toy.nodes.append(
        helper.make_node(
            "Attention", parts, ["c", "", "", "maps"], "core", q_num_heads=heads, kv_num_heads=heads
        )
    )
    toy.node("MatMul", ["c", toy.weight("o.weight", heads * size, hidden)], "y")
    outputs = [toy.info("y", ["b", "s", hidden]), toy.info("maps", ["b", heads, "s", "t"])]
    model = toy.model([toy.info("x", ["b", "s", hidden])], outputs, opset=23)
    model.ir_version = 10
    smaller = tmp_path / "smaller.onnx"
    with pytest.raises(RefusedError, match="allow_io_change=True"):
        prune(model, heads="0:1", output=smaller, provider="cpu")
    prune(model, heads="0:1", output=smaller, allow_io_change=True, provider="cpu")
    assert check(model, onnx.load(smaller)).verdict == "passed"
