"""Paths of sites: the smallest steps from one valid set of removed units to a larger one, the cheapest one first."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.site import Site, united
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.liveness.emptied import bias_of
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.tensors import Floats

Heads = frozenset[int]
Move = frozenset[int]
GROUPS, QUERIES = "groups", "queries"
"""Steps of grouped-query attention: a KV head with its query heads, or a query head of every KV head."""
BOTH = (GROUPS, QUERIES)


@dataclass(frozen=True)
class Step:
    """One step down the path of a site: from all heads to few."""

    removed: Heads  # present heads removed so far, earlier steps included
    error: float  # the cost, in the unit of the path; non-decreasing


Path: TypeAlias = tuple[Step, ...]
"""A way for a site to lose units."""


def ways_of(site: Site) -> tuple[tuple[str, ...], ...]:
    """The ways to compute paths by: a greedy path takes the cheapest step, and may skip smaller ones."""
    if site.KIND.has_many_units:
        return (BOTH,)
    grouped = len(site.groups) > 1 and len(site.groups[0]) > 1 and site.may_lose_groups
    return (BOTH, (GROUPS,), (QUERIES,)) if grouped else (BOTH,)


def merged(paths: Iterable[Sequence[Step]]) -> tuple[Step, ...]:
    """The steps of several paths of one site, few heads first; of equal sets the cheapest."""
    best: dict[Heads, Step] = {}
    for path in paths:
        for step in path:
            if step.removed not in best or step.error < best[step.removed].error:
                best[step.removed] = step
    return tuple(
        sorted(best.values(), key=lambda step: (len(step.removed), step.error, sorted(step.removed)))
    )


class Worth(Protocol):
    """The cost of removing units of a site one after the other."""

    whole: float
    """The unit of costs."""

    def each(self) -> Sequence[float] | Floats:
        """Return the cost of removing each unit alone."""

    def of(self, move: Move) -> float:
        """Return the cost of removing some units together."""

    def remove(self, move: Move) -> None:
        """Remove them, which may change the costs of others."""


class Summed:
    """Fixed scores, which add up."""

    whole = 1.0

    def __init__(self, scores: Sequence[float] | Floats) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)

    def each(self) -> Floats:
        """Return all of them."""
        return self._scores

    def of(self, move: Move) -> float:
        """Return their sum over some units."""
        return float(sum(self._scores[unit] for unit in move))

    def remove(self, move: Move) -> None:
        """Change nothing."""


def paths(site: Site, worth: Worth, protected: Heads = frozenset(), multiple: int = 1) -> list[Path]:
    """For each way to remove units the greedy path."""
    return [path(site, copy.copy(worth), protected, ways, multiple) for ways in ways_of(site)]


def path(
    site: Site, worth: Worth, protected: Heads = frozenset(), ways: Sequence[str] = BOTH, multiple: int = 1
) -> Path:
    """The path that removes the units first that cost least, as far as groups allow.

    Args:
        worth: changes on the way.
        multiple: of a site of many units a multiple of it is left after each step.
    """
    going = (
        _at_a_time(site, worth, protected, multiple)
        if site.KIND.has_many_units
        else _one_by_one(site, worth, protected, ways)
    )
    gone: Heads = frozenset()
    total, steps = 0.0, []
    for move in going:
        total += worth.of(move)
        worth.remove(move)
        gone |= move
        steps.append(Step(gone, total / worth.whole))
    return tuple(steps)


def _one_by_one(site: Site, worth: Worth, protected: Heads, ways: Sequence[str]) -> Iterator[Move]:
    """Yield the move that costs least per head, of those that are legal then; the first one among equals."""
    gone: Heads = frozenset()
    grouped = any(len(group) > 1 for group in site.groups)
    while options := moves(site, gone, protected, worth.each() if grouped else None, ways):
        best = min(options, key=lambda move: worth.of(move) / len(move))
        gone |= best
        yield best


def _at_a_time(site: Site, worth: Worth, protected: Heads, multiple: int) -> Iterator[Move]:
    """Yield as many of the units that cost least as leave the next multiple."""
    left = [unit for unit in site.units if not set(unit) & protected]
    here, least = site.num_units, max(multiple, -(-len(protected) // multiple) * multiple)
    for count in range((here - 1) // multiple * multiple, least - 1, -site.stride(multiple)):
        going: list[int] = []
        each = worth.each()
        for unit in sorted(left, key=lambda unit: (sum(each[one] for one in unit) / len(unit), unit)):
            if here - len(going) - len(unit) >= count:
                going += unit
        if going:
            here -= len(going)
            left = [unit for unit in left if not set(unit) & set(going)]
            yield frozenset(going)


def can_go_whole(site: Site) -> bool:
    """Return whether only a bias remains of a site without its units."""
    return not any(isinstance(bias_of(projection.node), Refusal) for projection in site.projections)


def moves(
    site: Site,
    removed: Heads,
    protected: Heads = frozenset(),
    worth: Sequence[float] | Floats | None = None,
    ways: Sequence[str] = BOTH,
) -> list[Move]:
    """Sets of present heads that may be removed next, so that every remaining KV head keeps equally many.

    A head of plain attention; in grouped-query attention a KV head with its query heads, or one query head
    of every KV head that is left. Never the last head, no protected one, and none that leaves too few to choose from.

    With scores, the query head with the lowest one is removed first of every KV head.
    """
    found = [
        move
        for move in _moves(site, removed, protected, worth, ways)
        if site.why_too_few(tuple(removed | move)) is None
    ]
    if all(len(unit) == 1 for unit in site.units):
        return found
    # Heads that a projection packs together go together, where that leaves the KV groups even.
    units = [frozenset(unit) for unit in site.units if not removed & set(unit)]
    together = [frozenset(united(move, site.units)) for move in (*units, *found)]
    return [
        move
        for move in dict.fromkeys(together)
        if not move & (protected | removed) and is_legal(site.groups, set(removed | move))
    ]


def _moves(
    site: Site,
    removed: Heads,
    protected: Heads,
    worth: Sequence[float] | Floats | None,
    ways: Sequence[str],
) -> list[Move]:
    groups = [left for group in site.groups if (left := [head for head in group if head not in removed])]
    grouped = len(site.groups) > 1 and len(site.groups[0]) > 1
    whole = [frozenset(group) for group in groups] if len(groups) > 1 else []
    if len(groups) > 1 and len(groups[0]) == 1:
        return [move for move in whole if not move & protected] if GROUPS in ways or not grouped else []
    if grouped and (GROUPS not in ways or not site.may_lose_groups):
        whole = []
    thin = bool(groups) and len(groups[0]) > 1 and (QUERIES in ways or not grouped)
    thinner = _one_of_each(groups, protected, worth) if thin else []
    return [*(move for move in whole if not move & protected), *thinner]


def _one_of_each(
    groups: Sequence[Sequence[int]], protected: Heads, worth: Sequence[float] | Floats | None
) -> list[Move]:
    """One head of every group. With one group every head is offered, else the one with the lowest score of each."""
    free = [[head for head in group if head not in protected] for group in groups]
    if not all(free):
        return []
    if len(groups) == 1:
        return [frozenset((head,)) for head in free[0]]
    if worth is None:
        return [frozenset(group[rank] for group in free) for rank in range(min(map(len, free)))]
    return [frozenset(min(group, key=lambda head: (worth[head], head)) for group in free)]
