"""Columns of stored tensors that belong to one unit each: they are removed with that unit only.

They are found by a few trial sweeps: each unit has a number, and trial `b` removes the units
whose number has bit `b`. A position that is removed in trials 0 and 2 belongs to unit number 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site, caller_demands
from onnxheadprune.liveness.domain import Masks
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.view import Use, Value
from onnxheadprune.model.spelling import spelled
from onnxheadprune.model.typed_json import JsonObject

Numbers = npt.NDArray[np.int64]


Edge = tuple[Value, Use | None]
"""A stored tensor, and who reads it: layers that share one may lose different parts of it."""


@dataclass(frozen=True)
class _Run(JsonObject):
    """A run of positions per owner: owner `i` has `size` positions from `offset + i * step` on."""

    offset: int
    size: int
    step: int


def owned(site: Site) -> list[dict[str, Any]]:
    """The columns of each stored tensor that each unit of a site owns, as JSON-ready data.

    One entry per tensor and run of positions, in the order of a trial sweep; none for a site that cannot lose units, or
    has only one.
    """
    if not site.removable:
        return []
    shared, own = site.shares()
    whole, places = _told(site, shared), _told(site, own) if len(own) > 1 else {}
    found: list[dict[str, Any]] = []
    for (value, reader), lives in whole.items():
        inner = places.get((value, reader), ())
        axes = tuple(sorted({axis for live in (*lives, *inner) for axis in live.axes}))
        owners, place = _decoded(value, axes, lives), _decoded(value, axes, inner)
        word = site.UNIT if len(own) == 1 and all(len(units) == 1 for units in shared) else site.SHARED
        if inner and (place[owners > 0] > 0).all():
            owners, word = np.where(owners > 0, (owners - 1) * len(own) + place, 0), site.UNIT
        entries = (_entry(value, axes, word, part) for part in _spelled(owners))
        found += [entry for entry in entries if entry not in found]
    return found


def _told(site: Site, owners: Sequence[Sequence[int]]) -> dict[Edge, list[Live]]:
    """Return the remaining part of each narrowed stored tensor in each trial, by bit of the owners' numbers."""
    found: dict[Edge, list[Live]] = {}
    bits = len(owners).bit_length()
    for bit in range(bits):
        gone = [unit for number, units in enumerate(owners, 1) if number >> bit & 1 for unit in units]
        for edge, live in _narrowed(_trial(site, gone)):
            found.setdefault(edge, [Live.over((), np.asarray(True))] * bits)[bit] = live
    return found


def _decoded(value: Value, axes: tuple[int, ...], lives: Sequence[Live]) -> Numbers:
    """The number of the owner of each position along some axes, row-major; 0 where nobody owns it."""
    sizes = [size if isinstance(size := (value.shape or ())[axis], int) else 0 for axis in axes]
    found = np.zeros(sizes, dtype=np.int64)
    for bit, live in enumerate(lives):
        found |= (live.as_mask().aligned(axes, sizes) == 0).astype(np.int64) << bit
    return found.reshape(-1)


def _trial(site: Site, gone: Sequence[int]) -> Sweep:
    handed = caller_demands([site], {site.index: tuple(gone)})
    return sweep(list(site.seeds(gone)), site.movable | site.maps, Masks(site.UNITS), handed=handed)


def _narrowed(walk: Sweep) -> Iterator[tuple[Edge, Live]]:
    """Yield the part that each reader needs of each narrowed stored tensor."""
    for value in walk.reached:
        if value.tensor is None:
            continue
        uses: list[Use | None] = [use for use in value.consumers if not walk.edge(use).is_full]
        # Without a reader it is what a branch of an `If` outputs.
        for use in uses or [None]:
            live = walk.kept[value] if use is None else walk.edge(use)
            if live.axes:
                yield (value, use), live


def _spelled(owners: Numbers) -> Iterator[dict[str, Any]]:
    """Positions per owner: as runs where they are regular, else listed."""
    there = np.unique(owners[owners > 0])
    places = [np.flatnonzero(owners == number) for number in range(there.min(), there.max() + 1)]
    start = {"first": int(there.min()) - 1, "count": len(places)}
    runs = _runs(places)
    if runs is None:
        yield start | {"indices": [spelled(some.tolist()) for some in places]}
    else:
        yield from (start | run.to_dict() for run in runs)


def _runs(places: Sequence[Numbers]) -> list[_Run] | None:
    """The runs of positions, if they are the same for all owners, else None.

    >>> _runs([np.array([4, 5, 10, 11]), np.array([6, 7, 12, 13])])
    [_Run(offset=4, size=2, step=2), _Run(offset=10, size=2, step=2)]
    """
    pieces = [np.split(some, np.flatnonzero(np.diff(some) != 1) + 1) for some in places]
    if len({len(some) for some in pieces}) != 1:
        return None
    found = []
    for alike in zip(*pieces, strict=True):
        starts, sizes = [piece[:1].sum() for piece in alike], {piece.size for piece in alike}
        steps = set(np.diff(starts).tolist())
        if len(sizes) != 1 or len(steps) > 1 or 0 in sizes:
            return None
        size = sizes.pop()
        found.append(_Run(int(starts[0]), size, int(steps.pop()) if steps else size))
    return found


def _entry(value: Value, axes: tuple[int, ...], owner: str, part: dict[str, Any]) -> dict[str, Any]:
    where = {"axis": axes[0]} if len(axes) == 1 else {"axes": list(axes)}
    return {"tensor": value.name, **where, "owner": owner, **part}
