"""Calibration data: checked feeds, identified by a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxheadprune.data.bounded import bounded
from onnxheadprune.data.more import (
    CHUNK,
    GIVEN,
    MOST_BYTES,
    MOST_SAMPLES,
    NOTHING,
    Chunk,
    Feeds,
    LeftOut,
    More,
    spread,
)
from onnxheadprune.data.single import fixed_to_one, free_axes, one_by_one, part_of, takes_one
from onnxheadprune.errors import InferenceError, MissingKernelError, UsageError, named_setting
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.model.display import one_line
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import many
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.data import load_data, parts_of
from onnxheadprune.runtime.feeds.generate import Case, Feed, FeedMaker, narrowed, rows_of
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.samples import DataSource, Sample

HELD_OUT = 0.2
"""Part of the data that no refit sees: what ridge strengths and drift limits are judged on."""
RANDOM_FEEDS = 8


@one_line("source samples unit role unseen fingerprint")
@dataclass(frozen=True, eq=False)
class Calibration(Iterable[Sample]):
    """Representative feeds for a model: data that are read, and a `DataSource` as those that are not.

    Attributes:
        samples: the feeds, with labels where there are some.
        inputs: the graph inputs they are for.
        fingerprint: of all numbers in them; the same data gives the same.
        source: where they came from.
        joined: the one feed that the samples were split from, None where they were not split.
        unit: the user's name of a sample: a line of text, an image.
        role: what it is to numbers that are measured on it, and what has seen it before; nothing for data of the user's
            own that nothing is known of.
        unseen: whether weights were trained, but not on this data.
        more: further samples for training; None where these are all.
        left_out: samples that do not fit the model.
    """

    samples: tuple[Sample, ...]
    inputs: tuple[Input, ...]
    fingerprint: str
    source: str
    joined: Sample | None = None
    unit: str = "sample"
    role: str = ""
    unseen: bool = False
    more: More | None = None
    left_out: LeftOut = field(default_factory=dict)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def whole(self) -> tuple[Sample, ...]:
        """The feeds as they were given."""
        return self.samples if self.joined is None else (self.joined,)

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """The inputs alone."""
        return tuple(sample.feed for sample in self.samples)

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
        arrays = (feed[counted.name] for feed in self.feeds)
        return sum(int(np.count_nonzero(array)) if counted.tells_padding else array.size for array in arrays)

    @property
    def counted(self) -> Input | None:
        """The input whose places are positions: a mask of tokens, else token ids; None for other inputs."""
        flat = [item for item in self.inputs if len(item.dims) == 2]
        masks = [item for item in flat if item.tells_padding]
        ids = [item for item in flat if item.role is Role.IDS]
        return next(iter((*masks, *ids)), None)

    def split(self, share: float = HELD_OUT) -> tuple[Calibration, Calibration]:
        """A part to learn from and a held-out part, whole feeds each, spread evenly over the data.

        A single feed that cannot be divided is both.
        """
        feeds = len(self.samples)
        held = min(max(round(feeds * share), 1), feeds - 1)
        if not held:
            return self, self
        chosen = _middles(held, feeds)
        kept = [sample for position, sample in enumerate(self.samples) if position not in chosen]
        apart = [sample for position, sample in enumerate(self.samples) if position in chosen]
        return self._part(kept), self._part(apart)

    def split_samples(self, held: int) -> tuple[Calibration, Calibration]:
        """A part to learn from and one with some held-out samples, spread evenly over the data.

        Whole feeds where they are few enough beside the data, or their batch is fixed; all data twice where that is a
        single feed.
        """
        if len(self.samples) * held >= self.count:
            return self.split(held / self.count)
        chosen = _middles(held, self.count)
        kept: list[Sample] = []
        apart: list[Sample] = []
        first = 0
        for sample in self.samples:
            rows = range(rows_of(sample.feed, self.inputs))
            if not free_axes(sample, self.inputs):
                return self.split(held / self.count)
            mine = [row for row in rows if first + row in chosen]
            for part, some in ((apart, mine), (kept, [row for row in rows if row not in mine])):
                part += [part_of(sample, self.inputs, some)] if some else []
            first += len(rows)
        return self._part(kept or apart), self._part(apart)

    def subset(self, most: int) -> Calibration:
        """At most so many samples, in whole feeds spread evenly over the data."""
        if self.count <= most:
            return self
        feeds = max(1, round(len(self.samples) * most / self.count))
        return self._part([self.samples[position] for position in sorted(_middles(feeds, len(self.samples)))])

    def apart(self) -> Calibration:
        """The same samples, one per feed where the batch is free."""
        return self._part([one for sample in self.samples for one in one_by_one(sample, self.inputs)])

    def one_by_one(self) -> Iterator[Feed]:
        """The inputs, one sample each where the batch is free, else as they were given."""
        return (one.feed for sample in self.samples for one in one_by_one(sample, self.inputs))

    def narrowed(self, io: Interface) -> Calibration:
        """The same feeds for a pruned model, whose caches may be narrower.

        Args:
            io: its remaining inputs and outputs.
        """
        if io.is_as_before:
            return self
        return self._part(
            [Sample(narrowed(item.feed, io), item.labels, item.source) for item in self.samples]
        )

    def _part(self, samples: Sequence[Sample]) -> Calibration:
        return replace(self, samples=tuple(samples), joined=None, role="", unseen=False)


def _middles(parts: int, count: int) -> set[int]:
    """Evenly spaced indices: the middle of each equal part, since data sorted by length has outliers at its ends."""
    return {round((part + 0.5) * count / parts - 0.5) for part in range(parts)}


def calibration_data(source: DataSource, view: GraphView, name: str = "") -> Calibration:
    """Read and check calibration data."""
    if isinstance(source, Calibration):
        return source
    inputs = FeedMaker(view).inputs
    label = name or (
        str(source) if isinstance(source, str) else source.source if isinstance(source, Feeds) else GIVEN
    )
    samples, more = _drawn(source, inputs)
    if _takes_one(view, samples, inputs):
        samples = tuple(one for sample in samples for one in one_by_one(sample, inputs))
        free = inputs
        if more is not None:
            more = more.divided(lambda feed: (one.feed for one in one_by_one(Sample(feed, None, ""), free)))
        inputs, label = fixed_to_one(inputs), f"{label}, one at a time"
    samples = tuple(part for sample in samples for part in bounded(sample, view, inputs))
    joined = samples[0] if len(samples) == 1 else None
    if joined is not None:
        samples = tuple(_halves(joined, inputs))
    digest = hashlib.sha256()
    for sample in samples:
        for key in sorted(sample.feed):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(sample.feed[key]).tobytes())
    if more is not None:
        digest.update(f"and {more.samples} more".encode())
    made = Calibration(samples, inputs, digest.hexdigest(), label, joined, more=more)
    return replace(made, unit=source.unit, left_out=source.left_out) if isinstance(source, Feeds) else made


def require_variety(data: Calibration) -> None:
    """Check that samples differ, for scores that measure how heads react to different samples."""
    first: tuple[bytes, ...] | None = None
    several = False
    for feed in data.one_by_one():
        sample = tuple(np.ascontiguousarray(feed[item.name]).tobytes() for item in data.inputs)
        if first is not None and sample != first:
            return
        several, first = first is not None, sample
    if several and data.unit == "line":
        # Texts that are the same are refused as they are read.
        raise UsageError(
            f"the tokenizer makes the same tokens of all {many(data.count, data.unit)} of {data.source}, as where no"
            " word is known to it, so nothing can be measured on them; give the model's own tokenizer, or other text"
        )
    if several:
        raise UsageError(
            f"all {many(data.count, data.unit)} of {data.source} are the same, so nothing can be measured on them;"
            " give samples that differ"
        )


def _drawn(source: DataSource, inputs: Sequence[Input]) -> tuple[tuple[Sample, ...], More | None]:
    """The samples that stay in memory, spread evenly over the data, and the others; all are checked."""
    if isinstance(source, Feeds):
        return tuple(load_data(source, inputs)), source.more
    count, read = parts_of(source, inputs)
    if not count:
        return tuple(load_data(source, inputs)), None
    return _sampled(count, lambda number: list(load_data([read(number)], inputs)), inputs)


def _sampled(
    count: int, read: Callable[[int], list[Sample]], inputs: Sequence[Input]
) -> tuple[tuple[Sample, ...], More | None]:
    """A sample of many parts, each of which can be read again."""
    kept: dict[int, list[Sample]] = {}
    rest: list[int] = []
    rows = held = left = 0
    for number in spread(count):
        part = read(number)
        size = sum(rows_of(sample.feed, inputs) for sample in part)
        if rows >= MOST_SAMPLES or held >= MOST_BYTES:
            rest.append(number)
            left += size
            continue
        kept[number] = part
        rows += size
        held += sum(array.nbytes for sample in part for array in sample.feed.values())
    samples = tuple(sample for number in sorted(kept) for sample in kept[number])
    if not rest:
        return samples, None

    def feeds(numbers: Sequence[int]) -> Chunk:
        return [sample.feed for number in numbers for sample in read(number)], NOTHING

    return samples, More(rest, feeds, left, max(round(CHUNK * len(rest) / max(left, 1)), 1))


def _takes_one(view: GraphView, samples: Sequence[Sample], inputs: Sequence[Input]) -> bool:
    """Return whether the model only runs on single samples, tested on the smallest feed that holds several.

    Feeds of one sample each may be joined to batches, too: a sample stands for two there.
    """
    several = min((item for item in samples if rows_of(item.feed, inputs) > 1), key=_size, default=None)
    if several is None and len(samples) > 1 and free_axes(samples[0], inputs):
        several = part_of(samples[0], inputs, [0, 0])
    if several is None or not free_axes(several, inputs):
        return False
    try:
        session = Session(LoadedModel(view.model, "the model", view.sources), Provider(CPU, "a trial"))
    except InferenceError:
        return False
    return takes_one(several, inputs, session.run)


def _size(sample: Sample) -> int:
    """The elements of a feed."""
    return sum(array.size for array in sample.feed.values())


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
            raise UsageError(
                f"no random inputs fit the model: {found}; give real ones with {named_setting('data')}"
            )
        made.append(found[0])
    return calibration_data(made, view, f"random (seed {seed})")


def _halves(sample: Sample, inputs: Sequence[Input]) -> Iterator[Sample]:
    """Split one feed into two, so that a part can be held out, where the batch allows."""
    rows = rows_of(sample.feed, inputs)
    if rows < 2 or not free_axes(sample, inputs):
        yield sample
        return
    for part in (range(rows - rows // 2), range(rows - rows // 2, rows)):
        yield part_of(sample, inputs, part)
