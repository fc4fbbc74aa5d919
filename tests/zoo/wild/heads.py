"""Head sets of a wild case: each projection alone, so that one unfound site spoils no other, and all together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tests.zoo.case import Case, Projection
from tests.zoo.heads import HeadSet, head_sets

ALONE = 12
"""Largest number of projections that are also cut alone."""
TOGETHER = ("different", "half", "queries", "all-of-one")


def wild_sets(case: Case) -> dict[str, HeadSet]:
    """Returns named head sets, each with one list of query heads per projection."""
    chosen = _cores(case.projections)
    alone = {f"only-{core}": _only(case, core) for core in chosen[:ALONE]}
    joint = {name: heads for name, heads in head_sets(case).items() if name in TOGETHER}
    return {name: heads for name, heads in {**alone, **joint}.items() if any(heads)}


def _cores(projections: Sequence[Projection]) -> list[int]:
    return [index for index, projection in enumerate(projections) if projection.tied_to is None]


def _only(case: Case, core: int) -> HeadSet:
    """One key/value group of one attention core, or a query head where there is a single one."""
    projection = case.projections[core]
    ratio = projection.num_heads // projection.kv_num_heads if projection.kv_num_heads > 1 else 1
    group = random.Random(f"{case.name}/{core}").randrange(projection.num_heads // ratio)
    gone = list(range(group * ratio, (group + 1) * ratio))
    return [gone if core in (index, p.tied_to) else [] for index, p in enumerate(case.projections)]


def whole_sets(case: Case) -> dict[str, HeadSet]:
    """Returns a set per projection that silences all of it, to see whether it matters at all."""
    projections = case.projections
    return {
        f"whole-{index}": [list(range(p.num_heads)) if i == index else [] for i, p in enumerate(projections)]
        for index in range(len(projections))
    }


def without(case: Case, dead: set[int]) -> Case:
    """Returns the case without some of its projections; what was tied to one of them stands for itself."""
    left = [index for index in range(len(case.projections)) if index not in dead]
    kept = []
    for index in left:
        projection = case.projections[index]
        tied = projection.tied_to
        kept.append(replace(projection, tied_to=left.index(tied) if tied in left else None))
    return replace(case, projections=tuple(kept))
