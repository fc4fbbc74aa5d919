"""The parts of a recovery, each against what it should be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration
from onnxheadprune.data.calibration import calibration_data, data_of
from onnxheadprune.data.rows import rows_in
from onnxheadprune.data.splicing import (
    Sequences,
    with_spliced,
)
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input, Role, read_dim
from onnxheadprune.training.batches import BATCH, Batches
from tests.graphs import toys


def sentences(**given: Any) -> Calibration:
    return calibration_data(toys.sentences(**given), view_of(toys.encoder()))


def tokens(ids: Any) -> list[list[int]]:
    return [[int(token) for token in row if token] for row in ids]


# Data


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
    assert with_spliced(data, 10**6, 1) is data


def test_samples_are_shuffled_along_the_batch_axis() -> None:
    """Inputs without a batch axis are not split, even if they come first or are as long as the batch."""
    rows, random = 4, np.random.default_rng(0)
    samples_axis, tokens = read_dim("samples"), read_dim("sequence")
    given: dict[Input, Any] = {
        Input("deterministic", np.dtype(np.bool_), (), Role.FLAG): np.array(True),
        Input("positions", np.dtype(np.int64), (tokens,), Role.POSITIONS): np.arange(rows),
        Input("sizes", np.dtype(np.int64), (1,), Role.LENGTHS): np.array([rows]),
    }
    rotary = Input("grid", np.dtype(np.int64), (3, samples_axis, tokens), Role.POSITIONS)
    x = Input("x", np.dtype(np.float32), (samples_axis, tokens, 2), Role.FLOATS)
    samples = []
    for number in range(5):
        grid = np.arange(number * rows, (number + 1) * rows)[None, :, None].repeat(3, 0).repeat(rows, 2)
        values = random.standard_normal((rows, rows, 2)).astype(np.float32)
        values[:, 0, 0] = grid[0, :, 0]
        shared = {item.name: array for item, array in given.items()}
        samples.append(Sample({**shared, rotary.name: grid, x.name: values}, None, "given"))
    inputs = (*given, rotary, x)
    data = data_of((row for sample in samples for row in rows_in(sample, inputs)), inputs)
    batches = Batches(data)
    feeds = list(batches.round(0, random))
    assert [batches.rows(feed) for feed in feeds] in ([16, 4], [4, 16])
    assert sorted(value for feed in feeds for value in feed["x"][:, 0, 0]) == list(range(20))
    for feed in feeds:
        assert (feed["grid"] == feed["x"][None, :, :1, 0]).all()
        assert all(np.array_equal(feed[item.name], array) for item, array in given.items())


@pytest.mark.parametrize("dtype", [np.bool_, np.int64])
def test_inverted_masks_are_not_spliced(dtype: Any) -> None:
    """In PyTorch's key padding masks True marks padding."""

    def masked(padding: bool) -> Calibration:
        data = sentences()
        name = next(item.name for item in data.inputs if item.role is Role.MASK)
        inputs = [replace(i, dtype=np.dtype(dtype)) if i.name == name else i for i in data.inputs]
        samples = [
            replace(one, feed={**one.feed, name: ((one.feed[name] == 0) == padding).astype(dtype)})
            for one in data.samples
        ]
        return replace(data, samples=tuple(samples), inputs=tuple(inputs))

    plain, found = Sequences.of(sentences()), Sequences.of(masked(False))
    assert plain is not None and found is not None
    assert [row.feed["input_ids"].tolist() for row in found.data.samples] == [
        row.feed["input_ids"].tolist() for row in plain.data.samples
    ]
    assert Sequences.of(masked(True)) is None
