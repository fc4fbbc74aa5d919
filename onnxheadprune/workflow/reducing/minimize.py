"""Delta debugging: fewer and fewer parts, as long as what is left still fails.

Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input (2002), in the form that goes through the
parts once for each size of chunk (as Lithium does): about 2 n trials where nothing can go, few where much can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Part = TypeVar("Part")


def minimized(parts: Sequence[Part], fails: Callable[[list[Part]], bool]) -> list[Part]:
    """Parts of which none can go alone without the failure going too.

    >>> minimized(range(100), lambda parts: {13, 57} <= set(parts))
    [13, 57]

    Args:
        parts: what fails together.
        fails: whether some of the parts, in their order, still fail.
    """
    kept = list(parts)
    size = max(len(kept) // 2, 1)
    while kept:
        before, stop = len(kept), len(kept)
        # From the back: what comes last decides least about the parts before it.
        while stop > 0:
            start = max(stop - size, 0)
            rest = kept[:start] + kept[stop:]
            if fails(rest):
                kept = rest
            stop = start
        if size > 1:
            size = min(max(size // 2, 1), max(len(kept) // 2, 1))
        elif len(kept) == before:
            break
    return kept
