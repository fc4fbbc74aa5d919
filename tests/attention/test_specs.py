"""What is said about a head spec that cannot be carried out, and whether what is offered instead can."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from onnxheadprune import RefusedError, UsageError, inspect, plan_pruning
from onnxheadprune.attention.specs import MAX_LISTED, parsed, resolved
from tests import golden_file
from tests.graphs import toys

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.slow
def test_a_mapping_that_lists_too_much() -> None:
    with pytest.raises(UsageError, match="lists more than 1,048,576 heads"):
        parsed({0: itertools.repeat(1, MAX_LISTED + 1)})


def test_a_name_that_two_sites_have() -> None:
    (site,) = inspect(toys.attention())
    names = ("encoder.layer.0.attention", "decoder.layer.0.attention")
    sites = [replace(site, index=index, name=name) for index, name in enumerate(names)]
    both = r"attn\.0 \(encoder.layer.0.attention\), attn\.1 \(decoder.layer.0.attention\)"
    with pytest.raises(UsageError, match=f"'layer.0' is ambiguous: {both}; use the full"):
        resolved(parsed("layer.0:1"), sites)
    assert resolved(parsed("decoder.layer.0:1"), sites) == {1: (1,)}


@pytest.mark.parametrize("gone", [(0,), (1,), (3,)])
def test_the_nearest_legal_sets_of_grouped_queries_can_go(gone: tuple[int, ...]) -> None:
    """Four query heads on two KV heads, {0, 1} and {2, 3}."""
    model = golden_file.read(GOLDEN / "grouped_whole_group.txt").model
    with pytest.raises(RefusedError, match="different numbers of query heads") as refused:
        plan_pruning(model, heads={0: gone})
    offered = re.findall(r"\d+(?:[,-]\d+)*", str(refused.value).rpartition("nearest legal sets are")[2])
    assert offered
    for heads in offered:
        assert plan_pruning(model, heads=f"0:{heads}").removed
