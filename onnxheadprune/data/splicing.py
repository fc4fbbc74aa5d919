"""Spliced sequences: the start of one with the end of another, as more text of the same kind.

The original's outputs are the targets, so the text need not make sense to a person. Words in random order and
random ids do not work: they are of another kind, and made models worse.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from onnxheadprune.data.calibration import HELD_OUT, Calibration
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.samples import Sample

Ints = npt.NDArray[np.int64]
Row = Mapping[str, Ints]
"""One sequence: a number per token for each input that runs along the tokens."""
ENOUGH = 32
"""Positions per unknown of a least-squares fit, beyond which more of them change little."""
LEAST = 8
"""Positions per unknown that are used in any case, if they are there."""
MOST_COPIES = 3
"""Spliced sequences for each that there is, at most: they hold no text that is not in the data."""
MOST_WORK = 2e12
"""Multiply-adds of all layers on all positions, up to which sequences are added: a minute or two on one core."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token sequences without their padding."""

    rows: tuple[Row, ...]  # the sequences
    mask: Input | None  # the attention mask input, None where all sequences of a feed have one length
    positions: tuple[Input, ...]  # the position id inputs
    padding: Mapping[str, int]  # the padding value of each input along the tokens
    inputs: tuple[Input, ...]
    length: int | None  # tokens of every feed, None where that is free
    # contents of empty inputs, such as caches before the first token, for one sequence
    empty: Mapping[str, Array]

    @classmethod
    def of(cls, data: Calibration) -> Sequences | None:
        """The token sequences of data, None where it is something else.

        All inputs must be integers [samples, tokens] of one shape, or empty, with a free number of samples; a mask
        among them holds 0 and 1. All masked positions must hold the same id; different ids mean an inverted mask.
        """
        masks = [item for item in data.inputs if item.role is Role.MASK]
        positions = tuple(item for item in data.inputs if item.role is Role.POSITIONS)
        along = [item for item in data.inputs if item.role is Role.IDS]
        rest = [item for item in data.inputs if item not in (*masks, *positions, *along)]
        tokens = (*masks, *positions, *along)
        if (
            len(masks) > 1
            or not along
            or any(item.dtype.kind == "f" or len(item.dims) != 2 for item in tokens)
        ):
            return None
        if any(item.batch_axis != 0 or isinstance(item.dims[0], int) for item in data.inputs):
            return None
        lengths = {item.dims[1] for item in tokens if isinstance(item.dims[1], int)}
        empty = {item.name: feed[item.name][:1] for feed in data.feeds[:1] for item in rest}
        if len(lengths) > 1 or any(array.size for array in empty.values()):
            return None
        mask, rows = (masks[0] if masks else None), list[Row]()
        hidden: dict[str, set[int]] = {item.name: set() for item in along}
        for feed in data.feeds:
            there = np.ones(feed[along[0].name].shape, bool) if mask is None else feed[mask.name] != 0
            if not _are_tokens(feed, there, tokens, positions) or any(feed[name].size for name in empty):
                return None
            for item in along:
                hidden[item.name].update(feed[item.name][~there].tolist())
            for position, known in enumerate(there):
                if known.any():
                    rows.append(
                        {item.name: feed[item.name][position][known].astype(np.int64) for item in along}
                    )
        if len(rows) < 2 or any(len(ids) > 1 for ids in hidden.values()):
            return None
        padding = {name: min(ids, default=0) for name, ids in hidden.items()}
        return cls(tuple(rows), mask, positions, padding, data.inputs, next(iter(lengths), None), empty)

    def spliced(self, random: np.random.Generator) -> list[Row]:
        """New sequences, each of the start of one and the end of another, cut at the same share of both.

        Without a mask the two have one length, and so has the result.
        """
        others = np.empty(len(self.rows), np.int64)
        for group in self._alike():
            others[group] = random.permutation(group)
        shares = random.random(len(self.rows))
        return [
            _joined(row, self.rows[other], share)
            for row, other, share in zip(self.rows, others, shares, strict=True)
        ]

    def feeds(self, rows: Sequence[Row], size: int) -> list[Feed]:
        """Sequences of similar length side by side, so that little of a feed is padding; without a mask none is."""
        ordered = sorted(rows, key=_length)
        groups = [ordered] if self.mask else [list(group) for _, group in groupby(ordered, _length)]
        return [
            self._feed(group[start : start + size])
            for group in groups
            for start in range(0, len(group), size)
        ]

    def count(self, size: int) -> int:
        """Return the number of feeds for a number of spliced sequences."""
        return sum(-(-len(group) // size) for group in self._alike())

    def _alike(self) -> list[Ints]:
        """Return which sequences can be spliced with each other."""
        found: dict[int, list[int]] = defaultdict(list)
        for at, row in enumerate(self.rows):
            found[0 if self.mask else _length(row)].append(at)
        return [np.array(group) for group in found.values()]

    def _feed(self, rows: Sequence[Row]) -> Feed:
        """Sequences side by side, padded on the right."""
        length = self.length or max(map(_length, rows))
        made: Feed = {}
        for name, filler in self.padding.items():
            made[name] = np.full((len(rows), length), filler)
            for position, row in enumerate(rows):
                made[name][position, : _length(row)] = row[name]
        known = np.arange(length) < np.array([_length(row) for row in rows])[:, None]
        if self.mask:
            made[self.mask.name] = known.astype(np.int64)
        for item in self.positions:
            made[item.name] = _counted(known)
        for name, one in self.empty.items():
            made[name] = np.repeat(one, len(rows), axis=0)
        return {item.name: made[item.name].astype(item.dtype) for item in self.inputs}


def as_much_as_pays(data: Calibration, unknowns: int, weights: int, work: float = MOST_WORK) -> Calibration:
    """As much of the data as a least-squares fit benefits from.

    Args:
        work: multiply-adds of all layers on all positions, up to which more than a few positions per unknown are taken.
    """
    positions = data.positions
    if positions is None:
        return data
    most = max(min(ENOUGH * unknowns, work / max(weights, 1)), LEAST * unknowns) / (1 - HELD_OUT)
    return data if positions <= most else data.subset(math.ceil(data.count * most / positions))


def with_spliced(data: Calibration, unknowns: int, weights: int, work: float = MOST_WORK) -> Calibration:
    """The data and spliced sequences of it.

    Unchanged where it holds no sequences, or enough of them, or far too few, or where more would be too much work.

    Args:
        work: multiply-adds of all layers on all positions, up to which sequences are added.
    """
    found = Sequences.of(data)
    if found is None:
        return data
    positions = sum(map(_length, found.rows))
    enough, bearable = round(ENOUGH * unknowns / positions), int(work / (positions * max(weights, 1)))
    copies = min(enough - 1, bearable - 1, MOST_COPIES)
    if copies < 1 or positions < unknowns:
        return data
    random = np.random.default_rng(0)
    size = max(1, round(data.count / len(data.samples)))
    rows = [row for _ in range(copies) for row in found.spliced(random)]
    made = tuple(Sample(feed, None, "spliced sequences") for feed in found.feeds(rows, size))
    return replace(data, samples=(*data.samples, *made), joined=None)


def _are_tokens(
    feed: Feed, there: npt.NDArray[np.bool_], tokens: Sequence[Input], positions: Sequence[Input]
) -> bool:
    """Return whether the inputs along the tokens have equal lengths, and positions count as tokenizers do."""
    if any(feed[item.name].shape != there.shape for item in tokens):
        return False
    return not any((feed[item.name] != _counted(there))[there].any() for item in positions)


def _length(row: Row) -> int:
    return len(next(iter(row.values())))


def _counted(mask: npt.NDArray[np.bool_]) -> Ints:
    """Positions of the tokens, counted as usual."""
    counted: Ints = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return counted


def _joined(head: Row, tail: Row, share: float) -> Row:
    """The start of one and the end of another. First and last token, which may be special ones, are kept."""
    long, short = _length(head), _length(tail)
    if min(long, short) < 3:
        return head
    cut = min(max(round(share * long), 1), long - 1)
    start = min(max(round(share * short), 1), short - 1)
    return {name: np.concatenate([row[:cut], tail[name][start:]]) for name, row in head.items()}
