"""What an epoch runs on: batches of similar length, in an order that the seed decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.splicing import Sequences, sequences_of

BATCH = 16


class Batches(ABC):
    """A source of epochs.

    Attributes:
        kind: what its samples are, for people.
    """

    kind: str

    @abstractmethod
    def epoch(self, random: np.random.Generator) -> list[Feed]:
        """The feeds of one epoch."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Feeds of an epoch."""


class SplicedBatches(Batches):
    """New sequences every epoch."""

    kind = "spliced sequences"

    def __init__(self, sequences: Sequences) -> None:
        """Takes the sequences to splice."""
        self.sequences = sequences

    @property
    def count(self) -> int:
        """Feeds of an epoch."""
        return self.sequences.count(BATCH)

    def epoch(self, random: np.random.Generator) -> list[Feed]:
        """Sequences of similar length share a feed."""
        feeds = self.sequences.feeds(self.sequences.spliced(random), BATCH)
        return [feeds[position] for position in random.permutation(len(feeds))]


class PlainBatches(Batches):
    """The samples as they are, in other company every epoch where the batch is free."""

    kind = "samples as they are"

    def __init__(self, data: Calibration) -> None:
        """Takes the data to train on."""
        self.inputs = data.inputs
        self.groups: list[Feed] = []
        self.fixed: list[Feed] = []
        alike: dict[object, list[Feed]] = defaultdict(list)
        for feed in data.feeds:
            if _is_free(feed, self.inputs):
                alike[tuple(feed[item.name].shape[1:] for item in self.inputs)].append(feed)
            else:
                self.fixed.append(feed)
        self.groups = [self._together(feeds) for feeds in alike.values()]

    def _together(self, feeds: Sequence[Feed]) -> Feed:
        return {item.name: np.concatenate([feed[item.name] for feed in feeds]) for item in self.inputs}

    @property
    def count(self) -> int:
        """Feeds of an epoch."""
        return len(self.fixed) + sum(-(-_rows(group) // BATCH) for group in self.groups)

    def epoch(self, random: np.random.Generator) -> list[Feed]:
        """All samples once."""
        feeds = list(self.fixed)
        for group in self.groups:
            order = random.permutation(_rows(group))
            feeds += [
                {name: array[order[start : start + BATCH]] for name, array in group.items()}
                for start in range(0, len(order), BATCH)
            ]
        return [feeds[position] for position in random.permutation(len(feeds))]


def batches_of(data: Calibration) -> Batches:
    """Spliced sequences where the data is token ids, else the data as it is."""
    found = sequences_of(data)
    return PlainBatches(data) if found is None else SplicedBatches(found)


def _is_free(feed: Feed, inputs: Sequence[Input]) -> bool:
    """Whether samples can be exchanged with those of other feeds."""
    arrays: list[Array] = [feed[item.name] for item in inputs]
    if any(not item.dims or isinstance(item.dims[0], int) for item in inputs):
        return False
    return len({array.shape[0] for array in arrays}) == 1


def _rows(feed: Feed) -> int:
    return len(next(iter(feed.values())))
