"""Pictures as a training sees them: mirrored and shifted, drawn anew in every epoch.

What a moved picture should give is told by the original, as of every other, so it needs no label that would hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.errors import UsageError
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds import Feed, Input
from onnxheadprune.selection.activations.pictures import PictureInput, picture_inputs
from onnxheadprune.selection.recovery.batches import Batches

FLIPS, CROPS = "flips", "crops"
WAYS = {FLIPS: "mirrored", CROPS: "shifted"}
"""Ways to augment, with what becomes of the pictures."""
LIKELY = 0.5
"""Chance that a picture is mirrored."""
PARTS = 8
"""A picture is shifted by up to one of so many parts of its height and width, and up to a pixel at least."""


def parse_augment(named: str | Iterable[str]) -> tuple[str, ...]:
    """The ways to augment in their order, from "flips,crops" or from several names; none for no names.

    Raises:
        UsageError: if there is no such way.
    """
    given = [part.strip() for part in named.split(",")] if isinstance(named, str) else list(named)
    strange = [part for part in given if part not in WAYS]
    if strange:
        raise UsageError(
            f"pictures are augmented by {FLIPS}, by {CROPS} or by {FLIPS},{CROPS}, not by"
            f" {', '.join(map(str, strange)).strip(' ,') or 'nothing'}"
        )
    return tuple(way for way in WAYS if way in given)


def require_pictures(inputs: Sequence[Input]) -> PictureInput:
    """The input whose pictures are augmented.

    Raises:
        UsageError: if none or several of them take pictures, or neither in colour nor in grey.
    """
    found = picture_inputs(inputs)
    if len(found) != 1:
        told = ", ".join(f"{item.name}: {item.describe()}" for item in inputs)
        why = "several inputs that may be pictures" if found else "no pictures"
        raise UsageError(f"the model takes {why} ({told}), so there is nothing to augment")
    found[0].count_channels()  # refuses what is neither colour nor grey
    return found[0]


class AugmentedBatches(Batches):
    """Batches whose pictures are moved, and nothing else."""

    def __init__(self, batches: Batches, pictures: PictureInput, ways: Sequence[str]) -> None:
        """Takes what is moved.

        Args:
            batches: as they are.
            pictures: the input that is augmented.
            ways: some of `WAYS`.
        """
        self.batches, self.pictures, self.ways = batches, pictures, ways
        self.kind = f"pictures, {' and '.join(WAYS[way] for way in ways)}"

    @property
    def count(self) -> int:
        """Feeds of an epoch."""
        return self.batches.count

    def epoch(self, random: np.random.Generator) -> list[Feed]:
        """The same feeds, in the same order, with pictures moved."""
        feeds, name = self.batches.epoch(random), self.pictures.item.name
        for at, feed in enumerate(feeds):
            feeds[at] = {**feed, name: self._moved(feed[name], random)}
        return feeds

    def _moved(self, array: Array, random: np.random.Generator) -> Array:
        """Pictures of one feed, each read at other rows and columns."""
        made, axis = np.empty_like(array), self.pictures.height
        height, width = array.shape[axis : axis + 2]
        mirrored = random.random(len(array)) < LIKELY if FLIPS in self.ways else np.zeros(len(array), bool)
        down, right = (self._shifts(len(array), size, random) for size in (height, width))
        for at, picture in enumerate(array):
            rows, columns = _reflected(height, down[at]), _reflected(width, right[at])
            columns = columns[::-1] if mirrored[at] else columns
            made[at] = picture.take(rows, axis - 1).take(columns, axis)
        return made

    def _shifts(self, count: int, size: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        if CROPS not in self.ways:
            return np.zeros(count, np.int64)
        # One pixel alone has no neighbours that could be mirrored.
        most = min(max(size // PARTS, 1), size - 1)
        return random.integers(-most, most, count, endpoint=True)


def augmented(batches: Batches, inputs: Sequence[Input], ways: Sequence[str]) -> Batches:
    """The batches with their pictures moved in some ways; themselves for none.

    Raises:
        UsageError: if it is not clear which of the inputs take pictures.
    """
    return AugmentedBatches(batches, require_pictures(inputs), ways) if ways else batches


def _reflected(size: int, shift: np.int64) -> npt.NDArray[np.int64]:
    """Where to read a side that is shifted: what comes in at an edge mirrors what is behind that edge."""
    place = np.abs(np.arange(size) + shift)
    return np.asarray(np.where(place < size, place, 2 * (size - 1) - place))
