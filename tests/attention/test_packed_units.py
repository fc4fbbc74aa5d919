"""Heads smaller than a block of a packed projection: whatever chooses heads removes those of one block together."""

from __future__ import annotations

from onnxheadprune import inspect, plan_pruning, select_heads
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.choosing.scoring.moves import Summed, paths
from tests.graphs.table import table


def test_targets_keep_blocks_whole() -> None:
    model = table()["heads smaller than a block"].model
    for ratio, most in ((0.4, 2), (0.7, 4)):
        chosen = select_heads(model, ratio=ratio).heads[0]
        assert len(chosen) == most
        plan_pruning(model, heads={0: chosen})
    assert len(select_heads(model, ratio=0.4, multiple_of={"heads": 4}).heads[0]) == 2


def test_blocks_within_groups_of_queries() -> None:
    """Four query heads per group, two per block: one block of every group, or a whole group."""
    model = table()["blocks within groups of queries"].model
    (site,) = inspect(model)
    steps = [step.removed for path in paths(site, Summed(range(8))) for step in path]
    assert frozenset({0, 1, 4, 5}) in steps and frozenset(range(4)) in steps
    for removed in steps:
        assert is_legal(site.groups, set(removed))
        plan_pruning(model, heads={0: sorted(removed)})
