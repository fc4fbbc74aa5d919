"""Heads, neurons and layers under one budget: the knapsack is exact, the path is the surgeon's, the budget is kept."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Comparison, GridPoint, Ratio
from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.choosing.scoring.moves import Step
from onnxheadprune.choosing.space import FINE, PARTS, ROUNDING, Savings, SearchSpace
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.workflow.choice.latency import Width, with_times


def _space(rng: np.random.Generator, *, nested: bool = False) -> SearchSpace:
    """Three sites whose paths have random costs; the first two may lie in a layer with something else."""
    each = {0: 3.0, 1: 1.0, 2: 5.0, 3: 25.0}
    sites = [_site(index, units) for index, units in enumerate((4, 6, 3))]
    sites[2:2] = [_site(3, 1, tuple(sites[:2]))] if nested else []
    paths: dict[int, list[Step]] = {}
    for site in sites:
        costs = np.cumsum(rng.uniform(0.1, 1 + 4 * bool(site.parts), site.num_units))
        paths[site.index] = [Step(frozenset(range(n + 1)), float(costs[n])) for n in range(site.num_units)]
    savings = {site.index: Savings.evenly(site.num_units, each[site.index]) for site in sites}
    whole = sum(savings[site.index].of(site.num_units) for site in outermost(sites))
    return SearchSpace(tuple(sites), paths, savings, whole, "test")


def _site(index: int, units: int, parts: tuple[Site, ...] = ()) -> Site:
    return Site(
        index=index,
        name="",
        num_units=units,
        original_num_units=units,
        groups=(),
        projections=(),
        cores=(),
        parts=parts,
    )


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_is_exact(seed: int, nested: bool) -> None:
    """Of all combinations of steps; with a layer none goes of what is inside."""
    space = _space(np.random.default_rng(seed), nested=nested)
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


def _speed(*ratios: tuple[float, float, float]) -> SpeedUp:
    cells = []
    for batch, (low, value, high) in enumerate(ratios, 1):
        cells.append((GridPoint(batch), Comparison(Ratio(value, low, high), None)))
    return SpeedUp(tuple(cells), Provider(CPU, "test"))


@pytest.mark.first_case
@pytest.mark.parametrize("seed", range(20))
def test_noise_removes_no_option(seed: int) -> None:
    """Whatever a busy machine measures, of some sites or of all, everything that can go still can."""
    rng = np.random.default_rng(seed)
    space = _space(rng)
    widths, measured = [], []
    for site in space.sites:
        hidden = rng.random() < 0.7
        for step in space.paths[site.index][:: rng.integers(1, 3)] + space.paths[site.index][-1:]:
            value = float(rng.uniform(0.8, 1.6) if hidden else rng.uniform(0.3, 0.9))
            spread = 3.0 if hidden else 1.02
            widths.append(((site,), Width({site.index: step})))
            measured.append(_speed((value / spread, value, value * spread)))
    timed = with_times(space, widths, measured)
    largest = timed.removing(timed.most())
    assert largest.count == space.removing(space.most()).count == 13
    counts = [timed.removing(count).count for count in range(1, timed.most() + 1)]
    assert len(set(counts)) > 5
    if all(speed.value <= 1 for speed in measured):
        assert [space.removing(at).heads for at in (50, 120)] == [
            timed.removing(at).heads for at in (50, 120)
        ]


def _pieces(space: SearchSpace, steps: Any) -> int:
    """Whole pieces that some steps save, one per site or none."""
    saved = (
        int(space.savings[site.index].of(len(step.removed)) / space.whole * PARTS * FINE + ROUNDING)
        for site, step in zip(space.sites, steps, strict=True)
        if step
    )
    return sum(saved)
