"""Sizes of heads and of groups do not depend on what is left of a site."""

from __future__ import annotations

from onnxheadprune import apply_plan, inspect, plan_pruning
from onnxheadprune.attention.specs import is_legal
from tests.graphs import toys


def test_the_size_of_a_head_does_not_depend_on_how_many_are_left() -> None:
    """Weights that belong to no head, such as those of a norm, do not count for the last one, either."""
    model = toys.decoder(norms="pre")
    before = inspect(model)[0]
    sizes = [(before.params / before.num_heads, before.flops_per_token / before.num_heads)]
    for gone in range(before.num_heads - 1):
        model = apply_plan(plan_pruning(model, heads={0: [gone]}), model)
        (site, *_) = inspect(model)
        sizes.append((site.params / site.num_heads, site.flops_per_token / site.num_heads))
    assert site.num_heads == 1 and len(set(sizes)) == 1


def test_groups_of_different_sizes_do_not_bind_each_other() -> None:
    groups = ((0,), (1,), (2, 3), (4, 5))
    assert all(is_legal(groups, gone) for gone in ({0}, {0, 1}, {2, 3}, {2, 5}, {0, 2, 4}))
    assert not is_legal(groups, {2})
    assert not is_legal(groups, set(range(6)))
