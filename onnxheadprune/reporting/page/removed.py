"""The section on a cut: sizes before and after, and the map of heads."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.choosing.space import CARRIED_OVER, NAMED, UNTRIED
from onnxheadprune.edit.site_cuts import other_cuts
from onnxheadprune.model.documents import Document
from onnxheadprune.model.spelling import change, count
from onnxheadprune.settings.units import called


@dataclass(frozen=True)
class Quantity:
    """One line: before, after, and the part that is left as a bar."""

    name: str
    before: str
    after: str
    change: str  # in words ("-24.3 %")
    left: float | None = None  # percent of it that is left, None where that says nothing
    note: str = ""  # how it was counted; empty where it is plain


def blocks(document: Document) -> dict[str, list[Quantity]]:
    """Return what is left of each site of other kinds than heads that was cut, by what its units are called."""
    found: dict[str, list[Quantity]] = {}
    for units, cut, lost, left in other_cuts(document["plan"]):
        found.setdefault(units, []).append(_counted(f"{cut['key']} {cut['name']}", lost + left, left))
    return found


def _counted(name: str, before: int, after: int, note: str = "") -> Quantity:
    return Quantity(name, count(before), count(after), change(before, after), _left(before, after), note)


def _left(before: int, after: int) -> float | None:
    return 100 * after / before if before and after <= before else None


SHADES = 5


@dataclass(frozen=True)
class _Head:
    """One head."""

    index: int
    state: str  # "gone", "gone-before", "stays" or "must-stay"
    shade: int | None  # how much it is worth by rank, 0 (little) to 4; None where it was not measured
    words: str


@dataclass(frozen=True)
class _Site:
    """One row."""

    called: str
    name: str
    heads: tuple[_Head, ...]
    left: str


@dataclass(frozen=True)
class HeadMap:
    """All sites."""

    sites: tuple[_Site, ...]
    columns: int
    basis: str  # how the heads were chosen; empty where they were named
    scored: bool  # whether any head has a score

    @property
    def untried(self) -> bool:
        """True if a head was in no cut that was considered."""
        return any(head.state == "must-stay" for site in self.sites for head in site.heads)


def head_map(document: Document) -> HeadMap:
    """The map of a cut."""
    choice = document.get("choice")
    scores = {} if not choice else choice["selection"]["scores"]
    basis = NAMED if not choice else choice["selection"]["basis"]
    known = sorted(value for values in scores.values() for value in values if value is not None)
    sites = []
    cuts = document["plan"]["cuts"]
    if not any(cut["removed"] or cut["removed_before"] for cut in cuts) and not known:
        # A page of neurons has no map of heads that all stay.
        cuts = []
    for cut in cuts:
        values: Sequence[float | None] = scores.get(str(cut["index"]), ())
        heads = tuple(
            _head(head, cut["removed"], cut["removed_before"], _at(values, head), known, basis)
            for head in range(cut["num_heads"])
        )
        left = f"{cut['heads_left']} of {cut['num_heads']}"
        sites.append(_Site(called(cut["index"]), cut["name"], heads, left))
    return HeadMap(tuple(sites), max((len(site.heads) for site in sites), default=0), basis, bool(known))


def _at(values: Sequence[float | None], head: int) -> float | None:
    return values[head] if head < len(values) else None


def _head(
    head: int,
    removed: Sequence[int],
    before: Sequence[int],
    value: float | None,
    known: Sequence[float],
    basis: str,
) -> _Head:
    worth, shade = "", None
    if value is not None:
        rank = bisect.bisect_left(known, value)
        shade = min(rank * SHADES // max(len(known), 1), SHADES - 1)
        worth = f"; score {value:.3g}, number {rank + 1} of {len(known)} from the least"
    if head in before:
        return _Head(head, "gone-before", None, "removed by an earlier cut")
    if head in removed:
        return _Head(head, "gone", shade, f"removed: {_reason(basis)}{worth}")
    if basis in ("", NAMED):
        return _Head(head, "stays", None, "kept: not named")
    if value is None and known:
        return _Head(head, "must-stay", None, f"kept: {UNTRIED}")
    return _Head(head, "stays", shade, f"kept{worth}")


def _reason(basis: str) -> str:
    """The reason that a head is removed, as far as the result has it."""
    if basis in ("", NAMED):
        return "named"
    return basis if basis.startswith(CARRIED_OVER) else f"chosen by {basis}"
