"""Targets of refits: the original's stream after a linear layer, or after a dropped run that it replaces.

Between one addition to a residual stream and the next there is nothing, or a normalisation.

Where a normalisation follows every sublayer (post-norm), what a layer before a dropped run adds passes through all
normalisations of the run. Each is, up to the scale of a position, a stored gain and offset, and so can be inverted.
Gain and offset are computed from inputs and outputs, so it does not matter with which operators the graph expresses
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.compensation.tasks import Run, Skipped
from onnxheadprune.model.graph.view import Value
from onnxheadprune.runtime import Array

Matrix64 = npt.NDArray[np.float64]
SAME = 1e-4
"""Squared relative difference up to which two streams are the same."""
LEAST_GAIN = 1e-2
"""Smallest gain that is divided by, relative to their root mean square."""


@dataclass(frozen=True, eq=False)
class Link:
    """A step of the residual stream: `normalised * gain + offset`, or nothing."""

    gain: Matrix64 | None  # per channel, [out]; None without a normalisation
    offset: Matrix64  # per channel, [out]
    centred: bool = False  # whether the mean over the channels is subtracted

    @classmethod
    def between(cls, before: Matrix64, after: Matrix64) -> Link | None:
        """Return the link between two streams, None if it is something else.

        Args:
            before: its input, [positions, out].
        """
        if before.shape != after.shape or len(before) < 4:
            return None
        if _same(before, after):
            return cls(None, np.zeros(before.shape[1]))
        for centred in (True, False):
            rows = normalised(before, centred)
            means = (rows.mean(axis=0), after.mean(axis=0)) if centred else (0.0, 0.0)
            apart, behind = rows - means[0], after - means[1]
            gain = np.sum(apart * behind, axis=0) / np.maximum(np.sum(np.square(apart), axis=0), 1e-30)
            offset = np.asarray(means[1] - gain * means[0])
            if _same(rows * gain + offset, after):
                return cls(gain, offset, centred)
        return None

    def back(self, stream: Matrix64, added: Matrix64 | float) -> Matrix64:
        """The input that leads to a stream after the next addition, up to the scale of each position.

        Args:
            stream: the target there, [positions, out]; only its direction where there is a gain.
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
    """Rows minus the multiple of a direction that makes their mean zero."""
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
    """Rows with a mean square of one, and a mean of zero where it is subtracted."""
    if centred:
        rows = rows - rows.mean(axis=1, keepdims=True)
    size = np.sqrt(np.mean(np.square(rows), axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(size, 1e-30))


def _same(left: Matrix64, right: Matrix64) -> bool:
    return float(np.square(left - right).sum()) <= SAME * max(float(np.square(right).sum()), 1e-30)


def aim(
    stream: Matrix64, now: Matrix64, links: Sequence[Link], added: Sequence[Matrix64 | float]
) -> Matrix64:
    """Return the stream after the front that becomes a given stream after the run.

    Args:
        stream: the target after the run, [positions, out].
        now: the present stream after the front; its scale (and mean) are kept where a normalisation removes them.
        added: what remains of each removed sublayer: the bias of its last layer, [out].
    """
    for link, bias in zip(reversed(links), reversed(added), strict=True):
        stream = link.back(stream, bias)
    if not any(link.gain is not None for link in links):
        return stream
    centred = next(link.centred for link in links if link.gain is not None)
    mean = now.mean(axis=1, keepdims=True) if centred else 0.0
    size = np.sqrt(np.mean(np.square(now - mean), axis=1, keepdims=True))
    return np.asarray(normalised(stream, centred) * size + mean)


RowsOf: TypeAlias = Callable[[Value], Array]
"""A value of one model as [positions, out]."""


@dataclass(frozen=True, eq=False)
class Target:
    """The target output of a linear layer."""

    linear: Linear  # the layer
    run: Run | None = None  # the removed run that it replaces, None for none
    links: tuple[Link, ...] = ()  # the links between the additions of that run

    @classmethod
    def standing_in(cls, linear: Linear, run: Run, feeds: Sequence[RowsOf]) -> Target:
        """The target of a layer that replaces the run after it; without the run where other operators lie between."""
        links = _links_of(run, feeds)
        return cls(linear) if links is None else cls(linear, run, links)

    @property
    def is_what_it_gave(self) -> bool:
        """True if the target is the layer's output in the original, since it adds to no stream."""
        return self.linear.other is None and self.run is None

    @property
    def there(self) -> list[Value]:
        """Values of the original that the target needs."""
        last = self.linear if self.run is None else self.run.gone[-1]
        return [last.out, *_other(last)]

    @property
    def here(self) -> list[Value]:
        """Values of the pruned model that the target needs."""
        return [*_other(self.linear), *([] if self.run is None else [self.linear.out])]

    def rows(self, there: RowsOf, here: RowsOf) -> tuple[Array, Array | None]:
        """Target outputs, [positions, out], and the weights of the positions, None for equal weights."""
        found, weights = self._found(there, here)
        offset = self.linear.read_offset()
        return (found if offset is None else found - offset.astype(found.dtype)), weights

    def _found(self, there: RowsOf, here: RowsOf) -> tuple[Array, Array | None]:
        linear, run = self.linear, self.run
        if linear.other is None:
            return there(linear.out), None
        beside = here(linear.other)
        if run is None:
            stream = there(linear.out) + there(linear.other)
        else:
            late = _late(linear)
            now = (here(linear.out) + beside).astype(np.float64) + late
            wanted = _stream(run.gone[-1], there)
            if len(wanted) != len(now):
                return wanted, None
            found = aim(wanted, now, self.links, [_left_of(item) for item in run.gone])
            stream = (found - late).astype(beside.dtype)
        return (stream - beside if len(stream) == len(beside) else stream), _weights(stream)


def _links_of(run: Run, feeds: Sequence[RowsOf]) -> tuple[Link, ...] | None:
    """Return the links between the additions of a run, None where they are not only normalisations."""
    found: list[Link] = []
    for before, after in zip((run.front, *run.gone[:-1]), run.gone, strict=True):
        other = after.other
        assert other is not None
        into = [_stream(before, rows, silent=before is not run.front) for rows in feeds]
        behind = [rows(other).astype(np.float64) for rows in feeds]
        if [item.shape for item in into] != [item.shape for item in behind]:
            return None
        link = Link.between(np.concatenate(into), np.concatenate(behind))
        if link is None:
            return None
        found.append(link)
    return tuple(found)


def _left_of(linear: Linear | Skipped) -> Matrix64 | float:
    """Return the output of a layer without inputs: its bias, [out]."""
    if isinstance(linear, Skipped):
        return 0.0
    bias = linear.bias or linear.fixed
    return np.zeros(linear.matrix.columns) if bias is None else bias.read().reshape(-1)


def _stream(linear: Linear | Skipped, rows: RowsOf, silent: bool = False) -> Matrix64:
    """The stream after the addition of a layer; with the layer's bias if it has no inputs left."""
    if isinstance(linear, Skipped):
        return rows(linear.other if silent else linear.out).astype(np.float64)
    assert linear.other is not None
    beside = rows(linear.other).astype(np.float64)
    return beside + _left_of(linear) if silent else beside + rows(linear.out) + _late(linear)


def _late(linear: Linear) -> Matrix64 | float:
    """The bias that is only added together with the stream."""
    return linear.bias.read().reshape(-1) if linear.is_late and linear.bias is not None else 0.0


def _other(linear: Linear | Skipped) -> list[Value]:
    return [] if linear.other is None else [linear.other]


def _weights(stream: Array) -> Array:
    """Weights of rows of the residual stream: their inverse variance, by which the next normalisation divides.

    Otherwise a few positions with huge activations (separators, sinks) decide alone.
    """
    variance = stream.var(axis=1, dtype=np.float64)
    weights: Array = 1.0 / np.maximum(variance, 1e-6 * float(variance.mean()) + 1e-30)
    return weights
