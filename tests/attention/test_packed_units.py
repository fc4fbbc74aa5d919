"""Heads smaller than a block of a packed projection: whatever chooses heads removes those of one block together."""

from __future__ import annotations

from onnxheadprune import plan_pruning, select_heads
from tests.graphs.table import table


def test_targets_keep_blocks_whole() -> None:
    model = table()["heads smaller than a block"].model
    for ratio, most in ((0.4, 2), (0.7, 4)):
        chosen = select_heads(model, ratio=ratio).heads[0]
        assert len(chosen) == most
        plan_pruning(model, heads={0: chosen})
    assert len(select_heads(model, ratio=0.4, multiple_of={"heads": 4}).heads[0]) == 2
