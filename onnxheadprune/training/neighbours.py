"""Other tokens in the place of some: rows of the table near those that ids pick, as more text of the same kind.

A training that sees its text again and again learns it by heart. With neighbours the loss on that text and on other
text fall together, and what limits it are its steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxheadprune.data.splicing import Ints
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.tables import tables_behind

NEAREST = 100
"""Rows that a token may become."""
ROWS_EACH = 256
"""Rows of a table for each of them: of few rows even the nearest is another thing. A table of characters has none."""
SEQUENCES, TOKENS = 0.5, 0.3
"""Part of the sequences in which tokens are exchanged, and part of their tokens."""
MOST_NUMBERS = 2**24
"""Numbers of a table that are looked through; of a larger one every other row, or fewer."""
AT_ONCE = 64


class Neighbours:
    """The nearest rows of the tables that inputs index, looked up when they are wanted."""

    def __init__(self, tables: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take the table of each input.

        Args:
            tables: [rows, features] by the name of the input.
        """
        self._tables = {name: _Table(table) for name, table in tables.items()}

    def exchanged(self, rows: Sequence[Sample], random: np.random.Generator) -> list[Sample]:
        """Sequences in which some tokens are others, but never the first or the last one, which may be special."""
        found = [dict(row.feed) for row in rows]
        for name, table in self._tables.items():
            chosen = [_chosen(feed[name].shape[1], random) for feed in found]
            old = np.concatenate([feed[name][0, at] for feed, at in zip(found, chosen, strict=True)])
            new = np.split(table.near(old, random), np.cumsum([len(at) for at in chosen])[:-1])
            for feed, at, tokens in zip(found, chosen, new, strict=True):
                feed[name] = feed[name].copy()
                feed[name][0, at] = tokens
        return [replace(row, feed=feed) for row, feed in zip(rows, found, strict=True)]


def neighbours_of(view: GraphView, inputs: Sequence[Input]) -> Neighbours | None:
    """The tables that token ids index, None where there is none with rows enough."""
    found = {}
    for item in inputs:
        if item.role is not Role.IDS or (item.rows or 0) < ROWS_EACH:
            continue
        for table in tables_behind(view.main.values[item.name]):
            shape = table.shape or ()
            if (
                table.tensor is not None
                and table.elem_type in FLOATS
                and len(shape) == 2
                and shape[0] == item.rows
            ):
                found[item.name] = np.asarray(table.numbers(), np.float32)
                break
    return Neighbours(found) if found else None


class _Table:
    """One table, its rows as directions."""

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        lengths = np.linalg.norm(table, axis=1, keepdims=True)
        self._rows = table / np.maximum(lengths, 1e-12)
        self._every = max(1, -(-table.size // MOST_NUMBERS))
        self._count = min(NEAREST, len(table) // ROWS_EACH)
        self._known: dict[int, Ints] = {}

    def near(self, tokens: Ints, random: np.random.Generator) -> Ints:
        """For each token one of the rows nearest to its own."""
        self._look_up([token for token in np.unique(tokens).tolist() if token not in self._known])
        picks = random.integers(self._count, size=len(tokens))
        return np.array(
            [self._known[token][pick] for token, pick in zip(tokens.tolist(), picks, strict=True)], np.int64
        )

    def _look_up(self, tokens: Sequence[int]) -> None:
        candidates = self._rows[:: self._every]
        for start in range(0, len(tokens), AT_ONCE):
            some = tokens[start : start + AT_ONCE]
            # One more: a row is nearest to itself.
            alike = self._rows[some] @ candidates.T
            nearest = np.argpartition(-alike, self._count, axis=1)[:, : self._count + 1] * self._every
            for token, near in zip(some, nearest, strict=True):
                self._known[token] = near[near != token][: self._count]


def _chosen(length: int, random: np.random.Generator) -> Ints:
    """The places in a sequence whose tokens are exchanged."""
    if random.random() >= SEQUENCES or length < 3:
        return np.zeros(0, np.int64)
    return 1 + np.flatnonzero(random.random(length - 2) < TOKENS)
