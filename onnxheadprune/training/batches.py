"""The data of a training: batches of similar length, in an order that the seed decides.

It goes in rounds: what is not in memory comes first, a chunk at a time, then the samples that are. When all have been
seen they come again: token ids as spliced sequences, other data in other company.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from onnxheadprune.data.calibration import CHUNK, Calibration, LeftOut
from onnxheadprune.data.rows import in_batches, joined
from onnxheadprune.data.splicing import Sequences
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.generate import Feed, rows_of
from onnxheadprune.training.neighbours import Neighbours

BATCH = 16
"""Samples of a step, where their outputs fit."""
PLAIN = "samples as they are"


class Batches:
    """The data of a training.

    Attributes:
        data: the samples in memory, with what there is beyond them.
        neighbours: other tokens for some of those that are seen again, None for none.
        most: samples of a step at most.
        count: steps of a pass over the samples in memory.
        rounds: after which all data has been seen once.
        kind: what samples are when they come again, for people.
        left_out: samples that were not for the model, so far.
    """

    def __init__(self, data: Calibration, neighbours: Neighbours | None = None, most: int = BATCH) -> None:
        """Divide the data into rounds."""
        self.data, self.neighbours, self.most = data, neighbours, most
        count = max(min(round(data.count / CHUNK), len(data.samples)), 1)
        self._parts = [data.part(range(first, len(data.samples), count)) for first in range(count)]
        self._chunks = 0 if data.more is None else data.more.chunks
        self.rounds = self._chunks + len(self._parts)
        sequences = [Sequences.of(part) for part in self._parts]
        seen = [
            part if found is None else found.data for part, found in zip(self._parts, sequences, strict=True)
        ]
        self.count = sum(len(self._in_batches(part)) for part in seen)
        self.kind = PLAIN if sequences[0] is None else "spliced sequences"
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="onnxheadprune")
        self._ahead: dict[int, Future[tuple[Calibration, LeftOut]]] = {}
        self.left_out = Counter(data.left_out)

    def rows(self, feed: Feed) -> int:
        """Return the number of samples in a batch."""
        return rows_of(feed, self.data.inputs)

    def is_again(self, number: int) -> bool:
        """Return whether the samples of a round have been seen before."""
        return number >= self.rounds

    def round(self, number: int, random: np.random.Generator) -> Iterator[Feed]:
        """The feeds of a round."""
        part, left_out = self._part(number % self.rounds)
        self.left_out.update({} if self.is_again(number) else left_out)
        sequences = Sequences.of(part)
        part = part if sequences is None else sequences.data
        if sequences is not None and self.is_again(number):
            rows = sequences.spliced(random)
            rows = rows if self.neighbours is None else self.neighbours.exchanged(rows, random)
            part = replace(part, samples=tuple(rows))
        batches = self._in_batches(part.part(random.permutation(len(part.samples)).tolist()))
        yield from (joined(batches[at], part.inputs).feed for at in random.permutation(len(batches)))

    def _in_batches(self, part: Calibration) -> list[list[Sample]]:
        """Samples in the batches of steps: of similar length, so that little of a batch is padding."""
        rows = sorted(part.samples, key=lambda row: sum(array.size for array in row.feed.values()))
        return in_batches(rows, part.inputs, self.most, pads=part.pads)

    def _part(self, number: int) -> tuple[Calibration, LeftOut]:
        """The samples of a round. Those of the next one are read and decoded beside the steps."""
        if number >= self._chunks:
            return self._parts[number - self._chunks], {}
        found = self._ahead.pop(number, None)
        self._ahead.clear()
        part = self._chunk(number) if found is None else found.result()
        if number + 1 < self._chunks:
            self._ahead[number + 1] = self._reader.submit(self._chunk, number + 1)
        return part

    def _chunk(self, number: int) -> tuple[Calibration, LeftOut]:
        assert self.data.more is not None
        samples, left_out = self.data.more.chunk(number)
        return replace(self.data, samples=samples), left_out
