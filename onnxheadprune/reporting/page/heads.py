"""The map of heads: a row per site, a cell per head, with what each is worth and why it went or stayed."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.kinds import called
from onnxheadprune.reporting.page.documents import Document

SHADES = 5


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        index: among the heads of the original.
        state: "gone", "gone-before", "stays" or "must-stay".
        shade: how much it is worth by rank, 0 (little) to 4; None where it was not measured.
        words: what a reader is told about it.
    """

    index: int
    state: str
    shade: int | None
    words: str


@dataclass(frozen=True)
class Site:
    """One row.

    Attributes:
        called: how messages name it.
        name: its module path.
        heads: its heads.
        left: how many stay, in words ("3 of 8").
    """

    called: str
    name: str
    heads: tuple[Head, ...]
    left: str


@dataclass(frozen=True)
class HeadMap:
    """All sites.

    Attributes:
        sites: in the order of the model.
        columns: the most heads that a site has.
        basis: how the heads were chosen; empty where they were named.
        scored: whether any head has a score.
    """

    sites: tuple[Site, ...]
    columns: int
    basis: str
    scored: bool


def head_map(document: Document) -> HeadMap:
    """The map of a cut.

    Args:
        document: the result of `prune` or `fuse`.
    """
    choice = document.get("choice")
    scores = {} if not choice else choice["selection"]["scores"]
    basis = "" if not choice else choice["selection"]["basis"]
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
        sites.append(Site(called(cut["index"]), cut["name"], heads, left))
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
) -> Head:
    worth, shade = "", None
    if value is not None:
        rank = bisect.bisect_left(known, value)
        shade = min(rank * SHADES // max(len(known), 1), SHADES - 1)
        worth = f"; score {value:.3g}, number {rank + 1} of {len(known)} from the least"
    if head in before:
        return Head(head, "gone-before", None, "removed by an earlier cut")
    if head in removed:
        why = f"chosen by {basis}" if basis else "named by the user"
        return Head(head, "gone", shade, f"removed: {why}{worth}")
    if basis and value is None:
        return Head(head, "must-stay", None, "always kept: protected, a minimum, or the last of its site")
    return Head(head, "stays", shade, f"kept{worth}")
