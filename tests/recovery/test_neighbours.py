"""Text that is seen again: tokens become neighbours in their table, and weights are drawn back to their start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.resident import Resident
from onnxheadprune.selection.recovery import neighbours
from onnxheadprune.selection.recovery.neighbours import ROWS_EACH, Neighbours, neighbours_of
from onnxheadprune.selection.recovery.pull import EVERY, Pull
from tests import toys_recovery
from tests.recovery.trainings import EPOCHS, Stop, trained

ROWS = 8 * ROWS_EACH
"""Of a table on a circle: eight neighbours for each."""


def circle() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    angles = 2 * np.pi * np.arange(ROWS) / ROWS
    lengths = np.random.default_rng(0).uniform(0.5, 2, ROWS)
    return (lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def rows(count: int, length: int) -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]]:
    random = np.random.default_rng(1)
    return [
        {"ids": random.integers(0, ROWS, length), "types": np.zeros(length, np.int64)} for _ in range(count)
    ]


def test_some_tokens_of_half_of_the_sequences_become_one_of_their_nearest() -> None:
    given = rows(400, 42)
    found = Neighbours({"ids": circle()}).exchanged(given, np.random.default_rng(2))
    apart = np.array([(new["ids"] - old["ids"]) % ROWS for new, old in zip(found, given, strict=True)])
    assert set(np.unique(apart)) == {0, *range(1, 5), *range(ROWS - 4, ROWS)}
    assert not apart[:, [0, -1]].any() and not any(row["types"].any() for row in found)
    touched = (apart != 0).any(axis=1)
    assert 0.4 < touched.mean() < 0.6 and 0.25 < (apart[touched, 1:-1] != 0).mean() < 0.35
    again = Neighbours({"ids": circle()}).exchanged(given, np.random.default_rng(2))
    assert all(np.array_equal(one["ids"], same["ids"]) for one, same in zip(found, again, strict=True))
    short = rows(50, 2)
    assert Neighbours({"ids": circle()}).exchanged(short, np.random.default_rng(0)) is not None


def test_a_large_table_is_looked_through_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_NUMBERS", ROWS)
    given = rows(50, 20)
    found = Neighbours({"ids": circle()}).exchanged(given, np.random.default_rng(2))
    new = np.array([row["ids"] for row in found])
    old = np.array([row["ids"] for row in given])
    assert (new != old).any() and not (new[new != old] % 2).any()


def test_a_table_of_few_rows_has_no_neighbours() -> None:
    view = view_of(toys_recovery.encoder())
    assert neighbours_of(view, graph_inputs(view)) is None


def test_a_pull_goes_a_share_of_the_way_back() -> None:
    where = Provider(CPU, "test")
    starts = [np.full((3, 2), 1.0, np.float32), np.full(4, -2.0, np.float32)]
    weights = [Resident(array, where) for array in starts]
    pull = Pull(weights, where)
    for item in weights:
        item.take(item.copy() + 8)
    for step in range(1, EVERY):
        pull.add(0.01, step)
    assert all(np.array_equal(item.copy(), start + 8) for item, start in zip(weights, starts, strict=True))
    pull.add(0.01, EVERY)
    pull.add(0.02, EVERY + 1)
    pull.settle()
    pull.settle()
    left = 8 * np.exp(-0.01 * EVERY - 0.02)
    assert all(np.allclose(item.copy(), start + left) for item, start in zip(weights, starts, strict=True))


@pytest.mark.long
def test_a_training_with_neighbours_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole, parts = (tmp_path / f"{name}.onnx" for name in ("plain", "whole", "parts"))
    trained(plain)
    monkeypatch.setattr(neighbours, "ROWS_EACH", 4)
    trained(whole)
    with pytest.raises(MemoryError):
        trained(parts, progress=Stop(MemoryError, 8))
    assert trained(parts, resume=True).steps == 3 * EPOCHS
    assert parts.read_bytes() == whole.read_bytes() != plain.read_bytes()
