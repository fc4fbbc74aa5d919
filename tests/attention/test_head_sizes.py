"""Sizes of heads and of groups do not depend on what is left of a site."""

from __future__ import annotations

from onnxheadprune.attention.specs import is_legal


def test_groups_of_different_sizes_do_not_bind_each_other() -> None:
    groups = ((0,), (1,), (2, 3), (4, 5))
    assert all(is_legal(groups, gone) for gone in ({0}, {0, 1}, {2, 3}, {2, 5}, {0, 2, 4}))
    assert not is_legal(groups, {2})
    assert not is_legal(groups, set(range(6)))
