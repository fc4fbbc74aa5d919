"""Compensation: it pays, it is proven like any other cut, and a wrong refitted file does not pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune import ModelError, prune, validate
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.choosing.compensation.compensate import Refitting, compensate
from onnxheadprune.choosing.compensation.fit import fit
from onnxheadprune.choosing.compensation.pair import Pair
from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.edit.records import COMPENSATED_KEY, HEADS, REFIT_ENTRY, units_entry
from onnxheadprune.edit.submodel import with_stored
from onnxheadprune.model.load import load_model, open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.workflow.choice.completing import named
from onnxheadprune.workflow.choice.cutting import Cutter, Trying
from onnxheadprune.workflow.choice.size import FileSize
from onnxheadprune.workflow.choosing import choose
from tests.conftest import SAMPLES
from tests.graphs import toys

HERE = Provider(CPU, "test")
CALIBRATION, TEST = SAMPLES / "digits_calibration.npz", SAMPLES / "digits_test.npz"


def accuracy(model: Any) -> float:
    with np.load(TEST) as data:
        logits = Session(load_model(model), HERE).run({"images": data["images"]})["logits"]
        return float((logits.argmax(axis=1) == data["labels"]).mean())


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The digits ViT without half of its heads, chosen and refitted on its calibration data."""
    out = tmp_path_factory.mktemp("refitted") / "pruned.onnx"
    return prune(SAMPLES / "digits_vit.onnx", output=out, ratio=0.5, data=str(CALIBRATION), provider="cpu")


@pytest.fixture(scope="module")
def plain(refitted: Any) -> Any:
    """The same cut, nothing refitted."""
    heads = refitted.chosen.selection.spec
    return prune(SAMPLES / "digits_vit.onnx", heads=heads, provider="cpu", validate=False)


# It pays


@pytest.mark.slow
def test_a_refit_brings_the_outputs_back(plain: Any, refitted: Any, digits: Path) -> None:
    with np.load(TEST) as data:
        feed = {"images": data["images"]}
    original, cut, fixed = (
        Session(load_model(model), HERE).run(feed)["logits"]
        for model in (digits, plain.model, refitted.model)
    )
    assert np.square(fixed - original).mean() < 0.5 * np.square(cut - original).mean()
    assert accuracy(refitted.model) >= accuracy(plain.model)


def test_the_held_out_error_of_every_map_falls_and_drift_is_smaller(refitted: Any) -> None:
    refits = refitted.chosen.compensation.refits
    cut = {int(site) for site, heads in refitted.chosen.selection.spec.items() if heads}
    assert {item.site for item in refits if item.site is not None} == cut
    assert sum(item.site is None for item in refits) == 1 + 2 * len(cut)
    assert all(item.skipped is None for item in refits)
    assert all(item.after <= item.before for item in refits)
    assert sum(item.after for item in refits) < 0.8 * sum(item.before for item in refits)
    cutter = Cutter(open_structure(SAMPLES / "digits_vit.onnx"), str(CALIBRATION), HERE, Trying(refit=False))
    bare = named(cutter, refitted.chosen.selection.spec)
    assert bare.compensation is None and bare.unit == "kl"
    assert refitted.chosen.drift < 0.5 * bare.drift


def test_half_of_the_heads_of_the_digits_cost_at_most_half_a_point(refitted: Any, digits: Path) -> None:
    assert refitted.chosen.selection.count == 16
    assert refitted.validation is not None and refitted.validation.verdict == "passed"
    assert accuracy(digits) - accuracy(refitted.model) <= 0.005


def test_nothing_moves_where_nothing_is_removed() -> None:
    view, sites, data = toys.parts(toys.stack())
    assert compensate(view, sites, {}, data, HERE).refits == ()


@pytest.mark.slow
def test_no_map_before_the_first_cut_is_touched() -> None:
    view, sites, data = toys.parts(toys.stack(layers=3), toys.ids(30))
    found = compensate(view, sites, {1: (0, 2)}, data, HERE)
    assert sorted(found.stored) == [
        "head.weight",
        "layer1.attn.out.bias",
        "layer1.attn.out.weight",
        "layer1.attn.v.weight",
        "layer1.ffn.down.weight",
        "layer1.ffn.up.weight",
        "layer2.attn.out.bias",
        "layer2.attn.out.weight",
        "layer2.ffn.down.weight",
        "layer2.ffn.up.weight",
    ]
    alone = compensate(view, sites, {1: (0, 2)}, data, HERE, how=Refitting("own"))
    assert sorted(alone.stored) == ["layer1.attn.out.bias", "layer1.attn.out.weight", "layer1.attn.v.weight"]


@pytest.mark.slow
def test_rows_of_removed_heads_stay_as_they_were() -> None:
    model = toys.stack()
    view, sites, data = toys.parts(model, toys.ids(30))
    found = compensate(view, sites, {0: (1,)}, data, HERE)
    new, old = found.stored["layer0.attn.out.weight"], toys.get_initializer(model, "layer0.attn.out.weight")
    assert np.array_equal(new[4:8], old[4:8]) and not np.allclose(new[:4], old[:4])


# One map


def rows(count: int, seed: int, noise: float = 0.1) -> Moments:
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, 4))
    made = Moments(4, 2)
    made.add(x, x @ np.arange(8.0).reshape(4, 2) + 3 + noise * random.standard_normal((count, 2)))
    return made


def test_a_fit_finds_the_map_behind_the_rows_and_chooses_by_held_out_error() -> None:
    weight, bias = np.zeros((4, 2)), np.zeros(2)
    found = fit(rows(400, 0), rows(100, 1), weight, bias)
    np.testing.assert_allclose(found.weight, np.arange(8.0).reshape(4, 2), atol=0.05)
    assert found.bias is not None
    np.testing.assert_allclose(found.bias, 3, atol=0.05)
    assert found.strength == 1e-3 and found.after < 0.05 < found.before


def test_a_map_that_is_right_already_stays_as_it_is() -> None:
    weight, bias = np.arange(8.0).reshape(4, 2), np.full(2, 3.0)
    found = fit(rows(8, 0, 1.0), rows(4000, 1, 1.0), weight, bias)
    assert found.strength is None or found.strength >= 1
    assert found.after <= found.before
    exact = fit(rows(50, 0, 0.0), rows(50, 1, 0.0), weight, bias)
    np.testing.assert_allclose(exact.weight, weight)


def test_a_map_without_a_bias_gets_none() -> None:
    found = fit(rows(400, 0), rows(100, 1), np.zeros((4, 2)), None)
    assert found.bias is None and found.after < found.before


# Proof


@pytest.mark.slow
def test_the_written_file_says_what_it_is_and_validates(refitted: Any, digits: Path) -> None:
    assert refitted.validation.verdict == "passed"
    written = onnx.load(refitted.output)
    record = REFIT_ENTRY.read(written)
    assert record is not None and record.samples == 256
    assert record.data == refitted.chosen.compensation.data and len(record.data) == 64
    assert set(record.tensors) == set(refitted.chosen.compensation.stored)
    assert validate(digits, refitted.output, provider="cpu").verdict == "passed"


Wrong = Callable[[ModelProto], None]


def initializer(model: ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name.startswith(name))


def replaced(tensor: Any, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def another_type(model: ModelProto) -> None:
    tensor = initializer(model, "layer0.ffn.down.weight")
    replaced(tensor, numpy_helper.to_array(tensor).astype(np.float64))


def another_shape(model: ModelProto) -> None:
    tensor = initializer(model, "layer0.ffn.down.weight")
    replaced(tensor, numpy_helper.to_array(tensor)[:, :-1])


def another_weight(model: ModelProto) -> None:
    tensor = initializer(model, "layer1.attn.q.weight")
    array = numpy_helper.to_array(tensor).copy()
    array[2, 3] += 0.01
    replaced(tensor, array)


def another_head(model: ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == units_entry(HEADS).key:
            content = json.loads(entry.value)
            content["sites"][0]["removed"] = "2"
            entry.value = json.dumps(content)


def one_record_less(model: ModelProto) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != COMPENSATED_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def record_of_nothing(model: ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == COMPENSATED_KEY:
            content = json.loads(entry.value)
            content["tensors"].append("no.such.weight")
            entry.value = json.dumps(content)


@pytest.fixture(scope="module")
def compensated() -> tuple[ModelProto, ModelProto]:
    original = toys.stack()
    made = prune(original, heads="0:1 1:0,3", data=toys.ids(24), refit=True, provider="cpu")
    return original, made.model


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [another_type, another_shape, another_weight, another_head, one_record_less, record_of_nothing]
)
def test_a_wrong_refitted_file_fails(wrong: Wrong, compensated: tuple[ModelProto, ModelProto]) -> None:
    original, right = compensated
    assert validate(original, right, provider="cpu").verdict == "passed"
    model = ModelProto()
    model.CopyFrom(right)
    wrong(model)
    result = validate(original, model, provider="cpu")
    assert result.verdict == "failed", result.reason


def test_a_record_that_cannot_be_read(compensated: tuple[ModelProto, ModelProto]) -> None:
    model = ModelProto()
    model.CopyFrom(compensated[1])
    for entry in model.metadata_props:
        if entry.key == COMPENSATED_KEY:
            entry.value = '{"tensors": 1}'
    with pytest.raises(ModelError, match="cannot be read"):
        validate(compensated[0], model, provider="cpu")
    assert REFIT_ENTRY.read(compensated[0]) is None


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prune(
            toys.stack(),
            output=tmp_path / f"{name}.onnx",
            ratio=0.5,
            data=toys.ids(24),
            provider="cpu",
        )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_a_compensated_model_can_be_pruned_again(tmp_path: Path) -> None:
    original, first, second = (tmp_path / f"{name}.onnx" for name in ("original", "first", "second"))
    onnx.save(toys.stack(), original)
    data: Any = toys.ids(24)
    prune(original, first, heads="0:1", data=data, refit=True, provider="cpu")
    prune(first, second, heads="1:2", data=data, refit=True, provider="cpu")
    assert validate(first, second, provider="cpu").verdict == "passed"
    assert validate(original, second, provider="cpu").verdict == "passed"


@pytest.mark.slow
def test_a_compensated_model_can_be_pruned_again_under_other_names(tmp_path: Path) -> None:
    """Its record speaks of tensors that were there when it was refitted; the second cut claims nothing of them."""
    once = prune(toys.stack(), heads="0:1", data=toys.ids(24), refit=True, provider="cpu")
    renamed = onnx.compose.add_prefix(once.model, "a_")
    assert REFIT_ENTRY.read(renamed) is not None
    twice = prune(renamed, tmp_path / "twice.onnx", heads="1:2", provider="cpu")
    assert twice.validation is not None and twice.validation.passed and not twice.validation.refitted
    # What only the pruned file says is a claim of its own.
    forged = onnx.load(tmp_path / "twice.onnx")
    for entry in forged.metadata_props:
        if entry.key == COMPENSATED_KEY:
            entry.value = entry.value.replace("layer0.ffn.down.weight", "layer0.nothing.weight")
    onnx.save(forged, tmp_path / "forged.onnx")
    verdict = validate(renamed, tmp_path / "forged.onnx", provider="cpu")
    assert verdict.verdict == "failed" and "which is not in both models" in verdict.reason


# Forms of weights


def test_shared_weights_are_left_alone_with_the_reason() -> None:
    model = toys.stack(shared=True)
    found = prune(model, heads="0:1", data=toys.ids(24), refit=True, provider="cpu")
    assert found.chosen is not None and found.chosen.compensation is not None
    assert set(found.chosen.compensation.stored) == {"head.weight"}
    assert {item.node: item.skipped for item in found.chosen.compensation.refits}.items() >= {
        "MatMul_layer0.attn.projected (MatMul)": "its weights are shared with another node",
        "MatMul_layer0.ffn.up (MatMul)": "its weights are shared with another node",
        "MatMul_logits (MatMul)": None,
    }.items()
    assert found.validation is not None and found.validation.verdict == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"quantized": True}, {"dtype": np.float16}, {"heads": 6, "kv_heads": 2}])
def test_refits_keep_the_stored_type_and_are_proven(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    heads = "0:0-2" if "kv_heads" in form else "0:1 1:3"
    found = prune(model, heads=heads, data=toys.ids(24), refit=True, provider="cpu")
    assert found.chosen is not None and found.chosen.compensation is not None
    assert found.validation is not None and found.validation.verdict == "passed"
    new = found.chosen.compensation.stored["layer0.attn.out.weight"]
    old = toys.get_initializer(model, "layer0.attn.out.weight")
    assert new.dtype == old.dtype and new.shape == old.shape and not np.array_equal(new, old)


@pytest.mark.slow
def test_a_site_that_goes_as_a_whole_needs_no_refit_of_its_own() -> None:
    view, sites, data = toys.parts(toys.stack(), toys.ids(30))
    found = compensate(view, sites, {0: (0, 1, 2, 3), 1: (0,)}, data, HERE)
    assert {item.site for item in found.refits if item.site is not None} == {1}
    feed = data.feeds[0]
    assert run_feed(Session(view.model, HERE), feed, data.source)["logits"].shape == (8, 6, 19)


@pytest.mark.slow
def test_maps_are_refitted_on_what_is_left_when_a_site_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the refits run on, the pruned model in the original's shapes, is the masked refitted model."""
    model = toys.stack(layers=3)
    view, sites, data = toys.parts(model, toys.ids(30))
    heads = {0: (1,), 1: (0, 1, 2, 3), 2: (0,)}
    changed: list[Mapping[str, Array]] = []

    def watched(*parts: Any) -> Pair:
        changed.append(parts[-1])
        return Pair(*parts)

    monkeypatch.setattr(sys.modules[compensate.__module__], "Pair", watched)
    found = compensate(view, sites.sites, heads, data, HERE)
    assert "layer1.attn.out.weight" not in found.stored
    refitted = view_of(with_stored(model, found.stored))
    masked = masked_reference(refitted, sites_of(refitted, "the model"), heads)
    feed = data.feeds[0]
    expected = Session(masked, HERE).run(feed)["logits"]
    silenced = Session(with_stored(model, changed[0]), HERE).run(feed)["logits"]
    np.testing.assert_allclose(silenced, expected, atol=1e-4)
    assert np.abs(expected - Session(model, HERE).run(feed)["logits"]).max() > 0.1


@pytest.mark.slow
def test_data_may_fill_a_cache_that_the_cut_narrows() -> None:
    model = toys.attention(cache=True)
    random = np.random.default_rng(0)
    hidden, heads, size = toys.HIDDEN, toys.HEADS, toys.HEAD_SIZE
    past = (4, heads, 3, size)
    data = [
        {
            "x": random.standard_normal((4, 6, hidden)).astype(np.float32),
            "past_key": random.standard_normal(past).astype(np.float32),
            "past_value": random.standard_normal(past).astype(np.float32),
        }
        for _ in range(8)
    ]
    found = prune(model, ratio=0.5, data=data, provider="cpu")
    assert found.chosen is not None and found.chosen.drift is not None and found.chosen.drift > 0
    assert found.validation is not None and found.validation.verdict == "passed"
    given = open_structure(model)
    cutter = Cutter(given, data, HERE)
    cutter.hold_out("a drift is measured on data")
    assert choose(cutter, PruningTarget(ratio=0.5), FileSize.of(given, given)).held_out
