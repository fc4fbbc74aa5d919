"""Calibration data: checked samples, one row each, identified by a fingerprint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnxheadprune.data.rows import (
    BATCH,
    Lazily,
    fixed_to_one,
    in_batches,
    joined,
    most_rows,
    output_bytes,
    rows_in,
    takes_one,
)
from onnxheadprune.display.spelling import many
from onnxheadprune.errors import InferenceError, MissingKernelError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.one_line import one_line
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.data import Basis, DataSource, Sample, load_data, parts_of
from onnxheadprune.runtime.feeds.generate import Case, Feed, FeedMaker, rows_of
from onnxheadprune.runtime.feeds.inputs import Input, Role

HELD_OUT = 0.2
"""Part of the data that no refit sees: what ridge strengths and drift limits are judged on."""
RANDOM_FEEDS = 8
MOST_SAMPLES = 2**13
"""Samples that are held in memory: the widest refit wants fewer, and so does whatever is measured."""
MOST_BYTES = 2**28
"""Bytes of them, where each is large."""
CHUNK = 1024
"""Samples of a chunk of text."""
GIVEN = "the given data"
"""The name of unnamed data in messages."""
GOLDEN = (math.sqrt(5) - 1) / 2
LeftOut = Mapping[str, int]
"""Samples that are not for the model, counted by the reason: "that cannot be read"."""


class More:
    """Samples that are not in memory: places in a text or folder, read when needed, one chunk at a time.

    Attributes:
        samples: the number of samples, estimated where it is known only after reading.
        chunks: the number of chunks.
    """

    def __init__(
        self,
        places: Sequence[int],
        read: Callable[[Sequence[int]], tuple[Iterable[Sample], LeftOut]],
        samples: int,
        per_chunk: int,
    ) -> None:
        """Take the places, and what reads the samples of some and counts those that are none."""
        self._places, self._read, self._per_chunk = places, read, max(per_chunk, 1)
        self.samples, self.chunks = samples, math.ceil(len(places) / self._per_chunk)

    def chunk(self, number: int) -> tuple[tuple[Sample, ...], LeftOut]:
        """The samples of a chunk, and the number of samples left out; the same for the same number."""
        start = number * self._per_chunk
        samples, left_out = self._read(self._places[start : start + self._per_chunk])
        return tuple(samples), left_out

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Pickle as empty: another process works on the samples in memory, and opens no files."""
        return type(None), ()


@one_line("source samples unit role unseen fingerprint")
@dataclass(frozen=True, eq=False)
class Calibration(Iterable[Sample]):
    """Representative samples for a model. As a `DataSource` it is the batches of those in memory.

    Attributes:
        samples: a row each, with labels where there are some.
        inputs: the graph inputs they are for.
        fingerprint: of all numbers in them; the same data gives the same.
        source: where they came from.
        most: rows of a batch at most.
        pads: whether rows of different lengths may share a batch, since a mask hides padding.
        widest: bytes of the largest output of a sample, None where no model was asked yet.
        unit: the user's name of a sample: a line of text, an image.
        role: what it is to figures that are measured on it; None for data of the user's of which nothing is known.
        unseen: whether weights were trained, but not on this data.
        more: further samples for training; None where these are all.
        left_out: samples that do not fit the model.
        lines: makes the same data with each line of a text alone, None where they are so already.
    """

    samples: tuple[Sample, ...]
    inputs: tuple[Input, ...]
    fingerprint: str
    source: str = GIVEN
    most: int = BATCH
    pads: bool = False
    widest: int | None = None
    unit: str = "sample"
    role: Basis | None = None
    unseen: bool = False
    more: More | None = None
    left_out: LeftOut = field(default_factory=dict)
    lines: Callable[[], Calibration] | None = None

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def _groups(self) -> list[list[Sample]]:
        return in_batches(self.samples, self.inputs, self.most, pads=self.pads)

    @property
    def batches(self) -> Sequence[Sample]:
        """The batches that the samples run in, each made when it is asked for."""
        return Lazily(len(self._groups), lambda number: joined(self._groups[number], self.inputs))

    @property
    def feeds(self) -> Sequence[Feed]:
        """The inputs of the batches."""
        return Lazily(len(self._groups), lambda number: joined(self._groups[number], self.inputs).feed)

    @property
    def every(self) -> Iterator[Sample]:
        """All samples, including those that are not in memory."""
        yield from self.samples
        for number in range(0 if self.more is None else self.more.chunks):
            assert self.more is not None
            yield from self.more.chunk(number)[0]

    @property
    def count(self) -> int:
        """Samples: rows of the first axis."""
        return sum(rows_of(sample.feed, self.inputs) for sample in self.samples)

    @property
    def total(self) -> int:
        """The number of samples, including those that are not in memory."""
        return self.count + (0 if self.more is None else self.more.samples)

    @property
    def positions(self) -> int | None:
        """The number of tokens without padding, None for other inputs: images, audio."""
        counted = self.counted
        if counted is None:
            return None
        arrays = (sample.feed[counted.name] for sample in self.samples)
        return sum(int(np.count_nonzero(array)) if counted.tells_padding else array.size for array in arrays)

    @property
    def counted(self) -> Input | None:
        """The input whose places are positions: a mask of tokens, else token ids; None for other inputs."""
        flat = [item for item in self.inputs if len(item.dims) == 2]
        masks = [item for item in flat if item.tells_padding]
        ids = [item for item in flat if item.role is Role.IDS]
        return next(iter((*masks, *ids)), None)

    def split(self, share: float = HELD_OUT) -> tuple[Calibration, Calibration]:
        """A part to learn from and a held-out part, runs spread evenly over the data. A single sample is both.

        Samples next to each other are often alike (images of one writer): single ones held out would not be unseen.
        """
        count = len(self.samples)
        held = min(max(round(count * share), 1), count - 1)
        if not held:
            return self, self
        runs = np.array_split(range(held), max(round(held / self.most), 1))
        starts = (int((at + 0.5) * count / len(runs) - len(run) / 2) for at, run in enumerate(runs))
        chosen = {start + at for start, run in zip(starts, runs, strict=True) for at in range(len(run))}
        return self.part(at for at in range(count) if at not in chosen), self.part(sorted(chosen))

    def subset(self, most: int) -> Calibration:
        """At most so many samples, spread evenly over the data."""
        if self.count <= most:
            return self
        return self.part(sorted(_middles(max(1, most * len(self.samples) // self.count), len(self.samples))))

    def part(self, places: Iterable[int]) -> Calibration:
        """The samples at some places, of which it is not known what has seen them."""
        return replace(self, samples=tuple(self.samples[at] for at in places), role=None, unseen=False)


def _middles(parts: int, count: int) -> set[int]:
    """Evenly spaced indices: the middle of each equal part, since data sorted by length has outliers at its ends."""
    return {round((part + 0.5) * count / parts - 0.5) for part in range(parts)}


def data_of(samples: Iterable[Sample], inputs: Sequence[Input], source: str = GIVEN) -> Calibration:
    """Samples as data, identified by their numbers."""
    rows, digest = tuple(samples), hashlib.sha256()
    for row in rows:
        for key in sorted(row.feed):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(row.feed[key]).tobytes())
    return Calibration(rows, tuple(inputs), digest.hexdigest(), source)


def calibration_data(source: DataSource, view: GraphView, name: str = "") -> Calibration:
    """Read and check data for a model."""
    data = source if isinstance(source, Calibration) else _read(source, FeedMaker(view).inputs, name)
    if data.widest is not None:
        return data
    if _takes_one(view, data):
        data = replace(data, inputs=fixed_to_one(data.inputs), source=f"{data.source}, one at a time")
    shapes = {tuple(array.shape for array in row.feed.values()): row.feed for row in data.samples}
    widest = max(output_bytes(view, feed) for feed in shapes.values())
    return replace(data, widest=widest, most=min(data.most, most_rows(widest)), lines=None)


def require_variety(data: Calibration) -> None:
    """Check that samples differ, for scores that measure how heads react to different samples."""
    rows = (
        tuple(np.ascontiguousarray(row.feed[item.name]).tobytes() for item in data.inputs)
        for row in data.samples
    )
    first = next(rows)
    if len(data.samples) == 1 or any(row != first for row in rows):
        return
    if data.unit == "line":
        # Texts that are the same are refused as they are read.
        raise UsageError(
            f"the tokenizer makes the same tokens of all {many(data.count, data.unit)} of {data.source}, as where no"
            " word is known to it, so nothing can be measured on them; give the model's own tokenizer, or other text"
        )
    raise UsageError(
        f"all {many(data.count, data.unit)} of {data.source} are the same, so nothing can be measured on them;"
        " give samples that differ"
    )


def _read(source: DataSource, inputs: Sequence[Input], name: str) -> Calibration:
    """The samples that stay in memory, spread evenly over the data, and the others; all are checked.

    Batches are no larger than those that were given: what a model does may depend on which samples share one.
    """
    count, part = parts_of(source, inputs)

    def read(number: int) -> list[Sample]:
        found = load_data([part(number)], inputs)
        return [row for sample in found for row in rows_in(sample, inputs)]

    if not count:
        list(load_data(source, inputs))
    kept: dict[int, list[Sample]] = {}
    rest: list[int] = []
    rows = held = left = 0
    for number in spread(count):
        found = read(number)
        size = sum(rows_of(row.feed, inputs) for row in found)
        if rows >= MOST_SAMPLES or held >= MOST_BYTES:
            rest.append(number)
            left += size
            continue
        kept[number] = found
        rows += size
        held += sum(array.nbytes for row in found for array in row.feed.values())
    label = name or (str(source) if isinstance(source, str) else GIVEN)
    data = data_of((row for number in sorted(kept) for row in kept[number]), inputs, label)
    more = None
    if rest:
        per_chunk = round(CHUNK * len(rest) / max(left, 1))
        more = More(rest, lambda some: ((row for at in some for row in read(at)), {}), left, per_chunk)
    return replace(data, more=more, most=min(max(map(len, kept.values())), BATCH))


def _takes_one(view: GraphView, data: Calibration) -> bool:
    """Return whether the model only runs on single samples, tested on the smallest one."""
    smallest = min(data.samples, key=lambda row: sum(array.size for array in row.feed.values()))
    if len(data.samples) == 1 or len(in_batches([smallest] * 2, data.inputs, 2)) > 1:
        return False
    try:
        session = Session(LoadedModel(view.model, "the model", view.sources), Provider(CPU, "a trial"))
    except InferenceError:
        return False
    return takes_one(smallest, data.inputs, session.run)


def random_data(view: GraphView, provider: Provider, seed: int = 0, feeds: int = RANDOM_FEEDS) -> Calibration:
    """Random feeds, only on request, since heads behave differently on noise."""
    session = Session(LoadedModel(view.model, "the model", view.sources), provider, name="the model")
    made: list[Feed] = []
    maker = FeedMaker(view, seed)
    for number in range(feeds):
        maker.seed = seed + number
        found = maker.first_that_runs(Case(4, 24, 0), session.run)
        if isinstance(found, MissingKernelError):
            raise found
        if isinstance(found, InferenceError):
            raise UsageError(f"no random inputs fit the model: {found}; give real ones with `data`")
        made.append(found[0])
    return calibration_data(made, view, f"random (seed {seed})")


def spread(count: int) -> list[int]:
    """All numbers below a count, in an order whose every prefix is spread evenly over them.

    The order of the fractional parts of multiples of the golden ratio.

    >>> spread(8)
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    places = np.arange(count) * GOLDEN % 1
    return [int(place) for place in np.argsort(np.argsort(places))]
