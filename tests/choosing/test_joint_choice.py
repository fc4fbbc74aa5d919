"""Heads, neurons and layers under one budget: the knapsack is exact, the path is the surgeon's, the budget is kept."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxheadprune.choosing.space import FINE, PARTS, ROUNDING, SearchSpace
from tests.choosing.spaces import search_space


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_is_exact(seed: int, nested: bool) -> None:
    """Of all combinations of steps; with a layer none goes of what is inside."""
    space = search_space(np.random.default_rng(seed), nested=nested)
    every = [
        steps
        for steps in itertools.product(*([None, *space.paths[site.index]] for site in space.sites))
        if not (nested and steps[2] and (steps[0] or steps[1]))
    ]
    everything = max(_pieces(space, steps) for steps in every)
    taken = set()
    for count in (1, 40, 97, 150, space.most()):
        got = space.removing(count)
        fitting = [
            sum(step.error for step in steps if step)
            for steps in every
            if _pieces(space, steps) >= min(count * FINE, everything)
        ]
        assert sum(got.costs.values()) == pytest.approx(min(fitting))
        saved = sum(space.savings[index].of(len(units)) for index, units in got.heads.items())
        assert saved >= space.whole * count / PARTS * (1 - 1e-9)
        assert not (3 in got.heads and {0, 1} & got.heads.keys())
        taken |= got.heads.keys()
    assert taken >= {2, 3} if nested else taken == {0, 1, 2}


def _pieces(space: SearchSpace, steps: Any) -> int:
    """Whole pieces that some steps save, one per site or none."""
    saved = (
        int(space.savings[site.index].of(len(step.removed)) / space.whole * PARTS * FINE + ROUNDING)
        for site, step in zip(space.sites, steps, strict=True)
        if step
    )
    return sum(saved)
