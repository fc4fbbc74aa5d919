"""How much is run to choose: all of it in small models, and a bounded part in large ones."""

from __future__ import annotations

import math

import pytest

from onnxheadprune.choosing.effort import LEAST_TO_MEASURE, MOST_WORK, Effort, Work
from onnxheadprune.operators import view_of
from tests.graphs import mixtures, toys


class Sized(Work):
    """The work of a model with so many weights, of which a site runs half."""

    def __init__(self, weights: float) -> None:
        self._maps = [(0, int(weights))]

    def behind(self, site: object) -> int:
        return self.whole // 2


def test_a_layer_counts_once_and_a_late_site_runs_less() -> None:
    view, sites, _ = toys.parts(toys.stack(layers=3))
    work, behind = Work(view), [Work(view).behind(site) for site in sites]
    matrices = [item for item in view.model.graph.initializer if len(item.dims) == 2]
    assert work.whole == sum(math.prod(item.dims) for item in matrices if "embed" not in item.name)
    assert work.whole > behind[0] > behind[1] > behind[2] > 0


@pytest.mark.parametrize("op", mixtures.INPUTS)
def test_a_mixture_in_one_operator_counts_the_experts_that_a_token_goes_through(op: str) -> None:
    toy = mixtures.Mixture(op, fused=1, activation="swiglu")
    router = mixtures.HIDDEN * mixtures.EXPERTS
    each = 3 * mixtures.HIDDEN * mixtures.WIDTH
    assert Work(view_of(toy.model())).whole == router + toy.attributes["k"] * each


@pytest.mark.each_choice
@pytest.mark.parametrize("weights", [1e7, 3e8, 3e9, 1e10])
@pytest.mark.parametrize("positions", [10.0, 256.0, 4096.0])
def test_larger_models_are_measured_at_fewer_points_and_on_fewer_samples(
    weights: float, positions: float
) -> None:
    _, sites, _ = toys.parts(toys.stack(layers=3, heads=6, kv_heads=2))
    how = Effort.of(Sized(weights), sites.sites, 500, positions, 128)
    taken = len(sites) * (3 * how.points or 1) * weights / 2 * how.samples * positions
    assert 2 <= how.samples <= 128
    bound = max(MOST_WORK, weights * positions * 500 / 3)
    least = min(LEAST_TO_MEASURE, max(2, math.ceil(1024 / positions)))
    assert taken <= bound or (how.points == 0 and how.samples == least)
