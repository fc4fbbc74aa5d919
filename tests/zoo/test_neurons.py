"""Exported models without neurons: PyTorch's with zeroed columns, or refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

pytest.importorskip("torch")

from tests.zoo.store import NotBuiltError

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

CASES = (
    "albert", "bart", "bert", "deit", "distilbert", "experts-all", "experts-rows", "experts-where", "gpt2", "llama-gqa",
    "mixtral", "qwen3-moe", "roberta", "swin", "t5", "vit", "whisper-decoder", "whisper-encoder",
)  # fmt: skip
VARIANTS = ("ts17", "dyn18", "ts17+ort-extended")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_without_neurons_is_torch_without_them(store: Store, name: str, variant: str) -> None:
    from tests.zoo.build import Workshop
    from tests.zoo.neurons import compare

    case = store.cases[name]
    try:
        model = onnx.load(store.folder(name, variant) / "model.onnx")
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    found = compare(Workshop(case, store.zoo).model(), case, model)
    assert found.compared, f"no block could be compared: {found}"
    assert not found.refused and not found.unmatched, str(found)
    assert found.gathers == 0
    assert found.error <= case.tolerance, str(found)
    # Another cut would be seen.
    assert found.moved > 100 * case.tolerance
