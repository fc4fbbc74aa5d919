"""What a refitted map should give: the original's stream behind it, or behind a dropped run that it stands in for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnxheadprune.model.graph.view import Value
from onnxheadprune.runtime import Array
from onnxheadprune.selection.activations.linear import Linear
from onnxheadprune.selection.compensation.links import Link, Matrix64, aim, link_of
from onnxheadprune.selection.compensation.runs import Run

RowsOf: TypeAlias = Callable[[Value], Array]
"""A value of one model as [positions, out]."""


@dataclass(frozen=True, eq=False)
class Target:
    """What a map should give.

    Attributes:
        linear: the map.
        run: what it stands in for, None for nothing.
        links: what lies between the additions of that run.
    """

    linear: Linear
    run: Run | None = None
    links: tuple[Link, ...] = ()

    @property
    def is_what_it_gave(self) -> bool:
        """Whether the map should give what it gave in the original: it adds to no stream."""
        return self.linear.other is None and self.run is None

    @property
    def there(self) -> list[Value]:
        """What has to be known of the original."""
        last = self.linear if self.run is None else self.run.gone[-1]
        return [last.out, *_other(last)]

    @property
    def here(self) -> list[Value]:
        """What has to be known of the pruned model."""
        return [*_other(self.linear), *([] if self.run is None else [self.linear.out])]

    def rows(self, there: RowsOf, here: RowsOf) -> tuple[Array, Array | None]:
        """What the map should give, [positions, out], and the weights of the positions, None to count them alike."""
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


def links_of(run: Run, feeds: Sequence[RowsOf]) -> tuple[Link, ...] | None:
    """What lies between the additions of a run, None where it is neither nothing nor a normalisation.

    Args:
        run: what is dropped.
        feeds: the pruned model on some data.
    """
    found: list[Link] = []
    for before, after in zip((run.front, *run.gone[:-1]), run.gone, strict=True):
        other = after.other
        assert other is not None
        into = [_stream(before, rows, silent=before is not run.front) for rows in feeds]
        behind = [rows(other).astype(np.float64) for rows in feeds]
        if [item.shape for item in into] != [item.shape for item in behind]:
            return None
        link = link_of(np.concatenate(into), np.concatenate(behind))
        if link is None:
            return None
        found.append(link)
    return tuple(found)


def _left_of(linear: Linear) -> Matrix64:
    """What a map still gives that sums over nothing, [out]."""
    bias = linear.bias or linear.fixed
    return np.zeros(linear.matrix.columns) if bias is None else bias.read().reshape(-1)


def _stream(linear: Linear, rows: RowsOf, silent: bool = False) -> Matrix64:
    """The stream behind the addition of a map; with what is left of the map if it is silent."""
    assert linear.other is not None
    beside = rows(linear.other).astype(np.float64)
    return beside + _left_of(linear) if silent else beside + rows(linear.out) + _late(linear)


def _late(linear: Linear) -> Matrix64 | float:
    """The bias that only the addition brings."""
    return linear.bias.read().reshape(-1) if linear.is_late and linear.bias is not None else 0.0


def _other(linear: Linear) -> list[Value]:
    return [] if linear.other is None else [linear.other]


def _weights(stream: Array) -> Array:
    """RowsOf of the residual stream count by their inverse variance: the normalisation behind divides by it.

    Otherwise a few positions with huge activations (separators, sinks) decide alone.
    """
    variance = stream.var(axis=1, dtype=np.float64)
    weights: Array = 1.0 / np.maximum(variance, 1e-6 * float(variance.mean()) + 1e-30)
    return weights
