"""Proofs of models that are too large to be in memory several times: weights stay in files, and models take turns."""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import prune, validate
from onnxheadprune.choosing.compensation.compensate import compensate
from onnxheadprune.choosing.compensation.record import restored
from onnxheadprune.model import load, new_contents
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage import wire
from onnxheadprune.model.storage.tensors import is_outside
from onnxheadprune.runtime import CPU, Provider, Session, memory_limits
from onnxheadprune.runtime.memory_turns import Turns
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.runs import SPARED
from tests.graphs import toys

HEADS = "0:1 1:0,3"
DATA: Any = toys.ids(24)
HERE = Provider(CPU, "test")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model that counts as larger than memory, its tensors of 100 bytes and more as large ones."""
    for module in ("runtime.memory_limits", "model.load"):
        monkeypatch.setattr(f"onnxheadprune.{module}.MAPPED_FROM", 1000)
    for module in (wire, memory_limits, load, new_contents):
        monkeypatch.setattr(module, "BIG", 100)
    monkeypatch.setattr("onnxheadprune.validation.runs.SPARED", 0)
    path = tmp_path / "model.onnx"
    save_model(toys.stack(), path, external=True)
    return path


def is_open(session: Session) -> bool:
    return session._session is not None


def test_one_of_several_large_models_is_open_at_a_time(large: Path) -> None:
    turns, feed = Turns(), DATA[0]
    first, second = (Session(open_structure(large), HERE).taking(turns) for _ in range(2))
    assert not is_open(first) and is_open(second)
    expected = second.run(feed)
    found = first.run(feed)
    assert is_open(first) and not is_open(second)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert second.output_types() == first.output_types()
    turns.rest()
    assert not is_open(first) and not is_open(second)


def test_small_models_stay_open() -> None:
    turns = Turns(SPARED)
    first, second = (Session(toys.stack(), HERE).taking(turns) for _ in range(2))
    turns.rest()
    assert is_open(first) and is_open(second)


def test_a_model_in_memory_takes_its_turn_too() -> None:
    turns, feed = Turns(), DATA[0]
    first, second = (Session(toys.stack(), HERE).taking(turns) for _ in range(2))
    assert not is_open(first)
    assert np.array_equal(first.run(feed)["logits"], second.run(feed)["logits"])
    assert not is_open(first)


def test_what_is_cut_is_mapped_from_a_file_that_goes_with_the_session(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    cut = prune(large, heads=HEADS, provider="cpu", validate=False)
    session = Session(cut.pruned, HERE)
    assert "weights" in {item.name for item in own.rglob("*") if item.is_file()}
    found = session.run(DATA[0])["logits"]
    assert np.array_equal(found, Session(cut.model, HERE).run(DATA[0])["logits"])
    del session
    gc.collect()
    assert not list(own.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("external", [True, False])
def test_refitted_tensors_stay_in_the_file(
    large: Path, tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor are they in memory before they are written.
    monkeypatch.setattr(sys.modules[compensate.__module__], "IN_MEMORY", 0)
    output = tmp_path / "pruned.onnx"
    result = prune(
        large,
        output,
        heads=HEADS,
        data=DATA,
        refit=True,
        provider="cpu",
        external_data="always" if external else "never",
    )
    assert result.validation is not None and result.validation.passed and result.validation.refitted
    original, pruned = open_structure(large), open_structure(output)
    claim = read_claim(original, pruned.proto, None, ("original", "pruned"))
    assert claim.refit is not None
    found, problems = restored(original, pruned, claim.planning, claim.refit)
    assert not problems and set(found.tensors) == set(result.validation.refitted)
    outside = {name for name, tensor in found.tensors.items() if is_outside(tensor)}
    assert any(name.endswith("attn.out.weight") for name in outside), "an output projection, which is cut"
    assert any(name.endswith("down.weight") for name in outside), "a feed-forward layer's map, which is whole"
    # The model in memory holds the same numbers, and heads that are gone keep those of the original.
    alike, _ = restored(
        open_structure(onnx.load(large)), open_structure(onnx.load(output)), claim.planning, claim.refit
    )
    assert not any(is_outside(tensor) for tensor in alike.tensors.values())
    expected = alike.arrays()
    for name, array in found.arrays().items():
        assert np.array_equal(array, expected[name])
    refitted = found.into(original)
    before = Session(refitted, HERE).run(DATA[0])["logits"]
    hydrated = alike.into(open_structure(onnx.load(large)))
    assert np.array_equal(before, Session(hydrated.proto, HERE).run(DATA[0])["logits"])


@pytest.mark.slow
def test_damage_to_a_refitted_tensor_in_a_file_shows(large: Path, tmp_path: Path) -> None:
    output = tmp_path / "pruned.onnx"
    prune(large, output, heads=HEADS, data=DATA, refit=True, provider="cpu", external_data="never")
    model = onnx.load(output)
    name = next(
        name
        for name in map(str, validate(large, output, provider="cpu").refitted)
        if name.endswith("down.weight")
    )
    array = toys.get_initializer(model, name).copy()
    array.flat[3] += 1
    toys.set_initializer(model, name, array)
    onnx.save(model, output)
    verdict = validate(large, output, provider="cpu")
    assert verdict.verdict == "failed" and "damaged" in verdict.reason
