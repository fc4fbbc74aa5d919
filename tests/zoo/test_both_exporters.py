"""The same cut gets the same answer, whichever exporter of PyTorch wrote the graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

pytest.importorskip("torch")

from onnxheadprune import RefusedError, plan_pruning
from onnxheadprune.attention.sites.find import analysis_of

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

CASES = ("bert", "cache-llama-gqa", "conformer-rotary", "gpt2", "gptj", "mpt", "wav2vec2")
CONSTANTS = 0.01
"""How much of what goes may be constants, which exporters fold and share in ways of their own."""


def answers(path: Path) -> dict[str, int]:
    """By every site, layers too, and the first unit of it: how many elements go with it, 0 where it stays."""
    model = onnx.load(path)
    sites = analysis_of(model, path.name).sites
    specs: dict[str, dict[str, str | list[int]]] = {site.key: {site.key: "*"} for site in sites.every}
    specs |= {f"{site.key}:0": {site.key: [0]} for site in sites.every}
    return {name: _removed(model, spec) for name, spec in specs.items()}


def _removed(model: onnx.ModelProto, spec: dict[str, str | list[int]]) -> int:
    try:
        return plan_pruning(model, heads=spec).elements_removed
    except RefusedError:
        return 0


@pytest.mark.first_case
@pytest.mark.parametrize("name", CASES)
def test_both_exporters_get_the_same_answers(store: Store, name: str) -> None:
    script, export = (answers(store.folder(name, variant) / "model.onnx") for variant in ("ts17", "dyn18"))
    assert any(script.values())
    assert export == pytest.approx(script, rel=CONSTANTS)
