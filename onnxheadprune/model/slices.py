"""The kept positions of a stored tensor, as compact ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Selection:
    """Live positions of a stored tensor: flat row-major indices over `sizes` of `axes`.

    Attributes:
        axes: the axes that are cut.
        sizes: their sizes before the cut.
        kept: their sizes after it.
        live: the surviving positions, as compact ranges ("0-63,128-191").
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    kept: tuple[int, ...]
    live: str

    def __str__(self) -> str:
        cuts = (f"axis {a}: {s} -> {k}" for a, s, k in zip(self.axes, self.sizes, self.kept, strict=True))
        return ", ".join(cuts)


def spell_ranges(positions: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Sorted positions as "0-3,8,10-11"."""
    if not positions.size:
        return ""
    breaks = np.flatnonzero(np.diff(positions) != 1)
    starts = positions[np.concatenate([[0], breaks + 1])]
    ends = positions[np.concatenate([breaks, [positions.size - 1]])]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def read_ranges(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The inverse of `spell_ranges`."""
    parts = [part.split("-") for part in text.split(",") if part]
    ranges = [np.arange(int(part[0]), int(part[-1]) + 1) for part in parts]
    return np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)
