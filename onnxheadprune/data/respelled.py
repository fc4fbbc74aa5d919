"""The user's data under the token ids of a smaller vocabulary, and the share that is tokenized as before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnxheadprune.attention.vocabulary.trim import Trimming
from onnxheadprune.data.calibration import Calibration, data_of
from onnxheadprune.data.rows import rows_in
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import DataSource, Sample, load_data
from onnxheadprune.runtime.feeds.generate import rows_of
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs


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
    samples: Iterable[Sample], inputs: tuple[Input, ...], made: Trimming
) -> tuple[Spelling, list[Sample]]:
    """Return the share of data that is tokenized as before, and the samples that are so completely, under new ids."""
    names, rows = made.vocabulary.inputs, made.vocabulary.rows
    new = np.full(rows, -1, np.int64)
    new[made.kept] = np.arange(len(made.kept))
    total = unchanged = count = whole = 0
    left: list[Sample] = []
    for row in (row for sample in samples for row in rows_in(sample, inputs)):
        for ids in tokens_in(row, inputs, names):
            total += ids.size
            unchanged += int(np.count_nonzero(new[ids] >= 0))
        feed, is_whole = dict(row.feed), True
        for name in names:
            ids = np.asarray(row.feed[name])
            moved = np.where(ids < 0, ids, new[np.maximum(ids, 0)])
            is_whole = is_whole and not ((moved < 0) & (ids >= 0)).any()
            feed[name] = moved.astype(ids.dtype)
        size = rows_of(row.feed, inputs)
        count += size
        if is_whole:
            whole += size
            left.append(replace(row, feed=feed))
    return Spelling(total, unchanged, count, whole), left


def lines_of(data: DataSource) -> DataSource:
    """Data with each line of a text alone: hardly any window of joined lines has kept tokens only."""
    return data if not isinstance(data, Calibration) or data.lines is None else data.lines()


def renumbered(data: DataSource, original: LoadedModel, made: Trimming) -> DataSource:
    """Data for the model with fewer tokens: the samples whose tokens are all kept, under new ids."""
    inputs, data = tuple(graph_inputs(view_of(original))), lines_of(data)
    _, left = respelled(samples_of(data, inputs), inputs, made)
    if not left:
        raise UsageError("no sample of the data has tokens that are kept only; keep more tokens")
    return as_data(left, inputs, data)


def samples_of(data: DataSource, inputs: tuple[Input, ...]) -> Iterable[Sample]:
    """The samples of data that are in memory, or are read."""
    return data.samples if isinstance(data, Calibration) else load_data(data, inputs)


def as_data(samples: Iterable[Sample], inputs: tuple[Input, ...], like: DataSource) -> Calibration:
    """Samples as data of the kind that they were made of."""
    data = data_of(samples, inputs)
    if not isinstance(like, Calibration):
        return data
    return replace(data, unit=like.unit, source=like.source, pads=like.pads, most=like.most)
