"""Gradients of exported encoders and decoders, decomposed and fused: PyTorch's, within 1e-4 of the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

pytest.importorskip("torch")

from onnxheadprune.fusion.fuse import fuse
from tests.zoo.store import NotBuiltError

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

ENCODERS = ("bert", "distilbert", "roberta", "vit", "deit", "whisper-encoder")
DECODERS = ("gpt2", "llama-gqa", "t5", "bart", "whisper-decoder")
PLAIN = ("ts17", "dyn18")
FUSED = ("ts17+ort-extended", "ts17 contrib", "dyn18 contrib", "dyn18 onnx")
TOLERANCE = 1e-4


@pytest.mark.each_choice
@pytest.mark.parametrize("variant", [*PLAIN, *FUSED])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_gradients_are_those_of_torch(store: Store, name: str, variant: str) -> None:
    from tests.zoo.gradients import compare

    export, _, mode = variant.partition(" ")
    if name not in store.cases:
        pytest.fail(f"there is no case {name}")
    try:
        model = onnx.load(store.folder(name, export) / "model.onnx")
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    if mode == "contrib" or mode == "onnx":
        model, fusion = fuse(model, mode)
        assert fusion.made
    case = store.cases[name]
    found = compare(store.module(name), case, model)
    assert found.errors, "no weight was recognised"
    assert not found.constant
    assert found.missing == ()
    wrong = {weight: error for weight, error in found.errors.items() if not error <= TOLERANCE}
    assert wrong == {}
