"""From one addition of a residual stream to the next: nothing lies between them, or a normalisation.

Where a normalisation follows every sublayer (post-norm), what a map in front of a dropped run adds passes through all
normalisations of the run. Each is, up to the scale of a position, a stored gain and offset, and so can be gone through
backwards. Which gain and offset is read off what goes in and comes out, so it does not matter how it is spelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix64 = npt.NDArray[np.float64]
SAME = 1e-4
"""Squared relative difference up to which two streams are the same."""
LEAST_GAIN = 1e-2
"""Smallest gain that is divided by, relative to their root mean square."""


@dataclass(frozen=True, eq=False)
class Link:
    """What the stream goes through: `normalised * gain + offset`, or nothing.

    Attributes:
        gain: per channel, [out]; None where nothing lies between.
        offset: per channel, [out].
        centred: whether the mean over the channels is taken off.
    """

    gain: Matrix64 | None
    offset: Matrix64
    centred: bool = False

    def back(self, stream: Matrix64, added: Matrix64) -> Matrix64:
        """What had to come in, so that a stream comes out behind the next addition, but for the scale of each position.

        Args:
            stream: what is wanted there, [positions, out]; only its direction where there is a gain.
            added: what the next addition adds to every position, [out].

        Returns:
            [positions, out]; normalised where there is a gain.
        """
        if self.gain is None:
            return stream - added
        floor = LEAST_GAIN * float(np.sqrt(np.mean(np.square(self.gain)))) + 1e-30
        inverse = np.where(self.gain < 0, -1.0, 1.0) / np.maximum(np.abs(self.gain), floor)
        moving, fixed = stream * inverse, -(self.offset + added) * inverse
        if self.centred:
            # What is free is also a shift of all channels, with which the mean comes out right.
            moving, fixed = (_without(part, inverse) for part in (moving, fixed))
        scale = _scale(moving, fixed)
        return normalised(scale[:, None] * moving + fixed, self.centred)


def _without(rows: Matrix64, direction: Matrix64) -> Matrix64:
    """Rows with as much of a direction taken off as makes their mean zero."""
    share = rows.mean(axis=-1, keepdims=True) / direction.mean()
    return np.asarray(rows - share * direction)


def _scale(moving: Matrix64, fixed: Matrix64) -> Matrix64:
    """For each position the scale s with which s * moving + fixed has a mean square of one, or is nearest to it."""
    square = np.maximum(np.mean(np.square(moving), axis=1), 1e-30)
    both, rest = np.mean(moving * fixed, axis=1), float(np.mean(np.square(fixed))) - 1.0
    root = np.sqrt(np.maximum(both**2 - square * rest, 0.0))
    found = (root - both) / square
    return np.asarray(np.where(found > 0, found, 1.0 / np.sqrt(square)))


def normalised(rows: Matrix64, centred: bool) -> Matrix64:
    """Rows with a mean square of one, and a mean of zero where it is taken off."""
    if centred:
        rows = rows - rows.mean(axis=1, keepdims=True)
    size = np.sqrt(np.mean(np.square(rows), axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(size, 1e-30))


def link_of(before: Matrix64, after: Matrix64) -> Link | None:
    """What lies between two streams, None if it is something else.

    Args:
        before: what goes in, [positions, out].
        after: what comes out.
    """
    if before.shape != after.shape or len(before) < 4:
        return None
    if _same(before, after):
        return Link(None, np.zeros(before.shape[1]))
    for centred in (True, False):
        rows = normalised(before, centred)
        means = (rows.mean(axis=0), after.mean(axis=0)) if centred else (0.0, 0.0)
        apart, behind = rows - means[0], after - means[1]
        gain = np.sum(apart * behind, axis=0) / np.maximum(np.sum(np.square(apart), axis=0), 1e-30)
        offset = np.asarray(means[1] - gain * means[0])
        if _same(rows * gain + offset, after):
            return Link(gain, offset, centred)
    return None


def _same(left: Matrix64, right: Matrix64) -> bool:
    return float(np.square(left - right).sum()) <= SAME * max(float(np.square(right).sum()), 1e-30)


def aim(stream: Matrix64, now: Matrix64, links: Sequence[Link], added: Sequence[Matrix64]) -> Matrix64:
    """What the stream behind the front should be, so that it becomes a given one behind the run.

    Args:
        stream: what is wanted behind the run, [positions, out].
        now: the stream behind the front as it is; where a normalisation leaves scale (and mean) open, they stay.
        links: between the additions, in their order.
        added: what is left of each sublayer that goes: the bias of its last map, [out].
    """
    for link, bias in zip(reversed(links), reversed(added), strict=True):
        stream = link.back(stream, bias)
    if not any(link.gain is not None for link in links):
        return stream
    centred = next(link.centred for link in links if link.gain is not None)
    mean = now.mean(axis=1, keepdims=True) if centred else 0.0
    size = np.sqrt(np.mean(np.square(now - mean), axis=1, keepdims=True))
    return np.asarray(normalised(stream, centred) * size + mean)
