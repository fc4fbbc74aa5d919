"""Batches that a training learns from: all of the data once a round, shuffled, and spliced where it is sequences."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.operators import view_of
from onnxheadprune.training.batches import BATCH, Batches
from tests.data.windows import POSITIONS, windows
from tests.graph_text import model_of
from tests.graphs import toys


def sentences(**given: Any) -> Calibration:
    return calibration_data(toys.sentences(**given), view_of(toys.encoder()))


def tokens(ids: Any) -> list[list[int]]:
    return [[int(token) for token in row if token] for row in ids]


def test_spliced_sequences_are_heads_and_tails_of_the_data() -> None:
    data = sentences()
    known = [row for feed in data.feeds for row in tokens(feed["input_ids"])]
    pairs = {pair for row in known for pair in pairwise(row)}
    feeds = list(Batches(data).round(1, np.random.default_rng(0)))
    made = [row for feed in feeds for row in tokens(feed["input_ids"])]
    assert len(made) == len(known) and made not in (known, sorted(known))
    for row in made:
        assert row[0] == toys.FIRST and row[-1] == toys.LAST
        # At most one neighbourhood is new: where the two were joined.
        assert sum(pair not in pairs for pair in pairwise(row)) <= 1
    for feed in feeds:
        assert len(feed["input_ids"]) <= BATCH
        assert np.array_equal(feed["attention_mask"] != 0, feed["input_ids"] != 0)


def test_epochs_are_new_and_follow_from_the_seed() -> None:
    batches = Batches(sentences())
    one, same, other = (list(batches.round(1, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("rows", [8, 20])
def test_other_data_is_used_as_it_is(rows: int) -> None:
    random = np.random.default_rng(0)
    given = [{"x": random.standard_normal((rows, 5, 12)).astype(np.float32)} for _ in range(4)]
    data = calibration_data(given, view_of(toys.attention()))
    batches = Batches(data)
    feeds = list(batches.round(1, np.random.default_rng(0)))
    assert len(feeds) == batches.count == -(-4 * rows // BATCH)
    seen = sorted(tuple(row) for feed in feeds for row in feed["x"].reshape(-1, 5 * 12).tolist())
    assert seen == sorted(tuple(row) for feed in data.feeds for row in feed["x"].reshape(-1, 5 * 12).tolist())


def test_samples_are_shuffled_along_the_batch_axis() -> None:
    """Inputs without a batch axis are not split, even if they come first or are as long as the batch."""
    rows, random = 4, np.random.default_rng(0)
    model = model_of("""<ir_version: 9, opset_import: ["": 17]>
        shared (bool deterministic, int64[sequence] positions, int64[1] past_lengths,
                int64[3, samples, sequence] position_ids, float[samples, sequence, 2] x)
        => (float[samples, sequence, 2] y) { y = Relu(x) }""")
    shared: dict[str, Any] = {
        "deterministic": np.array(True),
        "positions": np.arange(rows),
        "past_lengths": np.array([rows]),
    }
    given = []
    for number in range(5):
        grid = np.arange(number * rows, (number + 1) * rows)[None, :, None].repeat(3, 0).repeat(rows, 2)
        values = random.standard_normal((rows, rows, 2)).astype(np.float32)
        values[:, 0, 0] = grid[0, :, 0]
        given.append({**shared, "position_ids": grid, "x": values})
    data = calibration_data(given, view_of(model))
    batches = Batches(data)
    feeds = list(batches.round(0, random))
    assert [batches.rows(feed) for feed in feeds] in ([16, 4], [4, 16])
    assert sorted(value for feed in feeds for value in feed["x"][:, 0, 0]) == list(range(20))
    for feed in feeds:
        assert (feed["position_ids"] == feed["x"][None, :, :1, 0]).all()
        assert all(np.array_equal(feed[name], array) for name, array in shared.items())


def test_steps_take_full_windows(tmp_path: Path) -> None:
    """What a choice, a refit and a training see is the same."""
    batches = Batches(windows(tmp_path))
    shapes = [feed["input_ids"].shape for feed in batches.round(0, np.random.default_rng(0))]
    assert len(shapes) == batches.count and shapes.count((BATCH, POSITIONS)) >= len(shapes) - 2 * 2
