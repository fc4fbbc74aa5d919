"""Text that is seen again: tokens become neighbours in their table, and weights are drawn back to their start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.training.neighbours import MOST_NUMBERS, ROWS_EACH, Neighbours, neighbours_of
from onnxheadprune.training.optimizer import EVERY, Pull
from tests.graphs import toys
from tests.training.trainings import EPOCHS, Stop, trained

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


@pytest.mark.slow
def test_a_large_table_is_looked_through_in_part() -> None:
    given = rows(50, 20)
    wide = np.repeat(circle(), MOST_NUMBERS // (2 * ROWS) + 1, axis=1)
    assert wide.size > MOST_NUMBERS
    found = Neighbours({"ids": wide}).exchanged(given, np.random.default_rng(2))
    new = np.array([row["ids"] for row in found])
    old = np.array([row["ids"] for row in given])
    assert (new != old).any() and not (new[new != old] % 2).any()


def test_a_table_of_few_rows_has_no_neighbours() -> None:
    view = view_of(toys.encoder())
    assert neighbours_of(view, graph_inputs(view)) is None


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


def with_rows(count: int) -> ModelProto:
    """The encoder with a table of so many rows, of which its sentences use the first few."""
    model = toys.encoder()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "embed")
    own = numpy_helper.to_array(table)
    more = np.random.default_rng(9).standard_normal((count - len(own), own.shape[1])).astype(np.float32)
    table.CopyFrom(numpy_helper.from_array(np.concatenate([own, more]), table.name))
    return model


def layers_of(path: Path) -> dict[str, bytes]:
    """The weights of a trained model without its table."""
    return {item.name: item.raw_data for item in onnx.load(path).graph.initializer if item.name != "embed"}


@pytest.mark.slow
def test_a_training_with_neighbours_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    plain, few, whole, parts = (tmp_path / f"{name}.onnx" for name in ("plain", "few", "whole", "parts"))
    trained(plain)
    trained(few, with_rows(ROWS_EACH - 1))
    trained(whole, with_rows(4 * ROWS_EACH))
    with pytest.raises(MemoryError):
        trained(parts, with_rows(4 * ROWS_EACH), progress=Stop(MemoryError, 8))
    assert trained(parts, with_rows(4 * ROWS_EACH), resume=True).steps == 3 * EPOCHS
    assert parts.read_bytes() == whole.read_bytes()
    # Rows that no sentence has change nothing until they are neighbours.
    assert layers_of(few) == layers_of(plain) != layers_of(whole)
