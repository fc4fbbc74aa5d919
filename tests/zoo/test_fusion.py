"""Exports of today's exporters, pruned and not: every site in a fused operator, proven, and run as such."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from onnxheadprune import inspect, prune
from onnxheadprune.fusion.result import FuseMode
from tests.fusion.running import executed
from tests.zoo.store import NotBuiltError

if TYPE_CHECKING:
    from tests.zoo.store import Store

pytestmark = pytest.mark.samples

CASES = (
    *("bert", "bert-sdpa", "vit", "vit-sdpa", "gpt2", "gpt2-sdpa", "cache-gpt2", "cache-gpt2-sdpa"),
    *("llama-mha", "llama-mha-sdpa", "llama-gqa", "llama-gqa-sdpa", "llama-mqa"),
    *("cache-llama-mha", "cache-llama-mha-sdpa", "cache-llama-gqa", "cache-llama-gqa-sdpa"),
    *("t5", "swin", "deberta-v2", "bloom", "falcon-mqa", "mha-seq-first"),
)
VARIANTS = ("ts17", "dyn18", "dyn23")
FUSED = ("MultiHeadAttention", "GroupQueryAttention", "Attention")


@pytest.mark.each_choice
@pytest.mark.parametrize("mode", ["contrib", "onnx"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_all_sites_run_fused(store: Store, case: str, variant: str, mode: FuseMode, tmp_path: Path) -> None:
    try:
        model = store.folder(case, variant) / "model.onnx"
    except NotBuiltError as problem:
        pytest.skip(str(problem))
    sites = inspect(model)
    if all(site.cores[0].op_type in FUSED for site in sites):
        pytest.skip("the exporter fused it")
    draw = random.Random(5)
    heads = {site.index: list(draw.choice(site.groups)) for site in sites if len(site.groups) > 1}
    for chosen in ({}, heads):
        result = prune(model, tmp_path / "out.onnx", heads=chosen, fuse=mode, provider="cpu")
        assert result.fusion is not None
        assert len(result.fusion.made) == len(sites), str(result.fusion)
        assert result.validation is not None
        assert result.validation.verdict == "passed"
        operators = executed(result.model, tmp_path)
        assert sum(operators[name] for name in FUSED) == len(sites)
        assert operators["Softmax"] == 0
