"""Text that is seen again: tokens become neighbours in their table, and weights are drawn back to their start."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.training.neighbours import ROWS_EACH, Neighbours
from onnxheadprune.training.optimizer import EVERY, Pull

ROWS = 8 * ROWS_EACH
"""Of a table on a circle: eight neighbours for each."""


def circle() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    angles = 2 * np.pi * np.arange(ROWS) / ROWS
    lengths = np.random.default_rng(0).uniform(0.5, 2, ROWS)
    return (lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def rows(count: int, length: int) -> list[Sample]:
    random, types = np.random.default_rng(1), np.zeros((1, length), np.int64)
    feeds = ({"ids": random.integers(0, ROWS, (1, length)), "types": types} for _ in range(count))
    return [Sample(feed, None, "given") for feed in feeds]


def ids(samples: list[Sample]) -> Any:
    return np.concatenate([row.feed["ids"] for row in samples])


def test_some_tokens_of_half_of_the_sequences_become_one_of_their_nearest() -> None:
    given = rows(400, 42)
    found = Neighbours({"ids": circle()}).exchanged(given, np.random.default_rng(2))
    apart = (ids(found) - ids(given)) % ROWS
    assert set(np.unique(apart)) == {0, *range(1, 5), *range(ROWS - 4, ROWS)}
    assert not apart[:, [0, -1]].any() and not any(row.feed["types"].any() for row in found)
    touched = (apart != 0).any(axis=1)
    assert 0.4 < touched.mean() < 0.6 and 0.25 < (apart[touched, 1:-1] != 0).mean() < 0.35
    again = Neighbours({"ids": circle()}).exchanged(given, np.random.default_rng(2))
    assert np.array_equal(ids(found), ids(again))
    short = rows(50, 2)
    assert Neighbours({"ids": circle()}).exchanged(short, np.random.default_rng(0)) is not None


def test_a_pull_goes_a_share_of_the_way_back() -> None:
    starts = [np.full((3, 2), 1.0, np.float32), np.full(4, -2.0, np.float32)]
    weights = [array.copy() for array in starts]
    pull = Pull(weights)
    for item in weights:
        item += 8
    for step in range(1, EVERY):
        pull.add(0.01, step)
    assert all(np.array_equal(item, start + 8) for item, start in zip(weights, starts, strict=True))
    pull.add(0.01, EVERY)
    pull.add(0.02, EVERY + 1)
    pull.settle()
    pull.settle()
    left = 8 * np.exp(-0.01 * EVERY - 0.02)
    assert all(np.allclose(item, start + left) for item, start in zip(weights, starts, strict=True))
