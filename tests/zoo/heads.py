"""Which heads each case removes: a handful of legal sets, derived from the case's name."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.zoo.case import Case, HeadSet, Projection

ALONE = 12
"""Largest number of attentions of a package's model that are also cut alone."""
TOGETHER = ("different", "half", "queries", "all-of-one")


def sets_of(case: Case) -> dict[str, HeadSet]:
    """Return the head sets of a case; of a package's, each attention also alone, so that one spoils no other."""
    if not case.package:
        return head_sets(case)
    cores = [index for index, projection in enumerate(case.projections) if projection.tied_to is None]
    alone = {f"only-{core}": _of_core(case, core, _drawn(case, core)) for core in cores[:ALONE]}
    return alone | {name: heads for name, heads in head_sets(case).items() if name in TOGETHER}


def _drawn(case: Case, core: int) -> list[int]:
    groups = case.projections[core].groups
    return groups[random.Random(f"{case.name}/{core}").randrange(len(groups))]


def _of_core(case: Case, core: int, gone: list[int]) -> HeadSet:
    """Return heads of one attention core, for all projections that read it."""
    return [gone if core in (index, item.tied_to) else [] for index, item in enumerate(case.projections)]


def whole_sets(case: Case) -> list[HeadSet]:
    """Return a set per projection that silences all of it alone, to see whether it matters at all."""
    places = range(len(case.projections))
    return [
        [list(range(case.projections[i].num_heads)) if i == own else [] for i in places] for own in places
    ]


def without(case: Case, dead: set[int]) -> Case:
    """Return the case without some of its projections; what was tied to one of them stands for itself."""
    left = [index for index in range(len(case.projections)) if index not in dead]
    places = {index: place for place, index in enumerate(left)}
    items = [case.projections[index] for index in left]
    kept = (
        replace(item, tied_to=None if item.tied_to is None else places.get(item.tied_to)) for item in items
    )
    return replace(case, projections=tuple(kept))


def head_sets(case: Case) -> dict[str, HeadSet]:
    """Return named head sets, each with one list of query heads per projection.

    ``same``, ``different``, ``one-left``, ``first-only`` and ``half`` remove whole groups (for
    multi-head and multi-query attention: heads). ``queries`` and ``mixed`` exist where groups are
    shared: the same number of query heads from every surviving group, at different positions.
    ``all-of-one`` removes every head of the last projection.
    """
    projections, rng = case.projections, random.Random(case.name)
    if not projections:
        return {}
    sets = {name: _everywhere(projections, choose, rng) for name, choose in _CHOICES[:3]}
    # The first projection may have a single head (PVT, Swin): take the first one that has more.
    first = next((i for i, p in enumerate(projections) if p.num_heads > 1), 0)
    sets["first-only"] = _of_core(case, first, _one(projections[first], rng))
    later = _CHOICES[3:] if any(_is_grouped(projection) for projection in projections) else _CHOICES[3:4]
    sets |= {name: _everywhere(projections, choose, rng) for name, choose in later}
    last = len(projections) - 1
    core = projections[last].tied_to
    sets["all-of-one"] = [
        list(range(p.num_heads)) if i in (last, core) else [] for i, p in enumerate(projections)
    ]
    # With a single head there is nothing to remove but all of it.
    return {label: heads for label, heads in sets.items() if any(heads)}


_Choice = Callable[[Projection, random.Random], list[int]]


def _everywhere(projections: Sequence[Projection], choose: _Choice, rng: random.Random) -> HeadSet:
    chosen: list[list[int]] = []
    for projection in projections:
        tied = projection.tied_to
        chosen.append(choose(projection, rng) if tied is None else list(chosen[tied]))
    return chosen


def _is_grouped(projection: Projection) -> bool:
    return 1 < projection.kv_num_heads < projection.num_heads


def _second(projection: Projection, _: random.Random) -> list[int]:
    return [head for group in projection.groups[1:2] for head in group]


def _one(projection: Projection, rng: random.Random) -> list[int]:
    return list(rng.choice(projection.groups)) if len(projection.groups) > 1 else []


def _sample(projection: Projection, rng: random.Random, count: int) -> list[int]:
    return sorted(head for group in rng.sample(projection.groups, count) for head in group)


def _all_but_one(projection: Projection, rng: random.Random) -> list[int]:
    return _sample(projection, rng, len(projection.groups) - 1)


def _half(projection: Projection, rng: random.Random) -> list[int]:
    return _sample(projection, rng, len(projection.groups) // 2)


def _queries(projection: Projection, rng: random.Random) -> list[int]:
    if not _is_grouped(projection):
        return _one(projection, rng)
    start = rng.randrange(len(projection.groups[0]))
    return sorted(group[(start + g) % len(group)] for g, group in enumerate(projection.groups))


def _mixed(projection: Projection, rng: random.Random) -> list[int]:
    if not _is_grouped(projection):
        return _half(projection, rng)
    gone = rng.randrange(len(projection.groups))
    others = [group for g, group in enumerate(projection.groups) if g != gone]
    return sorted([*projection.groups[gone], *map(rng.choice, others)])


_CHOICES: Sequence[tuple[str, _Choice]] = (
    *(("same", _second), ("different", _one), ("one-left", _all_but_one)),
    *(("half", _half), ("queries", _queries), ("mixed", _mixed)),
)
