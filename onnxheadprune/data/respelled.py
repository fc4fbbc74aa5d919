"""The user's data under the token ids of a smaller vocabulary, and the share that is tokenized as before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxheadprune.attention.vocabulary.trim import Trimming
from onnxheadprune.data.more import GIVEN, Feeds
from onnxheadprune.data.single import part_of
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.generate import rows_of
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.samples import DataSource, Sample


@dataclass(frozen=True)
class Spelling(JsonObject):
    """The share of the user's data that the kept tokens tokenize as before."""

    tokens: int  # tokens of the data, padding aside
    unchanged: int  # the number of those that are kept
    samples: int  # samples of the data
    whole: int  # the number of samples with kept tokens only

    @written()
    def unchanged_share(self) -> float:
        """The share of the tokens that are kept."""
        return self.unchanged / self.tokens if self.tokens else 1.0


def tokens_in(
    sample: Sample, inputs: tuple[Input, ...], names: tuple[str, ...]
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Yield the tokens of a sample without padding, if there is a mask."""
    masks = [sample.feed[item.name] for item in inputs if item.role is Role.MASK]
    for name in names:
        ids = np.asarray(sample.feed[name], np.int64)
        mask = next((mask for mask in masks if mask.shape == ids.shape), None)
        some = ids.reshape(-1) if mask is None else ids[np.asarray(mask, np.bool_)]
        # Labels are -100 where nothing is to be predicted.
        yield some[some >= 0]


def respelled(
    samples: list[Sample], inputs: tuple[Input, ...], made: Trimming
) -> tuple[Spelling, list[Sample]]:
    """Return the share of data that is tokenized as before, and the samples that are so completely, under new ids."""
    names, rows = made.vocabulary.inputs, made.vocabulary.rows
    new = np.full(rows, -1, np.int64)
    new[made.kept] = np.arange(len(made.kept))
    total = unchanged = count = 0
    left: list[Sample] = []
    for sample in samples:
        for ids in tokens_in(sample, inputs, names):
            total += ids.size
            unchanged += int(np.count_nonzero(new[ids] >= 0))
        ids_of = {name: np.asarray(sample.feed[name]) for name in names}
        feed = {
            **sample.feed,
            **{
                name: np.where(ids < 0, ids, new[np.maximum(ids, 0)]).astype(ids.dtype)
                for name, ids in ids_of.items()
            },
        }
        size = rows_of(sample.feed, inputs)
        count += size
        gone = [(feed[name] < 0) & (ids >= 0) for name, ids in ids_of.items()]
        bad = {row for array in gone if array.ndim > 1 for row in np.argwhere(array)[:, 0].tolist()}
        if any(array.any() for array in gone if array.ndim < 2):
            # An id that is compared with those of all rows.
            bad |= set(range(size))
        good = [row for row in range(size) if row not in bad]
        moved = Sample(feed, sample.labels, sample.source)
        if len(good) == size:
            left.append(moved)
        elif good and len(good) < size:
            left.append(part_of(moved, inputs, good))
    kept = sum(rows_of(sample.feed, inputs) for sample in left)
    return Spelling(total, unchanged, count, kept), left


def lines_of(data: DataSource) -> DataSource:
    """Data with each line of a text alone: hardly any window of joined lines has kept tokens only."""
    return data if not isinstance(data, Feeds) or data.apart is None else data.apart()


def renumbered(data: DataSource, original: LoadedModel, made: Trimming) -> DataSource:
    """Data for the model with fewer tokens: the samples whose tokens are all kept, under new ids."""
    inputs, data = tuple(graph_inputs(view_of(original))), lines_of(data)
    _, left = respelled(list(load_data(data, inputs)), inputs, made)
    if not left:
        raise UsageError("no sample of the data has tokens that are kept only; keep more tokens")
    return as_data(left, data)


def as_data(samples: list[Sample], like: DataSource) -> DataSource:
    """Samples as a source of data."""
    if any(sample.labels is not None for sample in samples):
        return samples
    unit, source = (like.unit, like.source) if isinstance(like, Feeds) else ("sample", GIVEN)
    return Feeds((sample.feed for sample in samples), unit, source=source)
