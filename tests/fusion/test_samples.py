"""Pruned *and* fused exports against PyTorch's own silenced models, and what ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxheadprune import apply_plan, plan_pruning
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode
from onnxheadprune.runtime import Session
from tests.attention.tiny_samples import NAMES, PROVIDER, TOLERANCE, error, reference, sample
from tests.fusion.running import executed

OPERATOR: dict[FuseMode, str] = {"contrib": "MultiHeadAttention", "onnx": "Attention"}
CASES: list[tuple[str, FuseMode]] = [
    *((name, "contrib") for name in NAMES),
    *((name, "onnx") for name in NAMES if name.endswith(("dynamo-eager", "torchscript-sdpa"))),
]
FIRST = {mode: (name, mode) for name, mode in reversed(CASES)}.values()
"""The first case of each operator."""
INDEX = 7
"""Which of the drawn sets of heads goes."""


@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(*case, marks=[] if case in FIRST else [pytest.mark.slow]) for case in CASES],
)
def test_all_sites_are_fused_and_equal_pytorch(name: str, mode: FuseMode, tmp_path: Path) -> None:
    expected = reference(name.partition("-")[0])
    original = sample(name)
    pruned = apply_plan(plan_pruning(original, heads=expected.head_sets[INDEX]), original)
    for model, variant in ((original, "original"), (pruned, f"set{INDEX:02}")):
        result, fusion = fuse(model, mode)
        assert len(fusion.made) == len(fusion.sites) == 3, str(fusion)
        session = Session(result, PROVIDER)
        for feed, arrays in expected.feeds.items():
            (output,) = session.run(arrays).values()
            assert error(output, expected.output(variant, feed)) <= TOLERANCE
        operators = executed(result, tmp_path)
        assert operators[OPERATOR[mode]] == 3
        assert operators["Softmax"] == 0
