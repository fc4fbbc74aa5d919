"""Random attention blocks, as exporters could have written them: found, cut, and equal to the builder's zeros."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxheadprune import apply_plan, inspect, plan_pruning
from tests.graphs.blueprint import Blueprint, blueprints
from tests.graphs.composed import build
from tests.laws.cutting import assert_equal
from tests.liveness.masks import Draw
from tests.liveness.one_node import run


@st.composite
def legal_heads(draw: Draw, plan: Blueprint) -> list[int]:
    """Whole groups, or as many query heads of every group, or both; sometimes all."""
    if draw(st.integers(0, 9)) == 9:
        return list(range(plan.H))
    groups = np.arange(plan.H).reshape(plan.K, plan.G)
    gone: set[int] = set()
    for number in draw(st.sets(st.integers(0, plan.K - 1), max_size=plan.K - 1)):
        gone |= set(groups[number].tolist())
    per_group = draw(st.integers(0 if gone else min(1, plan.G - 1), plan.G - 1))
    for group in groups:
        gone |= set(draw(st.permutations(group.tolist()))[:per_group])
    return sorted(gone or {draw(st.integers(0, plan.H - 1))} if plan.G == 1 else gone)


def check(data: st.DataObject) -> None:
    """The same heads go from every layer; with caches that are kept, callers see those of before."""
    plan = data.draw(blueprints())
    heads = data.draw(legal_heads(plan))
    graph = build(plan)
    sites = inspect(graph.model)
    told = [
        (site.num_heads, site.kv_num_heads, site.head_size, site.v_head_size, site.reason) for site in sites
    ]
    assert told == [(plan.H, plan.K, plan.D, plan.Dv, None)] * plan.layers
    cut = {str(layer): heads for layer in range(plan.layers)}
    outputs, feed = graph.outputs(cut), graph.feed
    made = plan_pruning(graph.model, heads={"*": heads})
    assert not made.edge_gathers, [str(gather) for gather in made.edge_gathers]
    assert_equal(run(apply_plan(made, graph.model), graph.narrowed(feed, cut)), outputs(feed))
    if plan.past:
        kept = plan_pruning(graph.model, heads={"*": heads}, cache="keep")
        assert not kept.interface
        main = next(iter(outputs(feed)))
        assert_equal({main: run(apply_plan(kept, graph.model), feed)[main]}, {main: outputs(feed)[main]})


@given(st.data())
def test_composed_attention(data: st.DataObject) -> None:
    check(data)
