"""Data beyond the sample for selection and refits: training reads it, one chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxheadprune.runtime.feeds.generate import Feed

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
Chunk = tuple[list[Feed], LeftOut]
"""The feeds of some samples, and what of them is none."""


NOTHING: LeftOut = {}


class More:
    """Samples that are not in memory: places in a file or folder, read into feeds when needed.

    Attributes:
        samples: the number of samples.
        chunks: the number of chunks.
    """

    def __init__(
        self, places: Sequence[int], read: Callable[[Sequence[int]], Chunk], samples: int, per_chunk: int
    ) -> None:
        """Take the places.

        Args:
            samples: the number of samples, estimated where it is known only after reading.
        """
        self._places, self._read, self._per_chunk = places, read, max(per_chunk, 1)
        self.samples, self.chunks = samples, math.ceil(len(places) / self._per_chunk)

    def chunk(self, number: int) -> Chunk:
        """The feeds of a chunk, and the number of samples left out; the same for the same number."""
        start = number * self._per_chunk
        return self._read(self._places[start : start + self._per_chunk])

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Pickle as empty: another process works on the samples in memory, and opens no files."""
        return type(None), ()

    def divided(self, parts: Callable[[Feed], Iterable[Feed]]) -> More:
        """The same with parts of each feed in its place."""

        def read(places: Sequence[int]) -> Chunk:
            feeds, left_out = self._read(places)
            return [part for feed in feeds for part in parts(feed)], left_out

        return More(self._places, read, self.samples, self._per_chunk)


class Feeds(list[Feed]):
    """Feeds made from other samples, such as lines of text or images.

    Attributes:
        unit: the name of one sample.
        source: the name of their source in messages.
        more: further samples, None where these are all.
        left_out: the number of samples left out.
        apart: makes feeds with each line of a text alone, None where they are so already.
    """

    def __init__(
        self,
        feeds: Iterable[Feed],
        unit: str,
        more: More | None = None,
        source: str = GIVEN,
        left_out: LeftOut = NOTHING,
        apart: Callable[[], Feeds] | None = None,
    ) -> None:
        super().__init__(feeds)
        self.unit, self.more, self.source = unit, more, source
        self.left_out, self.apart = left_out, apart

    def every(self) -> Iterator[Feed]:
        """All feeds, including those that are not in memory."""
        yield from self
        for number in range(0 if self.more is None else self.more.chunks):
            assert self.more is not None
            yield from self.more.chunk(number)[0]


def spread(count: int) -> list[int]:
    """All numbers below a count, in an order whose every prefix is spread evenly over them.

    The order of the fractional parts of multiples of the golden ratio.

    >>> spread(8)
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    places = np.arange(count) * GOLDEN % 1
    return [int(place) for place in np.argsort(np.argsort(places))]
