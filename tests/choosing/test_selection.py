"""Which heads go: cheapest, legal, within the limits, and the same every time."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxheadprune as ohp
from onnxheadprune import HeadScores, RefusedError, Selection, UsageError, select_heads
from tests.graphs import toys

SHAPES = [(4, 4), (6, 2), (6, 3), (4, 1), (8, 2)]
MODELS = {(heads, groups): toys.stack(heads=heads, kv_heads=groups, inner=0) for heads, groups in SHAPES}
FORMS: list[dict[str, Any]] = [
    {},
    {"heads": 6, "kv_heads": 2},
    {"quantized": True},
    {"shared": True},
    {"dtype": np.float16},
]


def chosen(model: Any, **settings: Any) -> Selection:
    return select_heads(model, provider="cpu", **settings)


# Against trying everything


def is_legal(shape: tuple[int, int], gone: Collection[int]) -> bool:
    """Each KV head that stays keeps equally many of its query heads, and one stays."""
    heads, groups = shape
    left = np.bincount(
        [head * groups // heads for head in range(heads) if head not in gone], minlength=groups
    )
    return len(set(left[left > 0])) == 1


def cuts_of(
    shape: tuple[int, int], protected: Collection[int], floor: int, multiple: int
) -> Iterator[tuple[int, ...]]:
    """Every set of a site's heads that may go."""
    free = [head for head in range(shape[0]) if head not in protected]
    for count in range(len(free) + 1):
        left = shape[0] - count
        if count == 0 or (left >= floor and left % multiple == 0):
            yield from (gone for gone in itertools.combinations(free, count) if is_legal(shape, gone))


@given(
    st.sampled_from(SHAPES),
    st.lists(st.lists(st.integers(0, 40), min_size=8, max_size=8), min_size=2, max_size=2),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.integers(0, 7), max_size=2),
)
def test_by_fixed_scores_a_cut_is_the_largest_legal_one_and_the_cheapest_of_its_size(
    shape: tuple[int, int],
    worths: list[list[int]],
    wanted: int,
    floor: int,
    multiple: int,
    protected: set[int],
) -> None:
    scores = HeadScores.from_dict({str(site): row[: shape[0]] for site, row in enumerate(worths)})
    protected = {head for head in protected if head < shape[0]}
    limits: dict[str, Any] = {"min_heads": floor, "multiple_of": {"heads": multiple}}
    if protected:
        limits["protect"] = " ".join(f"0:{head}" for head in protected)
    every = [list(cuts_of(shape, kept, floor, multiple)) for kept in (protected, ())]
    costs: dict[int, int] = {}
    for first, second in itertools.product(*every):
        cost, count = sum(worths[0][head] for head in first), len(first) + len(second)
        cost += sum(worths[1][head] for head in second)
        costs[count] = min(costs.get(count, cost), cost)
    wanted = min(wanted, 2 * shape[0] - 1)
    try:
        found = chosen(MODELS[shape], ratio=wanted / (2 * shape[0]), scores=scores, **limits)
    except RefusedError:
        assert max(costs) < wanted or min(costs.keys() - {0}, default=99) > wanted
        return
    assert found.count <= wanted and all(gone in every[site] for site, gone in found.heads.items())
    assert found.count == max(count for count in costs if count <= wanted)
    assert (
        sum(worths[site][head] for site, gone in found.heads.items() for head in gone) == costs[found.count]
    )


def test_uniform_with_groups_takes_what_every_site_can_lose() -> None:
    assert [len(heads) for heads in chosen(MODELS[8, 2], ratio=0.6, uniform=True).heads.values()] == [5, 5]
    with pytest.raises(RefusedError):
        chosen(MODELS[8, 2], ratio=1 / 16, uniform=True)


def test_wrong_targets() -> None:
    for wrong in (
        *({"ratio": ratio} for ratio in (0.0, 1.0, -0.5, float("nan"), float("inf"))),
        *({"ratio": 0.5, "multiple_of": multiple} for multiple in ({"heads": 0}, {"layers": 2}, 2)),
        {},
        {"ratio": 0.5, "keep": 2},
        {"ratio": 0.5, "min_heads": -1},
        {"ratio": 0.5, "method": "weight", "scores": SCORES},
        {"ratio": 0.5, "method": "guess"},
        {"ratio": 0.5, "protect": "9:1"},
        {"ratio": 0.5, "protect": "nowhere"},
        {"ratio": 0.5, "protect": "0:8"},
        {"keep": 0},
    ):
        with pytest.raises(UsageError):
            chosen(MODELS[4, 4], **wrong)  # type: ignore[arg-type]


# What decides


SCORES = HeadScores.from_dict({"0": [0, 1, 2, 3], "1": [10, 11, 12, 13]})


def test_with_floor_0_a_whole_site_goes_when_that_is_cheapest() -> None:
    model = toys.stack()
    scores = HeadScores.from_dict({"0": [0.0, 0.0, 0.1, 0.1], "1": [10, 11, 12, 13]})
    assert chosen(model, ratio=0.5, scores=scores, min_heads=0).heads == {0: (0, 1, 2, 3)}
    assert chosen(model, ratio=0.5, scores=scores).heads == {0: (0, 1, 2), 1: (0,)}
    kept = chosen(model, ratio=0.5, scores=scores, min_heads=0, protect="0:3")
    assert kept.heads == {0: (0, 1, 2), 1: (0,)}


@pytest.mark.slow
def test_a_model_that_was_pruned_before_is_spoken_of_in_its_old_heads() -> None:
    model = ohp.prune(toys.stack(), heads="0:1", provider="cpu").model
    scores = HeadScores.from_dict({"0": [5, None, 0, 7], "1": [2, 8, 9, 4]})
    found = chosen(model, ratio=2 / 7, scores=scores)
    assert found.heads == {0: (2,), 1: (0,)} and found.scores[0] == (5, None, 0, None)
    assert chosen(model, ratio=2 / 7, data=toys.ids(20)).count == 2


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_measured_costs_rise_with_what_goes(form: dict[str, Any]) -> None:
    """One step of each path after the other, by cuts that go on beside the model."""
    heads, groups = form.get("heads", 4), form.get("kv_heads", 4)
    step = groups if heads > groups else 1
    model, data = toys.stack(**form), toys.ids(20)
    found = [chosen(model, keep=keep, data=data) for keep in (heads - step, heads - 2 * step)]
    for site in (0, 1):
        costs = [selection.costs[site] for selection in found if site in selection.costs]
        assert costs and costs == sorted(costs) and costs[0] > 0 and np.isfinite(costs[-1])
