"""Random attention blocks, as exporters could have written them: found, cut, and equal to the masked reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.legal_cuts import is_legal
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import planned
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.liveness.live import FULL
from tests.attention.block_parts import build
from tests.attention.blueprint import Blueprint, blueprints
from tests.liveness.masks import Array, Draw, compact
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


def close(got: Array, want: Array) -> bool:
    """Within 1e-5 of the scale."""
    return got.shape == want.shape and bool(
        np.max(np.abs(got - want), initial=0) <= 1e-5 * max(1.0, np.abs(want).max())
    )


def check(plan: Blueprint, heads: list[int]) -> PrunePlan:
    """Removes `heads` from every layer and compares with the masked reference."""
    model, feed = build(plan)
    analysis = analysis_of(model, "composed")
    sites = analysis.sites
    found = [(site.num_heads, site.kv_num_heads, site.head_size, site.v_head_size) for site in sites]
    assert found == [(plan.H, plan.K, plan.D, plan.Dv)] * plan.layers
    assert [site.reason for site in sites] == [None] * plan.layers
    assert all(len(heads) == plan.H or is_legal(site.groups, set(heads)) for site in sites)
    planning = planned(analysis, {"*": heads})
    pruned = apply_plan(planning.plan, model)
    masked = masked_reference(planning.view, planning.sites, planning.heads)
    io = planning.io.live
    want = run(masked, feed)
    got = run(pruned, {name: compact(array, io.get(name, FULL)) for name, array in feed.items()})
    for name, array in want.items():
        assert close(got[name], compact(array, io.get(name, FULL))), name
    whole = run(model, feed)
    assert not all(close(whole[name], array) for name, array in want.items()), "masking changed nothing"
    if plan.past:
        check_kept_cache(analysis, heads, want, feed)
    return planning.plan


def check_kept_cache(
    analysis: Analysis, heads: list[int], want: dict[str, Array], feed: dict[str, Array]
) -> None:
    """With the old contract, the pruned model takes and gives caches of all heads; those of removed heads are alike."""
    planning = planned(analysis, {"*": heads}, Contract(cache="keep"))
    assert planning.io.is_as_before
    got = run(apply_plan(planning.plan, analysis.model), feed)
    for name, array in want.items():
        assert close(got[name], array), f"{name}, with --cache keep"


@given(st.data())
def test_composed_attention(data: st.DataObject) -> None:
    plan = data.draw(blueprints())
    made = check(plan, data.draw(legal_heads(plan)))
    assert not made.edge_gathers, [str(gather) for gather in made.edge_gathers]
