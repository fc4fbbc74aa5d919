"""How much is run to choose: all of it in small models, and a bounded part in large ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxheadprune.choosing import effort as effort_module
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import (
    LEAST_TO_MEASURE,
    MOST_WORK,
    POINTS,
    Effort,
    Work,
    positions_per_sample,
)
from onnxheadprune.choosing.folds import Fold
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.data.drift import Evidence
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from tests.graphs import mixtures, toys

HERE = Provider(CPU, "test")


class Sized(Work):
    """The work of a model with so many weights, of which a site runs half."""

    def __init__(self, weights: float) -> None:
        self._maps = [(0, int(weights))]

    def behind(self, site: object) -> int:
        return self.whole // 2


def test_a_map_counts_once_and_a_late_site_runs_less() -> None:
    view, sites, _ = toys.parts(toys.stack(layers=3))
    work = Work(view)
    matrices = [item for item in view.model.graph.initializer if len(item.dims) == 2]
    multiplied = sum(math.prod(item.dims) for item in matrices if "embed" not in item.name)
    assert work.whole == multiplied
    behind = [work.behind(site) for site in sites]
    assert work.whole > behind[0] > behind[1] > behind[2] > 0


@pytest.mark.parametrize("op", mixtures.INPUTS)
def test_a_mixture_in_one_operator_counts_the_experts_that_a_token_goes_through(op: str) -> None:
    toy = mixtures.Mixture(op, fused=1, activation="swiglu")
    work = Work(view_of(toy.model()))
    router = mixtures.HIDDEN * mixtures.EXPERTS
    assert work.whole == router + toy.attributes["k"] * 3 * mixtures.HIDDEN * mixtures.WIDTH


def test_a_small_model_is_measured_on_what_there_is() -> None:
    _, sites, _ = toys.parts(toys.stack(layers=3))
    paths = {site.index: [(), ()] for site in sites}
    assert Effort.of(Sized(1e7), sites.sites, paths, 500, 30.0) == Effort(POINTS, 128)
    assert Effort.of(Sized(1e7), sites.sites, paths, 5, 30.0) == Effort(POINTS, 5)


@pytest.mark.each_choice
@pytest.mark.parametrize("weights", [1e7, 1e8, 3e8, 1e9, 3e9, 1e10])
@pytest.mark.parametrize("positions", [10.0, 256.0, 4096.0])
def test_larger_models_are_measured_at_fewer_points_and_on_fewer_samples(
    weights: float, positions: float
) -> None:
    _, sites, _ = toys.parts(toys.stack(layers=3))
    paths = {site.index: [(), (), ()] for site in sites}
    how = Effort.of(Sized(weights), sites.sites, paths, 500, positions)
    cuts = len(sites) * (3 * how.points or 1)
    taken = cuts * weights / 2 * how.samples * positions
    assert 2 <= how.samples <= 128
    bound = max(MOST_WORK, weights * positions * 500 / 3)
    least = min(LEAST_TO_MEASURE, max(2, math.ceil(1024 / positions)))
    assert taken <= bound or (how.points == 0 and how.samples == least)


@pytest.mark.slow
def test_the_least_that_is_measured_tells_every_site_and_all_of_its_path() -> None:
    view, sites, data = toys.parts(toys.stack(layers=3), toys.ids(20))
    moments = context_moments(view, sites.sites, data, HERE)
    paths = {site.index: [reconstruction_paths(site, moments[site.index])[0]] * 2 for site in sites}
    evidence, folds = Evidence(data, HERE), [Fold(moments, data)]
    whole = measured_paths(view, sites.sites, paths, folds, evidence, Effort(POINTS, 1000))
    least = measured_paths(view, sites.sites, paths, folds, evidence, Effort(0, 1000))
    for site in sites:
        steps, few = whole[site.index], least[site.index]
        assert [step.removed for step in few] == [step.removed for step in steps]
        drifts = [step.error for step in few]
        assert drifts == sorted(drifts) and drifts[0] > 0
        # The middle step is measured, the others follow from the error.
        middle = len(steps) // 2
        assert drifts[middle] == pytest.approx(steps[middle].error, rel=1e-6)
        first = paths[site.index][0]
        assert drifts[-1] / drifts[middle] == pytest.approx(first[-1].error / first[middle].error, rel=1e-6)


def test_data_is_looked_at_in_part_only_where_a_pass_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    view, sites, data = toys.parts(toys.stack(), toys.ids(20))
    work, widest = Work(view), 16
    assert data.positions == sum(feed["input_ids"].size for feed in data.feeds)
    assert work.to_look_at(data, widest) is data and work.to_run(data) is data
    monkeypatch.setattr(effort_module, "MOST_WORK", work.whole * data.positions / 2)
    part, less = work.to_look_at(data, widest), work.to_run(data)
    assert data.positions / 3 < (part.positions or 0) < data.positions
    assert 0 < (less.positions or 0) < (part.positions or 0)
    # Never fewer than a least-squares fit needs.
    monkeypatch.setattr(effort_module, "MOST_WORK", 0.0)
    assert (work.to_look_at(data, widest).positions or 0) >= 4 * widest
    moments = context_moments(view, sites.sites, data, HERE)
    assert positions_per_sample(moments, data) == pytest.approx(np.mean(data.positions / data.count))
