"""Units of a site that may be removed together: existing ones, packed ones as a whole, equally many of each group."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.spelling import spelled

MAX_UNITS = 12
"""Units of heads of which all unions are looked at for the nearest legal set."""
MAX_SPELLED = 64
"""Units that are named one by one in a sentence."""


def check_legal(site: Site, units: Iterable[int]) -> None:
    """Check whether `units` (original indices) may be removed from a site together.

    Every KV head that survives must keep equally many query heads, since the graph repeats KV heads
    a fixed number of times. Where it repeats some more often than others, that holds for each kind.
    """
    gone = set(units)
    all_go = len(gone) == site.num_units
    if site.reason is not None and not (all_go and site.removable_whole):
        raise RefusedError(f"{site.label} cannot lose {site.UNIT}s: {site.reason}")
    few = site.why_too_few(site.present(sorted(gone)))
    if few is not None:
        raise RefusedError(f"{site.label} cannot lose {site.UNIT}s {_spell(gone)}: {few}")
    if all_go:
        return
    groups, whole = original_groups(site), [set(site.original(unit)) for unit in site.units]
    torn = [unit for unit in whole if unit & gone and not unit <= gone]
    even = is_legal(groups, gone) and (site.may_lose_groups or not any(gone >= {*group} for group in groups))
    if even and not torn:
        return
    if not site.may_lose_groups:
        nearest = _nearest_even(groups, whole, gone)
    elif any(len(unit) > 1 for unit in whole):
        nearest = _nearest_whole(whole, groups, gone)
    else:
        touched = set[int]().union(*(group for group in groups if gone & set(group)))
        nearest = [option for option in _nearest_legal(groups, gone) if is_legal(groups, option)] or [touched]
    options = " or ".join(map(_spell, nearest))
    who = f"{site.UNIT}s {_spell(gone)} of {site.label}"
    why = site.uneven()
    if torn:
        packed = (item for item in site.projections if any(len(some) > 1 for some in item.packed_together()))
        parts = next((item.shared_parts for item in packed), "a layer")
        why = f"share {parts} with {site.UNIT}s that stay: {' and '.join(map(_spell, torn[:4]))} only go together"
    raise RefusedError(f"{who} {why}" + (f"; the nearest legal sets are {options}" if options else ""))


def _nearest_whole(
    units: Sequence[set[int]], groups: Sequence[Sequence[int]], gone: set[int]
) -> list[set[int]]:
    """Legal sets of whole units that differ in the fewest heads, three at most."""
    near = [unit for unit in units if unit & gone] if len(units) > MAX_UNITS else units
    sets = [
        set[int]().union(*chosen)
        for count in range(1, min(len(near), MAX_UNITS) + 1)
        for chosen in itertools.combinations(near[:MAX_UNITS], count)
    ]
    legal = [heads for heads in sets if is_legal(groups, heads)]
    differing = [len(heads.symmetric_difference(gone)) for heads in legal]
    nearest = [heads for heads, count in zip(legal, differing, strict=True) if count == min(differing)]
    return sorted(nearest, key=sorted)[:3]


def _nearest_even(
    groups: Sequence[Sequence[int]], units: Sequence[set[int]], gone: set[int]
) -> list[set[int]]:
    """The smallest set that contains `gone` and the largest in it, if every group loses equally many, and none all."""
    owner = {unit: number for number, group in enumerate(groups) for unit in group}
    own: list[list[set[int]]] = [[] for _ in groups]
    for unit in units:
        own[owner[min(unit)]].append(unit)
    found = []
    for inside in (False, True):
        # Those that are asked for come first; what is added to them is what other groups lose.
        asked = [[unit for unit in mine if (unit <= gone if inside else unit & gone)] for mine in own]
        counts = [len(mine) for mine in asked]
        most = min(counts) if inside else min(max(counts), min(map(len, own)) - 1)
        if not most:
            continue
        sets = [
            [*wanted, *(unit for unit in mine if unit not in wanted)][:most]
            for wanted, mine in zip(asked, own, strict=True)
        ]
        chosen = set[int]().union(*(unit for mine in sets for unit in mine))
        if is_legal(groups, chosen) and chosen not in found:
            found.append(chosen)
    return found


def original_groups(site: Site) -> tuple[tuple[int, ...], ...]:
    """The site's groups (KV groups of heads) in indices of the original model."""
    return tuple(site.original(group) for group in site.groups)


def is_legal(groups: Sequence[Sequence[int]], gone: set[int]) -> bool:
    """Return whether every group that survives keeps as many heads as the other ones of its size."""
    left = {(len(group), len(set(group) - gone)) for group in groups}
    surviving = [(size, count) for size, count in left if count]
    return bool(surviving) and len(surviving) == len({size for size, _ in surviving})


def _nearest_legal(groups: Sequence[Sequence[int]], gone: set[int]) -> list[set[int]]:
    """The smallest legal set that contains `gone`, and the largest that `gone` contains."""
    left = [set(group) - gone for group in groups]
    supersets = []
    for count in range(1, max(len(group) for group in left) + 1):
        extra = set(gone)
        for members in left:
            extra |= members if len(members) < count else set(sorted(members)[: len(members) - count])
        if any(set(group) - extra for group in groups):
            supersets.append(extra)
    most = max(len(members) for members in left)
    subset = set(gone)
    for group, members in zip(groups, left, strict=True):
        missing = most - len(members)
        if members and missing:
            subset -= set(sorted(set(group) & gone)[:missing])
    options = [min(supersets, key=len)] if supersets else []
    if subset and subset not in options:
        options.append(subset)
    return options


def _spell(units: Iterable[int]) -> str:
    """Heads one by one; of other units there are too many for that."""
    listed = sorted(units)
    return ",".join(map(str, listed)) if len(listed) <= MAX_SPELLED else spelled(listed)
