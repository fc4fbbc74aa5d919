"""How often tokens occur in the user's data, and how much of it the tokens that are kept spell as before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxheadprune.attention.vocabulary.find import Vocabulary
from onnxheadprune.attention.vocabulary.trim import Trimming
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.selection.activations.single import part_of, rows_of
from onnxheadprune.workflow.vocabulary.keep import Counts


@dataclass(frozen=True)
class Spelling:
    """How much of the user's data the tokens that are kept spell as before.

    Attributes:
        tokens: tokens of the data, padding aside.
        unchanged: how many of them are kept.
        samples: samples of the data.
        whole: how many of them have tokens that are kept only.
    """

    tokens: int
    unchanged: int
    samples: int
    whole: int

    def to_dict(self) -> Mapping[str, float]:
        """JSON-ready data."""
        share = self.unchanged / self.tokens if self.tokens else 1.0
        return {**vars(self), "unchanged_share": share}


def counted(samples: Iterable[Sample], inputs: tuple[Input, ...], vocabulary: Vocabulary) -> Counts:
    """Return how often each token occurs in data.

    Args:
        samples: the data.
        inputs: the graph inputs.
        vocabulary: of the model.

    Raises:
        UsageError: if the data has ids that the model does not have.
    """
    counts = np.zeros(vocabulary.rows, np.int64)
    for sample in samples:
        for ids in _ids(sample, inputs, vocabulary.inputs):
            if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary.rows:
                raise UsageError(f"the data has a token id outside of the model's 0 to {vocabulary.rows - 1}")
            counts += np.bincount(ids, minlength=vocabulary.rows)
    return counts


def _ids(
    sample: Sample, inputs: tuple[Input, ...], names: tuple[str, ...]
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Yield the tokens of a sample without padding, as far as a mask tells."""
    masks = [sample.feed[item.name] for item in inputs if item.role is Role.MASK]
    for name in names:
        ids = np.asarray(sample.feed[name], np.int64)
        mask = next((mask for mask in masks if mask.shape == ids.shape), None)
        yield ids.reshape(-1) if mask is None else ids[np.asarray(mask, np.bool_)]


def respelled(
    samples: list[Sample], inputs: tuple[Input, ...], made: Trimming
) -> tuple[Spelling, list[Sample]]:
    """Return how much of the data is spelled as before, and the samples of which all is, under new ids.

    Args:
        samples: the data, of the original's ids.
        inputs: the graph inputs.
        made: the model with the tokens that are kept.
    """
    names, rows = made.vocabulary.inputs, made.vocabulary.rows
    new = np.full(rows, -1, np.int64)
    new[made.kept] = np.arange(len(made.kept))
    total = unchanged = count = 0
    left: list[Sample] = []
    for sample in samples:
        for ids in _ids(sample, inputs, names):
            total += ids.size
            unchanged += int(np.count_nonzero(new[ids] >= 0))
        feed = {
            **sample.feed,
            **{name: new[sample.feed[name]].astype(sample.feed[name].dtype) for name in names},
        }
        size = rows_of(sample.feed, inputs)
        count += size
        bad = {row for name in names for row in np.argwhere(feed[name] < 0)[:, 0].tolist()}
        good = [row for row in range(size) if row not in bad]
        moved = Sample(feed, sample.labels, sample.source)
        if len(good) == size:
            left.append(moved)
        elif good and len(good) < size:
            left.append(part_of(moved, inputs, good))
    kept = sum(rows_of(sample.feed, inputs) for sample in left)
    return Spelling(total, unchanged, count, kept), left
