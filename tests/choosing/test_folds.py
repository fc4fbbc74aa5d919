"""Cuts are measured on samples that their trial refits have not seen, with much data and with little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration, Sites
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import POINTS, Effort, Work, samples_to_measure
from onnxheadprune.choosing.folds import MOST_APART, Fold, Looked, look_at
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.data.drift import Evidence
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.progress import silent
from tests.graphs import toys

HERE = Provider(CPU, "test")
MUCH = round(samples_to_measure(2) / MOST_APART) // 8
"""Feeds of eight samples, of which so many can be spared as a choice of two sites measures cuts on."""


def looked(feeds: Any) -> tuple[Any, Sites, Calibration, Looked]:
    view, sites, data = toys.parts(toys.stack(), feeds)
    found = look_at(view, sites.sites, Evidence(data, HERE), Work(view), silent)
    return view, sites, data, found


def samples(data: Calibration) -> set[bytes]:
    return {row.tobytes() for feed in data.feeds for row in feed["input_ids"]}


def seen(fold: Fold) -> int:
    """Positions that trial refits of a fold are fitted to."""
    return fold.moments[0][0].count


def test_much_data_is_divided_once() -> None:
    _, _, data, found = looked(toys.ids(MUCH))
    (fold,) = found.folds
    assert fold.data.count == samples_to_measure(2)
    assert samples(found.data) | samples(fold.data) == samples(data)
    assert not samples(found.data) & samples(fold.data)
    assert seen(fold) == found.data.positions == found.moments[0][0].count


@pytest.mark.parametrize("feeds", [MUCH - 1, 9, 2, 1])
def test_little_data_is_measured_by_halves(feeds: int) -> None:
    _, _, data, found = looked(toys.ids(feeds))
    one, other = found.folds
    assert samples(one.data) | samples(other.data) == samples(data) and found.data is data
    assert not samples(one.data) & samples(other.data)
    assert seen(one) == other.data.positions and seen(other) == one.data.positions
    assert found.moments[0][0].count == data.positions


@pytest.mark.parametrize("feeds", [toys.ids(2, rows=1), toys.ids(1, rows=1, length=20)])
def test_too_little_data_is_used_for_both(feeds: Any) -> None:
    _, _, data, found = looked(feeds)
    (fold,) = found.folds
    assert samples(fold.data) == samples(data) and seen(fold) == data.positions


@pytest.mark.parametrize("feeds", [MUCH, 9])
def test_progress_counts_the_sites_of_both_halves_once(feeds: int) -> None:
    view, sites, data = toys.parts(toys.stack(), toys.ids(feeds))
    told: list[tuple[int, int]] = []
    look_at(view, sites.sites, Evidence(data, HERE), Work(view), lambda _, done, of: told.append((done, of)))
    total = len(sites.sites) * (2 if feeds < MUCH else 1)
    assert told == [(done, total) for done in range(1, total + 1)]


def test_a_refit_that_has_seen_its_judge_looks_better_than_it_is() -> None:
    """On sentences that nothing has seen cuts cost what halves measure, and more than the same samples show."""
    view, sites, data, found = looked(toys.ids(3))
    paths = {site.index: [reconstruction_paths(site, found.moments[site.index])[0]] for site in sites}
    _, _, fresh = toys.parts(toys.stack(), toys.ids(40, seed=11))
    how = Effort(POINTS, 10_000)

    def costs(*folds: Fold) -> float:
        measured = measured_paths(view, sites.sites, paths, folds, Evidence(data, HERE), how)
        return float(np.mean([step.error for steps in measured.values() for step in steps]))

    inside, halves = costs(Fold(found.moments, data)), costs(*found.folds)
    outside = costs(Fold(found.moments, fresh))
    assert inside < outside and abs(halves - outside) < abs(inside - outside)
