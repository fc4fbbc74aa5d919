"""Tensors that are taken from the pruned file: which may be, that damage shows, and what the verdict says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune import Validation, plan_pruning, prune, validate
from onnxheadprune.choosing.compensation.record import sealed
from onnxheadprune.model.load import open_structure
from tests.graphs import toys
from tests.recording import recorded, rewritten

HEADS = "0:1 1:0,3"
DATA: Any = toys.ids(24)


@pytest.fixture(scope="module")
def made() -> tuple[ModelProto, ModelProto]:
    original = toys.stack()
    return original, prune(original, heads=HEADS, data=DATA, refit=True, provider="cpu").model


def copy_of(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def check(original: ModelProto, model: ModelProto, data: Any = None) -> Validation:
    return validate(original, model, data=data, provider="cpu")


def add_noise(model: ModelProto, name: str, size: float = 1.0) -> None:
    array = toys.get_initializer(model, name)
    noise = np.random.default_rng(0).standard_normal(array.shape) * size * np.abs(array).max()
    toys.set_initializer(model, name, (array + noise).astype(array.dtype))


def reseal(original: ModelProto, model: ModelProto) -> None:
    """Writes digests that fit, as an attacker would."""
    sealed(open_structure(model), plan_pruning(original, heads=HEADS))


@pytest.mark.slow
def test_the_first_line_names_the_refitted_tensors_and_what_they_do(
    made: tuple[ModelProto, ModelProto],
) -> None:
    original, model = made
    names = recorded(model)["refit"]["tensors"]
    assert {*recorded(model)["refit"]["digests"]} == {*names}
    count = len(names)
    without = check(original, model)
    assert f"{count} tensors are taken from the file, and their effect is not proven" in without.reason
    found = check(original, model, DATA)
    assert found.verdict == "passed"
    assert (
        f"{count} tensors are taken from the file: with them the cosine distance of the outputs"
        in found.reason
    )
    assert found.refit is not None and found.refit.source == "data"
    assert found.refit.refitted.cosine > found.refit.bare.cosine
    document = found.to_dict()
    assert document["refitted"] == sorted(names) and document["refit"]["source"] == "data"


def test_noise_in_a_refitted_tensor_is_damage(made: tuple[ModelProto, ModelProto]) -> None:
    original, model = made[0], copy_of(made[1])
    add_noise(model, "layer0.attn.out.weight", 1e-6)
    found = check(original, model)
    assert found.verdict == "failed" and "the file is damaged" in found.reason


def test_a_refitted_tensor_without_a_digest_fails(made: tuple[ModelProto, ModelProto]) -> None:
    """Versions of the record that have digests have one for each tensor; who takes it out hides damage."""
    original, model = made[0], copy_of(made[1])
    with rewritten(model) as record:
        del record["refit"]["digests"]["layer0.attn.out.weight"]
    found = check(original, model)
    assert (
        found.verdict == "failed" and "has no digest of the refitted layer0.attn.out.weight" in found.reason
    )


def test_noise_in_all_floats_that_are_said_to_be_refitted_fails(made: tuple[ModelProto, ModelProto]) -> None:
    original, model = made[0], copy_of(made[1])
    names = [tensor.name for tensor in model.graph.initializer if tensor.data_type == 1]
    for name in names:
        add_noise(model, name, 0.1)

    with rewritten(model) as record:
        made = {name for name in names if "onnxhead" not in name}
        record["refit"]["tensors"] = sorted({*record["refit"]["tensors"], *made})
    reseal(original, model)
    found = check(original, model)
    assert found.verdict == "failed" and "which no refit of this cut changes" in found.reason


def test_noise_under_fresh_digests_is_not_proven_and_shows_on_data(
    made: tuple[ModelProto, ModelProto],
) -> None:
    original, model = made[0], copy_of(made[1])
    add_noise(model, "layer0.attn.out.weight", 3.0)
    reseal(original, model)
    assert "not proven without `data`" in check(original, model).reason
    found = check(original, model, DATA)
    assert found.verdict == "inconclusive" and "they do harm" in found.reason


def test_a_tensor_that_is_listed_and_unchanged_is_as_good_as_not_listed(
    made: tuple[ModelProto, ModelProto],
) -> None:
    original, model = made[0], copy_of(made[1])
    with rewritten(model) as record:
        record["refit"]["tensors"].append("layer1.attn.k.weight")
    table = toys.get_initializer(original, "layer1.attn.k.weight")
    assert table.size
    assert check(original, model).verdict == "passed"


@pytest.mark.slow
def test_digests_are_of_what_is_written() -> None:
    """A second cut narrows a refitted tensor, and the record follows."""
    original = toys.stack()
    first = prune(original, heads="0:1", data=DATA, refit=True, provider="cpu").model
    second = prune(first, heads="0:2", provider="cpu").model
    before, after = (recorded(model)["refit"] for model in (first, second))
    name = "layer0.attn.out.weight"
    assert before["tensors"] == after["tensors"] and before["digests"][name] != after["digests"][name]
    assert numpy_helper.to_array(next(t for t in second.graph.initializer if t.name == name)).shape[0] < 12
    assert check(original, second).verdict == "passed"
