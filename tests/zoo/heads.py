"""Which heads each case removes: a handful of legal sets, derived from the case's name."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.zoo.case import Case, Projection

HeadSet = list[list[int]]
_Choice = Callable[[Projection, random.Random], list[int]]
ALONE = 12
"""Largest number of attentions of a package's model that are also cut alone."""
TOGETHER = ("different", "half", "queries", "all-of-one")


def sets_of(case: Case) -> dict[str, HeadSet]:
    """The head sets of a case; of a package's, each attention also alone, so that one spoils no other."""
    if not case.package:
        return head_sets(case)
    cores = [index for index, projection in enumerate(case.projections) if projection.tied_to is None]
    alone = {f"only-{core}": _only(case, core) for core in cores[:ALONE]}
    joint = {name: heads for name, heads in head_sets(case).items() if name in TOGETHER}
    return {name: heads for name, heads in {**alone, **joint}.items() if any(heads)}


def _only(case: Case, core: int) -> HeadSet:
    """One key/value group of one attention core, or a query head where there is a single one."""
    projection = case.projections[core]
    ratio = projection.num_heads // projection.kv_num_heads if projection.kv_num_heads > 1 else 1
    group = random.Random(f"{case.name}/{core}").randrange(projection.num_heads // ratio)
    gone = list(range(group * ratio, (group + 1) * ratio))
    return [gone if core in (index, p.tied_to) else [] for index, p in enumerate(case.projections)]


def whole_sets(case: Case) -> dict[str, HeadSet]:
    """A set per projection that silences all of it, to see whether it matters at all."""
    return {
        f"whole-{index}": [
            list(range(p.num_heads)) if i == index else [] for i, p in enumerate(case.projections)
        ]
        for index in range(len(case.projections))
    }


def without(case: Case, dead: set[int]) -> Case:
    """The case without some of its projections; what was tied to one of them stands for itself."""
    left = [index for index in range(len(case.projections)) if index not in dead]
    tied = [case.projections[index].tied_to for index in left]
    kept = (
        replace(case.projections[index], tied_to=left.index(core) if core in left else None)
        for index, core in zip(left, tied, strict=True)
    )
    return replace(case, projections=tuple(kept))


def head_sets(case: Case) -> dict[str, HeadSet]:
    """Returns named head sets, each with one list of query heads per projection.

    ``same``, ``different``, ``one-left``, ``first-only`` and ``half`` remove whole groups (for
    multi-head and multi-query attention: heads). ``queries`` and ``mixed`` exist where groups are
    shared: the same number of query heads from every surviving group, at different positions.
    ``all-of-one`` removes every head of the last projection.
    """
    if not case.projections:
        return {}
    rng = random.Random(case.name)
    sets = {
        "same": _everywhere(case.projections, _fixed, rng),
        "different": _everywhere(case.projections, _one, rng),
        "one-left": _everywhere(case.projections, _all_but_one, rng),
        "first-only": _first_only(case.projections, rng),
        "half": _everywhere(case.projections, _half, rng),
    }
    if any(_is_grouped(projection) for projection in case.projections):
        sets["queries"] = _everywhere(case.projections, _queries, rng)
        sets["mixed"] = _everywhere(case.projections, _mixed, rng)
    sets["all-of-one"] = _all_of_last(case.projections)
    # With a single head there is nothing to remove but all of it.
    return {label: heads for label, heads in sets.items() if any(heads)}


def _everywhere(projections: Sequence[Projection], choose: _Choice, rng: random.Random) -> HeadSet:
    chosen: HeadSet = []
    for projection in projections:
        tied = projection.tied_to
        chosen.append(choose(projection, rng) if tied is None else list(chosen[tied]))
    return chosen


def _first_only(projections: Sequence[Projection], rng: random.Random) -> HeadSet:
    # The first projection may have a single head (PVT, Swin): take the first one that has more.
    first = next((i for i, p in enumerate(projections) if p.num_heads > 1), 0)
    chosen = _one(projections[first], rng)
    return [chosen if first in (i, p.tied_to) else [] for i, p in enumerate(projections)]


def _all_of_last(projections: Sequence[Projection]) -> HeadSet:
    last = len(projections) - 1
    core = projections[last].tied_to
    return [list(range(p.num_heads)) if i in (last, core) else [] for i, p in enumerate(projections)]


def _is_grouped(projection: Projection) -> bool:
    return 1 < projection.kv_num_heads < projection.num_heads


def _units(projection: Projection) -> list[list[int]]:
    """The smallest sets that may go alone: KV groups, or query heads where there is one KV head."""
    heads = range(projection.num_heads)
    if projection.kv_num_heads == 1:
        return [[h] for h in heads]
    ratio = projection.num_heads // projection.kv_num_heads
    return [list(heads[g * ratio : (g + 1) * ratio]) for g in range(projection.kv_num_heads)]


def _flat(units: Sequence[Sequence[int]]) -> list[int]:
    return sorted(h for unit in units for h in unit)


def _fixed(projection: Projection, _: random.Random) -> list[int]:
    units = _units(projection)
    return list(units[1]) if len(units) > 1 else []


def _one(projection: Projection, rng: random.Random) -> list[int]:
    units = _units(projection)
    return list(rng.choice(units)) if len(units) > 1 else []


def _all_but_one(projection: Projection, rng: random.Random) -> list[int]:
    units = _units(projection)
    return _flat(rng.sample(units, len(units) - 1))


def _half(projection: Projection, rng: random.Random) -> list[int]:
    units = _units(projection)
    return _flat(rng.sample(units, len(units) // 2))


def _queries(projection: Projection, rng: random.Random) -> list[int]:
    if not _is_grouped(projection):
        return _one(projection, rng)
    groups = _units(projection)
    start = rng.randrange(len(groups[0]))
    return sorted(group[(start + g) % len(group)] for g, group in enumerate(groups))


def _mixed(projection: Projection, rng: random.Random) -> list[int]:
    if not _is_grouped(projection):
        return _half(projection, rng)
    groups = _units(projection)
    gone = rng.randrange(len(groups))
    removed = list(groups[gone])
    removed += [rng.choice(group) for g, group in enumerate(groups) if g != gone]
    return sorted(removed)
