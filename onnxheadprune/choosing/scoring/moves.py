"""Paths of sites: the smallest steps from one valid set of removed units to a larger one, the cheapest one first."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Step:
    """One step down the path of a site: from all heads to few."""

    removed: Heads  # present heads removed so far, earlier steps included
    error: float  # the cost, in the unit of the path; non-decreasing


Path: TypeAlias = tuple[Step, ...]
"""A way for a site to lose units."""


def ways_of(site: Site) -> list[Mapping[int, int]]:
    """The numbers of query heads that every KV head loses, by the size of its group: a path for each.

    Legal cuts of grouped queries are of two parts: all groups lose equally many heads, and some groups go whole.
    """
    sizes = sorted(set(map(len, site.groups))) if _may_lose_groups(site) else []
    return [
        dict(zip(sizes, lost, strict=True)) for lost in itertools.product(*(range(size) for size in sizes))
    ]


def _may_lose_groups(site: Site) -> bool:
    return len(site.groups) > 1 and site.may_lose_groups


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
    """The paths of a site, on which the unit, or group, that costs least then is removed next.

    By fixed scores every legal cut of heads costs at least as much as one of equally many on these paths, where groups
    are of one size and lie apart in packed weights.

    Args:
        multiple: of a site of many units a multiple of it is left after each step.
    """
    if site.KIND.has_many_units:
        own = copy.copy(worth)
        return [_walked(own, _at_a_time(site, own, protected, multiple))]
    return [_path(site, copy.copy(worth), protected, lost) for lost in ways_of(site)]


def _path(site: Site, worth: Worth, protected: Heads, lost: Mapping[int, int]) -> Path:
    """Some query heads of every KV head in one step, then KV heads one by one; of others, unit by unit."""
    steps = _walked(worth, _one_by_one(site, worth, protected, lost))
    return steps[max(max(lost.values(), default=0) - 1, 0) :]


def _walked(worth: Worth, going: Iterable[Move]) -> Path:
    """The steps of some moves; the worth changes on the way."""
    gone: Heads = frozenset()
    total, steps = 0.0, []
    for move in going:
        total += worth.of(move)
        worth.remove(move)
        gone |= move
        steps.append(Step(gone, total / worth.whole))
    return tuple(steps)


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


def _one_by_one(site: Site, worth: Worth, protected: Heads, lost: Mapping[int, int]) -> Iterator[Move]:
    """Yield the move that costs least per unit, of those that are legal then; the first one among equals."""
    gone: Heads = frozenset()
    for number in itertools.count():
        moves = _moves(site, worth, protected, gone, {size for size, count in lost.items() if count > number})
        if not moves:
            return
        best = min(moves, key=lambda move: worth.of(move) / len(move))
        gone |= best
        yield best


def _moves(site: Site, worth: Worth, protected: Heads, gone: Heads, thinner: Collection[int]) -> list[Move]:
    """Sets of present units that may be removed next: never the last one, no protected one, and not too many.

    Args:
        thinner: the sizes of groups of which each loses a unit; empty to remove a group, or a unit outside of groups.
    """
    units = [unit for unit in map(frozenset, site.units) if not unit & (protected | gone)]
    groups = [frozenset(group) for group in site.groups]
    if thinner or (len(groups) > 1 and not site.may_lose_groups):
        some = [group for group in groups if group - gone and (len(group) in thinner or not thinner)]
        found = _one_of_each(some, units, worth.each())
    else:
        parts = groups if len(groups) > 1 else [frozenset((unit,)) for unit in groups[0]]
        left = [part - gone for part in parts if part - gone]
        found = [part for part in left if not part & protected] if len(left) > 1 else []
    if any(len(unit) > 1 for unit in units):
        # Units that a projection packs together go together, where that leaves the groups even.
        united_ = dict.fromkeys(frozenset(united(move, site.units)) for move in (*units, *found))
        found = [move for move in united_ if is_legal(site.groups, set(gone | move))]
    return [
        move
        for move in found
        if not move & (protected | gone) and site.why_too_few(tuple(gone | move)) is None
    ]


def _one_of_each(
    groups: Sequence[Heads], units: Sequence[Heads], each: Sequence[float] | Floats
) -> list[Move]:
    """The unit of every group that costs least; nothing where a group has none that may be removed."""
    own = [[unit for unit in units if unit & group] for group in groups]
    if not all(own):
        return []
    best = (
        min(some, key=lambda unit: (sum(each[one] for one in unit) / len(unit), min(unit))) for some in own
    )
    return [frozenset[int]().union(*best)]


def can_go_whole(site: Site) -> bool:
    """Return whether only a bias remains of a site without its units."""
    return not any(isinstance(bias_of(projection.node), Refusal) for projection in site.projections)
