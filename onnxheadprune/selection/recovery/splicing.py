"""Spliced sequences: the head of one with the tail of another, so that every epoch sees new text of the same kind.

What they should give is told by the original, so nothing needs to make sense to a person. Words in random order and
random ids are no such data: they are of another kind, and made models worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.runtime.feeds import Feed, Input, Role
from onnxheadprune.selection.activations.data import Calibration

Ints = npt.NDArray[np.int64]
Row = Mapping[str, Ints]
"""One sequence: a number per token for each input that runs along the tokens."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token sequences without their padding.

    Attributes:
        rows: the sequences.
        mask: the input that tells tokens from padding.
        positions: inputs that count the tokens.
        padding: per input along the tokens what stands where there are none.
        inputs: all of them.
    """

    rows: tuple[Row, ...]
    mask: Input
    positions: tuple[Input, ...]
    padding: Mapping[str, int]
    inputs: tuple[Input, ...]

    def spliced(self, random: np.random.Generator) -> list[Row]:
        """As many new sequences, each of the head of one and the tail of another, cut at the same share of both."""
        others = random.permutation(len(self.rows))
        shares = random.random(len(self.rows))
        return [
            _joined(row, self.rows[other], share)
            for row, other, share in zip(self.rows, others, shares, strict=True)
        ]

    def feed(self, rows: Sequence[Row]) -> Feed:
        """Sequences side by side, padded on the right."""
        length = max(map(_length, rows))
        made: Feed = {}
        for name, filler in self.padding.items():
            made[name] = np.full((len(rows), length), filler)
            for position, row in enumerate(rows):
                made[name][position, : _length(row)] = row[name]
        mask = np.arange(length) < np.array([_length(row) for row in rows])[:, None]
        made[self.mask.name] = mask.astype(np.int64)
        for item in self.positions:
            made[item.name] = _counted(mask)
        return {item.name: made[item.name].astype(item.dtype) for item in self.inputs}


def sequences_of(data: Calibration) -> Sequences | None:
    """The token sequences of data, None where it is something else.

    All inputs must be integers [samples, tokens] of one shape, with a mask of 0 and 1 among them.
    """
    masks = [item for item in data.inputs if item.role is Role.MASK]
    positions = tuple(item for item in data.inputs if item.role is Role.POSITIONS)
    along = [item for item in data.inputs if item.role is Role.IDS]
    if len(masks) != 1 or not along or len(masks) + len(positions) + len(along) != len(data.inputs):
        return None
    if any(len(item.dims) != 2 or any(isinstance(dim, int) for dim in item.dims) for item in data.inputs):
        return None
    mask, rows = masks[0], list[Row]()
    padding = {item.name: 0 for item in along}
    for feed in data.feeds:
        there = feed[mask.name] != 0
        if any(feed[item.name].shape != there.shape for item in data.inputs):
            return None
        if mask.dtype.kind == "f" or any(
            (feed[item.name] != _counted(there))[there].any() for item in positions
        ):
            return None
        for item in along:
            if not there.all():
                padding[item.name] = int(feed[item.name][~there][0])
        for position, known in enumerate(there):
            if known.any():
                rows.append({item.name: feed[item.name][position][known].astype(np.int64) for item in along})
    return Sequences(tuple(rows), mask, positions, padding, data.inputs) if len(rows) > 1 else None


def _length(row: Row) -> int:
    return len(next(iter(row.values())))


def _counted(mask: npt.NDArray[np.bool_]) -> Ints:
    """Positions of the tokens, as a tokenizer's users count them."""
    counted: Ints = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return counted


def _joined(head: Row, tail: Row, share: float) -> Row:
    """The head of one and the tail of another. First and last token, which may be special ones, stay."""
    long, short = _length(head), _length(tail)
    if min(long, short) < 3:
        return head
    cut = min(max(round(share * long), 1), long - 1)
    start = min(max(round(share * short), 1), short - 1)
    return {name: np.concatenate([row[:cut], tail[name][start:]]) for name, row in head.items()}
