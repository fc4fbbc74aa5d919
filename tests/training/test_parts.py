"""The parts of a recovery, each against what it should be."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration, UsageError
from onnxheadprune.choosing.compensation.trainable import trainable
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.splicing import (
    ENOUGH,
    MOST_COPIES,
    MOST_WORK,
    Sequences,
    with_spliced,
)
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.runtime.feeds.symbols import read_dim
from onnxheadprune.training.batches import BATCH, Batches
from onnxheadprune.training.budget import Budget, parse_budget
from onnxheadprune.training.rate import (
    BEARABLE,
    LONG,
    RATES,
    STEPS,
    WARM_UP,
    bearable,
    find_rate,
    share_of_rate,
)
from onnxheadprune.training.subject import Subject, differentiated
from onnxheadprune.training.targets import hidden_states
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


def test_left_padding_and_other_positions_are_told_apart() -> None:
    feeds = toys.sentences()
    for feed in feeds:
        for name in feed:
            feed[name] = np.stack([np.roll(row, np.sum(row == 0)) for row in feed[name]])
    found = Sequences.of(calibration_data(feeds, view_of(toys.encoder())))
    assert found is not None and all(row["input_ids"][0] == toys.FIRST for row in found.rows)


@pytest.mark.parametrize("rows", [8, 20])
def test_windows_without_a_mask_are_spliced_at_one_place(rows: int) -> None:
    data = toys.parts(toys.stack(), toys.ids(feeds=4, rows=rows))[2]
    batches = Batches(data)
    feeds = list(batches.round(1, np.random.default_rng(0)))
    assert len(feeds) == batches.count == -(-4 * rows // BATCH)
    known = np.concatenate([feed["input_ids"] for feed in data.feeds])
    made = np.concatenate([feed["input_ids"] for feed in feeds])
    assert made.shape == known.shape
    for row in made:
        heads, tails = (known == row).cumprod(1), (known == row)[:, ::-1].cumprod(1)
        assert heads.sum(1).max() + tails.sum(1).max() >= len(row)
    assert {tuple(row) for row in made} - {tuple(row) for row in known}


def test_sequences_keep_what_is_empty_and_no_cache_that_is_filled() -> None:
    plain, dtype = sentences(), np.dtype(np.float32)
    cache = Input("past.0.key", dtype, (read_dim("batch"), 2, read_dim("past"), 4), Role.FLOATS)

    def with_cache(past: int) -> Calibration:
        samples = tuple(
            replace(
                item,
                feed={**item.feed, cache.name: np.zeros((len(item.feed["input_ids"]), 2, past, 4), dtype)},
            )
            for item in plain.samples
        )
        return replace(plain, samples=samples, inputs=(*plain.inputs, cache))

    feeds = list(Batches(with_cache(0)).round(1, np.random.default_rng(0)))
    assert all(feed[cache.name].shape == (len(feed["input_ids"]), 2, 0, 4) for feed in feeds)
    assert Sequences.of(with_cache(1)) is None


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
    data = Calibration(tuple(samples), (*given, rotary, x), "", "given")
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
    assert [row["input_ids"].tolist() for row in found.rows] == [
        row["input_ids"].tolist() for row in plain.rows
    ]
    assert Sequences.of(masked(True)) is None


def test_data_are_spliced_until_there_are_enough() -> None:
    data = sentences()
    positions = sum(int(feed["attention_mask"].sum()) for feed in data.feeds)
    for wanted, copies in ((1, 0), (2, 1), (3, 2), (32, MOST_COPIES), (33, 0)):
        more = with_spliced(data, wanted * positions // ENOUGH, 100)
        assert more.count == (1 + copies) * data.count
        assert more.samples[: len(data.samples)] == data.samples
    assert with_spliced(data, positions, round(MOST_WORK / (2.5 * positions))).count == 2 * data.count
    assert with_spliced(data, positions, round(MOST_WORK / (1.5 * positions))) is data
    again = with_spliced(data, positions, 100)
    for one, same in zip(with_spliced(data, positions, 100).feeds, again.feeds, strict=True):
        assert all(np.array_equal(one[name], same[name]) for name in one)


# What is trained, and where


def test_tables_and_what_acts_on_positions_are_not_trained() -> None:
    view = view_of(toys.encoder())
    assert set(view.main.values).issuperset(trainable(view))
    assert set(trainable(view)) == {
        tensor.name for tensor in view.model.graph.initializer if tensor.name.startswith("layer")
    }


def test_hidden_states_are_the_stream_behind_its_normalisations() -> None:
    found = [state.value.name for state in hidden_states(view_of(toys.encoder()))]
    assert found == [
        "layer0.attn.norm.out",
        "layer0.ffn.norm.out",
        "layer1.attn.norm.out",
        "last_hidden_state",
    ]
    found = [state.value.name for state in hidden_states(view_of(toys.attention()))]
    assert found == ["y"]


# Steps


def test_tokens_are_pooled_only_if_the_batch_is_the_first_axis() -> None:
    view, data = view_of(toys.encoder()), sentences()
    turned = replace(data, inputs=tuple(replace(item, dims=item.dims[::-1]) for item in data.inputs))
    main = MainOutput("last_hidden_state", False)
    subject = Subject(view, main, toys.encoder(), None, AS_BEFORE, {})
    assert [differentiated(subject, one)[1].pooled for one in (data, turned)] == [True, False]


def test_the_rate_rises_and_falls() -> None:
    assert share_of_rate(0) == 0 and math.isclose(share_of_rate(WARM_UP), 1)
    assert share_of_rate(1) == 0 and 0.4 < share_of_rate(0.55) < 0.6


@pytest.mark.parametrize("largest", RATES)
def test_the_largest_rate_that_can_be_borne_is_taken(largest: float) -> None:
    rate, found = find_rate(lambda rate: 1.0 if rate > largest else math.log(rate), lambda: 0.5)
    assert rate == largest and len(found) <= 5


def test_a_long_training_bears_what_a_short_one_does_not() -> None:
    assert bearable(2.0, STEPS) == bearable(2.0, 1) == 2.0
    assert (
        2.0 < bearable(2.0, 2 * STEPS) < bearable(2.0, LONG - 1) < 2.0 * (1 + BEARABLE) == bearable(2.0, LONG)
    )
    assert bearable(2.0, 10 * LONG) == bearable(2.0, LONG)


def test_without_time_one_rate_is_tried() -> None:
    rate, found = find_rate(lambda rate: math.nan, lambda: 0.5, lambda: True)
    assert list(found) == [rate] and found[rate] == math.inf


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10", Budget(epochs=10)),
        ("0.5", Budget(epochs=0.5)),
        ("90s", Budget(seconds=90)),
        ("2M", Budget(seconds=120)),
    ],
)
def test_budgets_are_epochs_or_times(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "s", "ten", "-1", "0", "0s", "nan", "inf", "1e9", "1e9h", "5 q"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a recovery takes"):
        parse_budget(text)


def test_a_call_that_lasts_longer_names_the_shortest_time() -> None:
    kept = Budget(call=10.0, started=time.monotonic() - 8.0)
    assert kept.shortest(3.0) is None
    late = Budget(call=5.0, started=time.monotonic() - 8.0)
    assert late.left == 0.0 and late.shortest(2.0) == 7 + 1
    assert Budget(seconds=5.0, started=time.monotonic() - 8.0).shortest(0.0) is None
