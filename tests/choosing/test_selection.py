"""Which heads go: cheapest, legal, within the limits, and the same every time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxheadprune import HeadScores, RefusedError, Selection, UsageError, select_heads
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.allocate import Limits
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import Effort
from onnxheadprune.choosing.folds import Fold
from onnxheadprune.choosing.scoring.moves import Step, path_by_worth
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.choosing.select import search_space
from onnxheadprune.choosing.space import SearchSpace
from onnxheadprune.choosing.targets import PruningTarget, Requirements
from onnxheadprune.data.drift import Evidence
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.runtime import CPU, Provider
from tests.choosing.searched import removed
from tests.graphs import toys

HERE = Provider(CPU, "test")
SHAPES = [(4, 4), (6, 2), (6, 3), (4, 1), (8, 2)]
SITES = {shape: toys.parts(toys.stack(layers=3, heads=shape[0], kv_heads=shape[1]))[1] for shape in SHAPES}
FORMS: list[dict[str, Any]] = [
    {},
    {"heads": 6, "kv_heads": 2},
    {"quantized": True},
    {"shared": True},
    {"dtype": np.float16},
]
worth = st.lists(st.floats(0, 10, allow_subnormal=False), min_size=8, max_size=8)


def head_count(choice: Any) -> int:
    return sum(len(heads) for heads in choice.values())


# Legal by construction


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), worth, st.sets(st.integers(0, 7), max_size=3))
def test_every_step_of_every_path_is_legal_and_grows(
    shape: tuple[int, int], worths: list[float], protected: set[int]
) -> None:
    site = SITES[shape][0]
    kept = frozenset(head for head in protected if head < site.num_heads)
    before, cost = frozenset[int](), 0.0
    for step in path_by_worth(site, worths[: site.num_heads], kept):
        assert is_legal(site.groups, set(step.removed))
        assert before < step.removed and not step.removed & kept and step.error >= cost
        before, cost = step.removed, step.error
    if not kept:
        assert site.num_heads - len(before) == 1


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 10**6), st.sets(st.integers(0, 7), max_size=2))
def test_paths_by_reconstruction_are_legal_whatever_the_data(
    shape: tuple[int, int], seed: int, protected: set[int]
) -> None:
    site = SITES[shape][1]
    kept = {head for head in protected if head < site.num_heads}
    random = np.random.default_rng(seed)
    moments = Moments(site.num_heads * 4)
    moments.add(random.standard_normal((60, site.num_heads * 4)) * random.random(site.num_heads * 4))
    before, cost = frozenset[int](), 0.0
    for step in reconstruction_paths(site, [moments], protected=kept)[0]:
        assert is_legal(site.groups, set(step.removed))
        assert before < step.removed and not step.removed & kept and step.error >= cost
        before, cost = step.removed, step.error


# Allocation against trying everything


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.lists(worth, min_size=3, max_size=3),
    st.integers(1, 20),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_the_allocation_is_the_cheapest_of_all(
    shape: tuple[int, int], worths: list[list[float]], wanted: int, floor: int, multiple: int
) -> None:
    sites, limits = SITES[shape].sites, Limits(floor, {"heads": multiple})
    paths = {
        site.index: path_by_worth(site, values[: site.num_heads])
        for site, values in zip(sites, worths, strict=True)
    }
    every = [limits.options(site, paths[site.index]) for site in sites]
    tried: dict[int, float] = {}
    for steps in itertools.product(*every):
        count = sum(len(step.removed) for step in steps)
        tried[count] = min(tried.get(count, np.inf), sum(step.error for step in steps))
    reachable = max(count for count in tried if count <= wanted)
    if not reachable:
        with pytest.raises(RefusedError, match="fewer than the first cut"):
            removed(SITES[shape], paths, wanted, limits)
        return
    choice = removed(SITES[shape], paths, wanted, limits)
    assert head_count(choice) == reachable
    cost = 0.0
    for site in sites:
        heads = choice.get(site.index, frozenset())
        left = site.num_heads - len(heads)
        assert not heads or (left >= floor and left % multiple == 0)
        cost += next((step.error for step in paths[site.index] if step.removed == heads), 0.0)
    assert cost == pytest.approx(tried[reachable], abs=1e-9)


def plain_paths(shape: tuple[int, int]) -> Any:
    return {
        site.index: path_by_worth(site, [float(head + site.index) for head in range(site.num_heads)])
        for site in SITES[shape]
    }


@pytest.mark.parametrize(("wanted", "each"), [(3, 1), (5, 1), (6, 2), (9, 3), (11, 3), (12, 3)])
def test_uniform_takes_the_same_share_of_every_site(wanted: int, each: int) -> None:
    choice = removed(SITES[4, 4], plain_paths((4, 4)), wanted, Limits(uniform=True))
    assert [len(choice[index]) for index in range(3)] == [each] * 3


def test_uniform_with_groups_takes_what_every_site_can_lose() -> None:
    choice = removed(SITES[8, 2], plain_paths((8, 2)), 14, Limits(uniform=True))
    assert [len(choice[index]) for index in range(3)] == [4] * 3
    with pytest.raises(RefusedError, match="fewer than the first cut"):
        removed(SITES[8, 2], plain_paths((8, 2)), 3, Limits(uniform=True))


@pytest.mark.parametrize(
    ("shape", "keep", "limits", "left"),
    [
        ((4, 4), 1, Limits(), 1),
        ((4, 4), 3, Limits(), 3),
        ((4, 4), 3, Limits(multiple_of={"heads": 2}), 4),
        ((8, 2), 3, Limits(), 3),
        ((6, 3), 5, Limits(), 6),
        ((6, 3), 2, Limits(min_heads=4), 4),
    ],
)
def test_keeping_so_many_heads_per_site(shape: tuple[int, int], keep: int, limits: Limits, left: int) -> None:
    sites = SITES[shape].sites
    if left == sites[0].num_heads:
        with pytest.raises(RefusedError, match="fewer than the first cut"):
            removed(SITES[shape], plain_paths(shape), keep, limits, each=True)
        return
    choice = removed(SITES[shape], plain_paths(shape), keep, limits, each=True)
    found = {sites[index].num_heads - len(heads) for index, heads in choice.items()}
    assert min(found) >= keep and len(choice) == 3
    assert found == {left} or shape == (8, 2)


def test_wrong_targets() -> None:
    for ratio in (0.0, 1.0, -0.5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="ratio must be greater than 0 and less than 1"):
            SearchSpace((), {}, {}, 32, "").ratio(ratio)
    for settings_ in (
        {"min_heads": -1},
        {"multiple_of": {"heads": 0}},
        {"multiple_of": {"layers": 2}},
        {"multiple_of": 2},
    ):
        with pytest.raises(UsageError, match=r"must be (at least|a mapping with the keys heads and neurons)"):
            Limits(**settings_)
    model = toys.stack()
    with pytest.raises(UsageError, match="the number of heads that every site keeps"):
        select_heads(model)
    with pytest.raises(UsageError, match="ratio= and keep= are mutually exclusive"):
        select_heads(model, ratio=0.5, keep=2)
    with pytest.raises(UsageError, match="keep must be at least 1"):
        select_heads(model, keep=0)


# The whole way


def chosen(model: Any, **settings_: Any) -> Selection:
    return select_heads(model, provider=HERE, **settings_)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_a_ratio_on_data_is_legal_and_the_same_every_time(shape: tuple[int, int], ratio: float) -> None:
    model = toys.stack(heads=shape[0], kv_heads=shape[1])
    data = toys.ids(20)
    first, second = (chosen(model, ratio=ratio, data=data) for _ in range(2))
    assert first == second and first.basis == "measured drift after refit"
    assert 0 < first.count <= round(2 * shape[0] * ratio)
    for site in SITES[shape].sites[:2]:
        gone = set(first.heads.get(site.index, ()))
        assert is_legal(site.groups, gone)
        assert gone or site.index not in first.costs
    if shape == (4, 4):
        assert first.count == round(8 * ratio)


def test_by_weights_and_by_scores() -> None:
    model = toys.stack()
    assert chosen(model, ratio=0.25).basis == "weights (no data was given)"
    scores = HeadScores.from_dict({"0": [5, 1, 6, 7], "1": [2, 8, 9, 4]})
    found = chosen(model, ratio=0.4, scores=scores)
    assert found.heads == {0: (1,), 1: (0, 3)} and found.costs == {0: 1, 1: 6}
    assert found.scores == {0: (5, 1, 6, None), 1: (2, 8, None, 4)}


def test_a_small_cut_of_grouped_queries_does_not_hide_behind_a_large_one() -> None:
    model = toys.stack(layers=1, heads=8, kv_heads=2)
    scores = HeadScores.from_dict({"0": [0, 0, 0, 0, 1, 1, 1, 1]})
    # Per head the first KV head is cheapest, and takes four query heads with it.
    assert chosen(model, ratio=0.5, scores=scores).heads == {0: (0, 1, 2, 3)}
    assert chosen(model, ratio=0.25, scores=scores).heads == {0: (0, 4)}
    assert chosen(model, keep=6, scores=scores).heads == {0: (0, 4)}
    on_data = chosen(model, ratio=0.25, data=toys.ids(20))
    assert on_data.count == 2 and is_legal(toys.parts(model)[1][0].groups, set(on_data.heads[0]))


def test_protected_heads_and_floors_are_kept() -> None:
    model = toys.stack()
    scores = HeadScores.from_dict({"0": [0, 1, 2, 3], "1": [10, 11, 12, 13]})
    assert chosen(model, ratio=0.375, scores=scores, protect="0:0").heads == {0: (1, 2, 3)}
    assert chosen(model, ratio=0.375, scores=scores, protect="0").heads == {1: (0, 1, 2)}
    assert chosen(model, ratio=0.25, scores=scores, min_heads=3).heads == {0: (0,), 1: (0,)}
    assert chosen(model, keep=2, scores=scores).heads == {0: (0, 1), 1: (0, 1)}
    with pytest.raises(RefusedError, match="3 of 8 heads were asked for, but only 2 can go"):
        chosen(model, ratio=0.375, scores=scores, min_heads=3)


def test_with_floor_0_a_whole_site_goes_when_that_is_cheapest() -> None:
    model = toys.stack()
    scores = HeadScores.from_dict({"0": [0.0, 0.0, 0.1, 0.1], "1": [10, 11, 12, 13]})
    assert chosen(model, ratio=0.5, scores=scores, min_heads=0).heads == {0: (0, 1, 2, 3)}
    assert chosen(model, ratio=0.5, scores=scores).heads == {0: (0, 1, 2), 1: (0,)}
    kept = chosen(model, ratio=0.5, scores=scores, min_heads=0, protect="0:3")
    assert kept.heads == {0: (0, 1, 2), 1: (0,)}


@pytest.mark.slow
def test_a_model_that_was_pruned_before_is_spoken_of_in_its_old_heads() -> None:
    from onnxheadprune import prune

    model = prune(toys.stack(), heads="0:1", provider="cpu").model
    scores = HeadScores.from_dict({"0": [5, None, 0, 7], "1": [2, 8, 9, 4]})
    found = chosen(model, ratio=2 / 7, scores=scores)
    assert found.heads == {0: (2,), 1: (0,)} and found.scores[0] == (5, None, 0, None)
    assert chosen(model, ratio=2 / 7, data=toys.ids(20)).count == 2


def test_no_site_can_lose_heads() -> None:
    from tests.graphs import toys

    with pytest.raises(RefusedError, match="no attention site was found"):
        chosen(toys.no_attention(), ratio=0.5)


# Measured curves

ALL = Effort(6, 1000)
"""Six steps of each path, on all samples."""


@pytest.mark.parametrize("form", FORMS)
def test_measured_drifts_never_fall(form: dict[str, Any]) -> None:
    view, sites, data = toys.parts(toys.stack(**form), toys.ids(20))
    moments = context_moments(view, sites.sites, data, HERE)
    paths = {site.index: [reconstruction_paths(site, moments[site.index])[0]] for site in sites}
    measured = measured_paths(view, sites.sites, paths, [Fold(moments, data)], Evidence(data, HERE), ALL)
    for site in sites:
        (steps,), found = paths[site.index], measured[site.index]
        assert [step.removed for step in found] == [step.removed for step in steps]
        drifts = [step.error for step in found]
        assert drifts == sorted(drifts) and drifts[0] > 0 and np.isfinite(drifts[-1])
    nothing = {site.index: [()] for site in sites}
    assert set(
        measured_paths(view, sites.sites, nothing, [Fold(moments, data)], Evidence(data, HERE), ALL).values()
    ) == {()}


def test_a_measured_drift_is_that_of_the_model_with_those_weights() -> None:
    from onnxheadprune.choosing.activations.linear import Linear
    from onnxheadprune.choosing.curves import _refits
    from onnxheadprune.data.drift import EffectMeter
    from onnxheadprune.edit.submodel import with_stored
    from onnxheadprune.runtime import Session

    view, sites, data = toys.parts(toys.stack(), toys.ids(20))
    moments = context_moments(view, sites.sites, data, HERE)
    main = main_output(view, ())
    assert main is not None
    steps = reconstruction_paths(sites[0], moments[0])[0][:1]
    (found,) = measured_paths(
        view, [sites[0]], {0: [steps]}, [Fold(moments, data)], Evidence(data, HERE), ALL
    )[0]
    (projection,), (moment,) = sites[0].projections, moments[0]
    linear = Linear.of(projection)
    assert linear is not None
    (refit,) = _refits(projection, linear, moment, steps)
    changed = Session(with_stored(view.model, refit), HERE)
    original, meter = Session(view.model, HERE), EffectMeter(main, data.inputs)
    for feed in data.feeds:
        meter.add(original.run(feed), changed.run(feed), feed)
    assert found.error == pytest.approx(meter.mean(), rel=1e-3)
    assert isinstance(found, Step)


@pytest.mark.parametrize("outputs", [1, 8])
def test_trial_refits_are_the_ridge_towards_the_outputs_of_all_heads(outputs: int) -> None:
    """With fewer outputs than removed inputs, and with more."""
    from onnxheadprune.choosing.curves import STRENGTH, _refits

    random = np.random.default_rng(0)
    x, weight = random.standard_normal((300, 8)) @ random.standard_normal((8, 8)) + 1, np.eye(8)[:, :outputs]
    moment, covariance = Moments(8), np.cov(x.T, ddof=0)
    moment.add(x)
    stored = SimpleNamespace(name="w")
    matrix = SimpleNamespace(read=weight.copy, written=np.copy, stored=stored)
    linear: Any = SimpleNamespace(matrix=matrix, bias=None, read_bias=lambda: None)
    projection: Any = SimpleNamespace(live_without=lambda gone: ~np.isin(np.arange(8), list(gone)))
    steps = [Step(frozenset(gone), 0.0) for gone in ((1,), (0, 1, 3), range(8))]
    for step, refit in zip(steps, _refits(projection, linear, moment, steps), strict=True):
        left = projection.live_without(step.removed)
        mine, wanted = covariance[np.ix_(left, left)], np.zeros_like(weight)
        pull = STRENGTH * np.trace(mine) / max(left.sum(), 1) * np.eye(left.sum())
        wanted[left] = np.linalg.solve(mine + pull, covariance[left] @ weight + pull @ weight[left])
        np.testing.assert_allclose(refit["w"], wanted, atol=1e-9)


def test_the_search_space_answers_targets_of_any_size() -> None:
    requirements = Requirements(scores=HeadScores.from_dict({"0": [0, 1, 2, 3], "1": [1, 1, 1, 1]}))
    base = search_space(analysis_of(toys.stack(), "the model"), requirements)
    assert base.total == 8 and base.most() == 6
    counts = [base.removing(count).count for count in range(1, 9)]
    assert counts == [1, 2, 3, 4, 5, 6, 6, 6]
    costs = [sum(base.removing(count).costs.values()) for count in range(1, 7)]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("method", "told"),
    [("weight", "scores and method are mutually exclusive"), ("guess", "there is no scoring method 'guess'")],
)
def test_scores_and_a_method_contradict_each_other_however_they_come(method: Any, told: str) -> None:
    scores = HeadScores.from_dict({"0": [0, 1, 2, 3]}) if method == "weight" else None
    with pytest.raises(UsageError, match=told):
        Requirements(scores=scores, method=method)
    with pytest.raises(UsageError, match=told):
        PruningTarget(ratio=0.5, scores=scores, method=method)
