"""The next units that a site can lose: the smallest steps from one valid set of removed heads to a larger one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from onnxheadprune.attention.sites.site import Site, united
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.emptied import bias_of
from onnxheadprune.liveness.refusals import Refusal

Heads = frozenset[int]
Move = frozenset[int]
GROUPS, QUERIES = "groups", "queries"
"""Steps of grouped-query attention: a KV head with its query heads, or a query head of every KV head."""
BOTH = (GROUPS, QUERIES)


AnySite = TypeVar("AnySite", bound=Site)


@dataclass(frozen=True)
class Step:
    """One step down the path of a site: from all heads to few."""

    removed: Heads  # present heads removed so far, earlier steps included
    error: float  # the cost, in the unit of the path; non-decreasing


Paths: TypeAlias = list[tuple[Step, ...]]
"""Ways for a site to lose units."""


def cheapest(options: Sequence[Move], cost: Callable[[Move], float]) -> tuple[Move, float]:
    """The move with the least cost per head, and its cost; the first one among equals."""
    costs = [cost(move) for move in options]
    best = min(range(len(options)), key=lambda at: costs[at] / len(options[at]))
    return options[best], costs[best]


def ways_of(site: Site) -> tuple[tuple[str, ...], ...]:
    """The ways to compute paths by: a greedy path takes the cheapest step, and may skip smaller ones."""
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


def or_reason(made: Callable[[AnySite], Paths]) -> Callable[[AnySite], Paths | RefusedError]:
    """A function that returns the error of a site without paths instead of raising it."""

    def found(site: AnySite) -> Paths | RefusedError:
        try:
            return made(site)
        except RefusedError as error:
            return error

    return found


def readable(
    sites: Sequence[Site], found: Iterable[Paths | RefusedError]
) -> tuple[dict[int, Paths], dict[str, str]]:
    """The paths per site index, and for the labels of sites without why."""
    paths: dict[int, Paths] = {}
    skipped: dict[str, str] = {}
    for site, ways in zip(sites, found, strict=True):
        if isinstance(ways, RefusedError):
            skipped[site.label] = str(ways)
        else:
            paths[site.index] = ways
    if not paths:
        raise RefusedError(next(iter(skipped.values())))
    return paths, skipped


def path_by_worth(
    site: Site,
    worth: Sequence[float],
    protected: Heads = frozenset(),
    ways: Sequence[str] = BOTH,
) -> tuple[Step, ...]:
    """The path that removes heads by increasing score, as far as the KV groups allow."""
    gone: Heads = frozenset()
    total, steps = 0.0, []
    while options := moves(site, gone, protected, worth, ways):
        best, cost = cheapest(options, lambda move: sum(worth[head] for head in move))
        gone |= best
        total += cost
        steps.append(Step(gone, total))
    return tuple(steps)


def can_go_whole(site: Site) -> bool:
    """Return whether only a bias remains of a site without its units."""
    return not any(isinstance(bias_of(projection.node), Refusal) for projection in site.projections)


def moves(
    site: Site,
    removed: Heads,
    protected: Heads = frozenset(),
    worth: Sequence[float] | None = None,
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
    worth: Sequence[float] | None,
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
    groups: Sequence[Sequence[int]], protected: Heads, worth: Sequence[float] | None
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
