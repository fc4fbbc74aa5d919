"""Spliced sequences: the start of one with the end of another, as more text of the same kind.

The original's outputs are the targets, so the text need not make sense to a person. Words in random order and
random ids do not work: they are of another kind, and made models worse.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxheadprune.data.calibration import HELD_OUT, Calibration
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input, Role

Ints = npt.NDArray[np.int64]
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
    """Token sequences: data without its padding."""

    data: Calibration  # a sequence a sample, of any length, whose mask holds ones alone
    along: Mapping[str, Input]  # the inputs with a number per token
    masked: bool  # whether there is a mask; otherwise all sequences of a batch have one length

    @classmethod
    def of(cls, data: Calibration) -> Sequences | None:
        """The token sequences of data, None where it is something else.

        All inputs must be integers [samples, tokens] of one shape, or empty, with a free number of samples; a mask
        among them holds 0 and 1. All masked positions must hold the same id; different ids mean an inverted mask.
        """
        by_role = {role: [item for item in data.inputs if item.role is role] for role in Role}
        masks, ids = by_role[Role.MASK], by_role[Role.IDS]
        along = {item.name: item for item in (*ids, *masks, *by_role[Role.POSITIONS])}
        if len(masks) > 1 or not ids:
            return None
        if any(item.dtype.kind == "f" or len(item.dims) != 2 for item in along.values()):
            return None
        if any(item.batch_axis != 0 or isinstance(item.dims[0], int) for item in data.inputs):
            return None
        rows = list[Sample]()
        hidden: dict[str, set[int]] = {item.name: set() for item in ids}
        for row in data.samples:
            shape = row.feed[ids[0].name].shape
            known = np.ones(shape, bool) if not masks else row.feed[masks[0].name] != 0
            rest = [array for name, array in row.feed.items() if name not in along]
            if any(row.feed[name].shape != known.shape for name in along) or any(one.size for one in rest):
                return None
            if any((row.feed[item.name] != _counted(known))[known].any() for item in by_role[Role.POSITIONS]):
                return None
            for item in ids:
                hidden[item.name].update(row.feed[item.name][~known].tolist())
            if known.any():
                part = {name: row.feed[name][known][None] for name in along}
                rows.append(row if known.all() else replace(row, feed=row.feed | part))
        if len(rows) < 2 or any(len(numbers) > 1 for numbers in hidden.values()):
            return None
        return cls(replace(data, samples=tuple(rows), pads=bool(masks)), along, bool(masks))

    def spliced(self, random: np.random.Generator) -> list[Sample]:
        """New sequences, each of the start of one and the end of another, cut at the same share of both.

        Without a mask the two have one length, and so has the result.
        """
        rows, alike = self.data.samples, defaultdict[int, list[int]](list)
        for at, row in enumerate(rows):
            alike[0 if self.masked else self.length(row)].append(at)
        others = np.empty(len(rows), np.int64)
        for group in alike.values():
            others[group] = random.permutation(group)
        shares = random.random(len(rows))
        return [
            self._joined(row, rows[other], share)
            for row, other, share in zip(rows, others, shares, strict=True)
        ]

    def length(self, row: Sample) -> int:
        """The number of tokens of a sequence."""
        return int(row.feed[next(iter(self.along))].shape[1])

    def _joined(self, head: Sample, tail: Sample, share: float) -> Sample:
        """The start of one and the end of another. First and last token, which may be special ones, are kept."""
        long, short = self.length(head), self.length(tail)
        if min(long, short) < 3:
            return head
        cut = min(max(round(share * long), 1), long - 1)
        start = min(max(round(share * short), 1), short - 1)
        feed = dict(head.feed)
        for name, item in self.along.items():
            joined = np.concatenate([head.feed[name][:, :cut], tail.feed[name][:, start:]], axis=1)
            is_counted = item.role is Role.POSITIONS
            feed[name] = np.arange(joined.size, dtype=item.dtype)[None] if is_counted else joined
        return Sample(feed, None, "spliced sequences")


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
    positions = sum(map(found.length, found.data.samples))
    enough, bearable = round(ENOUGH * unknowns / positions), int(work / (positions * max(weights, 1)))
    copies = min(enough - 1, bearable - 1, MOST_COPIES)
    if copies < 1 or positions < unknowns:
        return data
    random = np.random.default_rng(0)
    made = [row for _ in range(copies) for row in found.spliced(random)]
    return replace(data, samples=(*data.samples, *sorted(made, key=found.length)), pads=found.masked)


def _counted(mask: npt.NDArray[np.bool_]) -> Ints:
    """Positions of the tokens, counted as usual."""
    counted: Ints = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return counted
