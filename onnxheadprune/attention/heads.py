"""Head specs: which heads of which sites. Parsing, resolving against a model, GQA legality."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text

HeadSpec: TypeAlias = str | Path | Mapping[str, Iterable[int]] | Mapping[int, Iterable[int]]
MAX_UNITS = 12
"""Units of heads of which all unions are looked at for the nearest legal set."""
ALL = "*"
"""The key that means every site."""
MAX_HEAD = 9_999
"""The largest head and site index that a spec may name; the widest models have a few hundred heads."""
MAX_LISTED = 2**20
"""Heads that a spec may list."""
EXAMPLE = '"0:1,3 5:0-3 *:7"'


def parse_heads(spec: HeadSpec) -> dict[str, tuple[int, ...]]:
    """A spec as `{site key: heads}`; a key is an index, a name or "*".

    Args:
        spec: an inline spec ("0:1,3 encoder.layer.5:0-3 *:7"), the path of a JSON file
            `{"0": [1, 3]}`, or such a mapping.

    Raises:
        UsageError: if it does not parse, with the part that does not.
    """
    if isinstance(spec, Mapping):
        return _from_mapping(spec, "the head spec")
    text = str(spec).strip()
    if text.startswith("{"):
        return _from_json(text, "the head spec")
    if isinstance(spec, Path) or text.endswith(".json"):
        return _from_json(read_text(text, "the head spec file"), text)
    return _from_inline(text)


def _from_inline(text: str) -> dict[str, tuple[int, ...]]:
    parsed: dict[str, tuple[int, ...]] = {}
    tokens = text.split()
    if not tokens:
        raise UsageError(f"the head spec is empty; write for example {EXAMPLE}")
    for token in tokens:
        key, colon, numbers = token.rpartition(":")
        if not colon or not key or not numbers:
            raise UsageError(
                f"cannot read {_short(token)} in the head spec; write SITE:HEADS, for example {EXAMPLE}"
            )
        parsed[key] = _merge(parsed.get(key, ()), _numbers(numbers, token))
    return parsed


def _numbers(text: str, token: str) -> list[int]:
    heads: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"cannot read {_short(part)} in {_short(token)}: heads are numbers or ranges like 0-3"
            )
        if max(len(first), len(last)) > len(str(MAX_HEAD)):
            raise UsageError(f"cannot read {_short(part)}: heads are numbers up to {MAX_HEAD}")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"the range {_short(part)} in {_short(token)} runs backwards")
        heads += range(int(first), stop + 1)
        if len(heads) > MAX_LISTED:
            raise UsageError(f"the head spec lists more than {MAX_LISTED:,} heads")
    return heads


def _short(text: str) -> str:
    """A quoted part of a spec, cut off where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _from_json(text: str, where: str) -> dict[str, tuple[int, ...]]:
    try:
        data = parse_json(text)
    except NotJsonError as error:
        raise UsageError(f"{where} is {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f'{where} must hold an object like {{"0": [1, 3]}}')
    return _from_mapping(data, where)


def _from_mapping(
    data: Mapping[str, Iterable[int]] | Mapping[int, Iterable[int]], where: str
) -> dict[str, tuple[int, ...]]:
    parsed: dict[str, tuple[int, ...]] = {}
    for key, heads in data.items():
        listed = isinstance(heads, Iterable) and not isinstance(heads, str)
        numbers = list(itertools.islice(heads, MAX_LISTED + 1)) if listed else None
        if numbers is None or not all(_is_head(head) for head in numbers):
            raise UsageError(
                f"{where}: the heads of {_short(str(key))} must be a list of numbers from 0 to {MAX_HEAD}"
            )
        if len(numbers) > MAX_LISTED:
            raise UsageError(f"{where} lists more than {MAX_LISTED:,} heads")
        parsed[str(key)] = _merge(parsed.get(str(key), ()), [int(head) for head in numbers])
    return parsed


def _is_head(head: object) -> bool:
    return not isinstance(head, bool) and hasattr(head, "__index__") and 0 <= operator.index(head) <= MAX_HEAD


def _merge(known: Iterable[int], more: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*known, *more}))


def resolve_heads(spec: HeadSpec, sites: Sequence[AttentionSite]) -> dict[int, tuple[int, ...]]:
    """A spec as `{site index: heads}` for a model's sites; heads are indices of the original model.

    Raises:
        UsageError: if a site or head does not exist, or was removed before.
        RefusedError: if a site cannot lose heads, or the set is not legal for its KV groups.
    """
    if not sites:
        raise RefusedError("no attention site was found in this model, so there are no heads to remove")
    chosen: dict[int, set[int]] = {}
    for key, heads in parse_heads(spec).items():
        for site in sites_of_key(key, sites):
            for head in heads:
                if head >= site.original_num_heads:
                    raise UsageError(
                        f"site {site.index} ({site.name}) has no head {head}: its heads are"
                        f" 0-{site.original_num_heads - 1}"
                    )
                if head in site.removed:
                    raise UsageError(f"head {head} of site {site.index} ({site.name}) was removed before")
            chosen.setdefault(site.index, set()).update(heads)
    by_index = {site.index: site for site in sites}
    resolved = {index: tuple(sorted(heads)) for index, heads in sorted(chosen.items()) if heads}
    for index, heads in resolved.items():
        check_legal(by_index[index], heads)
    return resolved


def sites_of_key(key: str, sites: Sequence[AttentionSite]) -> list[AttentionSite]:
    """The sites that a key of a head spec means: all for "*", else one by its name, its index or a part of its name.

    Raises:
        UsageError: if there is none, or there are several.
    """
    if key == ALL:
        return list(sites)
    found = [site for site in sites if site.name == key]
    if not found and key.isdecimal() and len(key) <= len(str(MAX_HEAD)):
        found = [site for site in sites if site.index == int(key)]
    if not found:
        found = [site for site in sites if _is_part(key, site.name)]
    if not found:
        known = ", ".join(f"{site.index} ({site.name})" for site in sites[:6]) + (
            ", ..." if len(sites) > 6 else ""
        )
        raise UsageError(f"there is no site {_short(key)}; this model has {known}")
    if len(found) > 1:
        names = ", ".join(site.name for site in found[:4])
        raise UsageError(f"site {_short(key)} is ambiguous: {names}; use the full name or the index")
    return found


def _is_part(key: str, name: str) -> bool:
    """Whether `key` is a run of whole components of `name` ("encoder.layer.5" of "bert.encoder.layer.5.attention")."""
    return f".{key}." in f".{name}."


def check_legal(site: AttentionSite, heads: Iterable[int]) -> None:
    """Whether `heads` (original indices) may be removed from a site together.

    Every KV head that survives must keep equally many query heads, since the graph repeats KV heads
    a fixed number of times. Where it repeats some more often than others, that holds for each kind.

    Raises:
        RefusedError: with the reason, and the nearest legal sets.
    """
    gone = set(heads)
    if site.reason is not None:
        raise RefusedError(f"site {site.index} ({site.name}) cannot lose heads: {site.reason}")
    if len(gone) == site.num_heads:
        return
    groups, units = original_groups(site), _original_units(site)
    torn = [unit for unit in units if unit & gone and not unit <= gone]
    even = is_legal(groups, gone)
    if even and not torn:
        return
    if any(len(unit) > 1 for unit in units):
        nearest = _nearest_whole(units, groups, gone)
    else:
        touched = set[int]().union(*(group for group in groups if gone & set(group)))
        nearest = [option for option in nearest_legal(groups, gone) if is_legal(groups, option)] or [touched]
    options = " or ".join(map(_spell, nearest))
    who = f"heads {_spell(gone)} of site {site.index} ({site.name})"
    why = (
        f"leave its {site.kv_num_heads} KV heads with different numbers of query heads"
        f" (groups {', '.join(map(_spell, groups))})"
    )
    if torn:
        why = (
            "share blocks of its packed projection with heads that stay:"
            f" {' and '.join(map(_spell, torn))} only go together"
        )
    raise RefusedError(f"{who} {why}" + (f"; the nearest legal sets are {options}" if options else ""))


def _original_units(site: AttentionSite) -> list[set[int]]:
    """Heads that only go together, in indices of the original model."""
    return [set(site.original(unit)) for unit in site.units]


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
    fewest = min((len(heads ^ gone) for heads in legal), default=0)
    return sorted((heads for heads in legal if len(heads ^ gone) == fewest), key=sorted)[:3]


def original_groups(site: AttentionSite) -> tuple[tuple[int, ...], ...]:
    """The site's KV groups in indices of the original model."""
    return tuple(site.original(group) for group in site.groups)


def is_legal(groups: Sequence[Sequence[int]], gone: set[int]) -> bool:
    """Whether every group that survives keeps as many heads as the other ones of its size."""
    left = {(len(group), len(set(group) - gone)) for group in groups}
    surviving = [(size, count) for size, count in left if count]
    return bool(surviving) and len(surviving) == len({size for size, _ in surviving})


def nearest_legal(groups: Sequence[Sequence[int]], gone: set[int]) -> list[set[int]]:
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


def _spell(heads: Iterable[int]) -> str:
    return ",".join(str(head) for head in sorted(heads))
