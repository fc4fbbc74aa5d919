"""The data of a training: batches of similar length, in an order that the seed decides.

It goes in rounds: what is not in memory comes first, a chunk at a time, then the samples that are. When all have been
seen they come again: token ids as spliced sequences, other data in other company.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.more import CHUNK, NOTHING, LeftOut
from onnxheadprune.data.single import free_axes, part_of
from onnxheadprune.data.splicing import Sequences
from onnxheadprune.runtime.feeds.generate import Feed, rows_of
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import Sample
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
        self._parts = _parts(data)
        self._chunks = 0 if data.more is None else data.more.chunks
        self.rounds = self._chunks + len(self._parts)
        self.count = sum(_count(part, most) for part in self._parts)
        self.kind = PLAIN if Sequences.of(self._parts[0]) is None else "spliced sequences"
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
        if sequences is None:
            yield from _mixed(part, random, self.most)
            return
        rows = sequences.spliced(random) if self.is_again(number) else list(sequences.rows)
        if self.is_again(number) and self.neighbours is not None:
            rows = self.neighbours.exchanged(rows, random)
        feeds = sequences.feeds(rows, self.most)
        yield from (feeds[position] for position in random.permutation(len(feeds)))

    def _part(self, number: int) -> tuple[Calibration, LeftOut]:
        """The samples of a round. Those of the next one are read and decoded beside the steps."""
        if number >= self._chunks:
            return self._parts[number - self._chunks], NOTHING
        found = self._ahead.pop(number, None)
        self._ahead.clear()
        part = self._chunk(number) if found is None else found.result()
        if number + 1 < self._chunks:
            self._ahead[number + 1] = self._reader.submit(self._chunk, number + 1)
        return part

    def _chunk(self, number: int) -> tuple[Calibration, LeftOut]:
        assert self.data.more is not None
        feeds, left_out = self.data.more.chunk(number)
        samples = tuple(Sample(feed, None, self.data.source) for feed in feeds)
        return replace(self.data, samples=samples, joined=None), left_out


def _parts(data: Calibration) -> list[Calibration]:
    """Data in parts of some size, whole feeds each, spread evenly over it."""
    count = max(min(round(data.count / CHUNK), len(data.samples)), 1)
    return [replace(data, samples=data.samples[first::count], joined=None) for first in range(count)]


def _count(part: Calibration, most: int) -> int:
    """Feeds of a round."""
    sequences = Sequences.of(part)
    if sequences is not None:
        return sequences.count(most)
    fixed, groups = _groups(part)
    return len(fixed) + sum(-(-rows_of(group.feed, part.inputs) // most) for group in groups)


def _mixed(part: Calibration, random: np.random.Generator, most: int) -> Iterator[Feed]:
    """All samples once, in other company every time where the batch is free."""
    feeds, groups = _groups(part)
    for group in groups:
        order = random.permutation(rows_of(group.feed, part.inputs)).tolist()
        feeds += [
            part_of(group, part.inputs, order[start : start + most]).feed
            for start in range(0, len(order), most)
        ]
    yield from (feeds[position] for position in random.permutation(len(feeds)))


def _groups(part: Calibration) -> tuple[list[Feed], list[Sample]]:
    """Return batches of a fixed size, and the others concatenated as far as their shapes allow."""
    fixed: list[Feed] = []
    alike: dict[object, list[Sample]] = defaultdict(list)
    for sample in part.samples:
        if free_axes(sample, part.inputs):
            # Batches can be concatenated if all but their samples is equal: shapes, and inputs without a batch axis.
            left = part_of(sample, part.inputs, []).feed.values()
            alike[tuple((array.shape, array.tobytes()) for array in left)].append(sample)
        else:
            fixed.append(sample.feed)
    return fixed, [_joined(samples, part.inputs) for samples in alike.values()]


def _joined(samples: Sequence[Sample], inputs: Sequence[Input]) -> Sample:
    """Concatenate batches along the batch axis of each input."""
    axes = free_axes(samples[0], inputs)
    joined = {
        name: np.concatenate([sample.feed[name] for sample in samples], axis) for name, axis in axes.items()
    }
    return Sample({**samples[0].feed, **joined}, None, samples[0].source)
