"""Specs: which units of which sites go. Parsing, resolving against a model, and whether they may go together.

A key names a site: "3" or "attn.3" an attention site, "ffn.3" a feed-forward block, as its kind has it, "layer.3" a
layer, or "layer.encoder.3" where a model has several stacks of them; so does a name, or a part of one. "*" is all sites
as a key, and all units in the place of numbers: nothing of a block is left but its bias, and nothing of a layer.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.display.spelling import spelled
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import json_of, read_text
from onnxheadprune.settings.units import HEAD, KINDS, LAYER, UnitKind, kind_of_key, with_parts

HeadSpec: TypeAlias = (
    str | Path | Mapping[str, Iterable[int]] | Mapping[str, Iterable[int] | str] | Mapping[int, Iterable[int]]
)
MAX_NAMED = 6
"""Sites that a sentence lists with their names."""
ALL = "*"
"""Every site as a key, every unit in the place of numbers."""
MAX_LISTED = 2**20
"""Units that a spec may list; the widest feed-forward blocks have some fifty thousand."""
MAX_UNIT = MAX_LISTED - 1
"""The largest number of a unit that it may name."""
EXAMPLE = '"0:1,3 5:0-3 *:7"'
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_NAME = re.compile(r"[^:,*=]*[./][^:,*=]*|\w+_\d+")
"""A module path, as `inspect` prints it."""


# Parsing


def parsed(spec: HeadSpec, kind: UnitKind = HEAD) -> dict[str, tuple[int, ...] | None]:
    """A spec as `{key: units}`, None for all units of a site.

    Args:
        spec: an inline spec ("0:1,3 encoder.layer.5:0-3 ffn.2:*"), the path of a JSON file
            `{"0": [1, 3], "ffn.2": "*"}`, or such a mapping.
        kind: the kind of sites whose keys need not begin as that kind has them.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    for key, units in _items(spec, kind):
        full = key if key.startswith(kind.key) else f"{kind.key}{key}"
        known = found.get(full, ())
        found[full] = None if units is None or known is None else tuple(sorted({*known, *units}))
    return found


def _items(spec: HeadSpec, kind: UnitKind) -> Iterator[tuple[str, Sequence[int] | None]]:
    """Yield keys as they are written, with their units."""
    what = f"the {kind.unit} spec"
    if isinstance(spec, Mapping):
        yield from _of_mapping(spec, what, kind)
        return
    text = str(spec).strip()
    if not text:
        raise UsageError(f"{what} is empty; write for example {EXAMPLE}")
    is_file = isinstance(spec, Path) or text.endswith(".json")
    if not is_file and not text.startswith("{"):
        yield from (_of_token(token, kind) for token in text.split())
        return
    where = text if is_file else what
    content = json_of(read_text(text, f"{what} file") if is_file else text, where, once=True)
    if not isinstance(content, dict):
        raise UsageError(f'{where} must hold an object like {{"0": [1, 3]}}')
    yield from _of_mapping(content, where, kind)


def _of_token(token: str, kind: UnitKind) -> tuple[str, Sequence[int] | None]:
    key, colon, numbers = token.rpartition(":")
    if not colon or not key or not numbers:
        kind = kind_of_key(token) or kind
        raise UsageError(
            f"cannot read {_short(token)} in the {kind.unit} spec; write {kind.block.upper()}:{kind.units.upper()},"
            f" for example {EXAMPLE}"
        )
    if numbers == ALL:
        return key, None
    kind = kind_of_key(key) or kind
    found: list[int] = []
    for part in numbers.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"cannot read {_short(part)} in {_short(token)}: {kind.units} are numbers or ranges like 0-3"
            )
        if max(len(first), len(last)) > len(str(MAX_UNIT)):
            raise UsageError(f"cannot read {_short(part)}: {kind.units} are numbers up to {MAX_UNIT}")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"the range {_short(part)} in {_short(token)} runs backwards")
        found += range(int(first), stop + 1)
        if len(found) > MAX_LISTED:
            raise UsageError(f"the spec lists more than {MAX_LISTED:,} {kind.units}")
    return key, found


def _of_mapping(
    content: Mapping[Any, Any], where: str, kind: UnitKind
) -> Iterator[tuple[str, Sequence[int] | None]]:
    for key, units in ((str(key), units) for key, units in content.items()):
        if isinstance(units, str) and units == ALL:
            yield key, None
            continue
        own = kind_of_key(key) or kind
        listed = isinstance(units, Iterable) and not isinstance(units, str)
        numbers: list[Any] = list(itertools.islice(units, MAX_LISTED + 1)) if listed else [None]
        if not all(
            not isinstance(number, bool)
            and hasattr(number, "__index__")
            and 0 <= operator.index(number) <= MAX_UNIT
            for number in numbers
        ):
            raise UsageError(
                f"{where}: the {own.units} of {_short(key)} must be a list of numbers from 0 to {MAX_UNIT}"
            )
        if len(numbers) > MAX_LISTED:
            raise UsageError(f"{where} lists more than {MAX_LISTED:,} {own.units}")
        yield key, [operator.index(number) for number in numbers]


def _short(text: str) -> str:
    """A quoted part of a spec, cut off where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def combined(
    heads: HeadSpec | None, others: Mapping[str, HeadSpec | None], layers: str | None
) -> HeadSpec | None:
    """One spec of what a command line says in several; None where it names nothing.

    Args:
        others: the same for other kinds, by what they call their units.
        layers: layers and blocks that are removed as a whole: "3 5-7 attn.9 ffn.4".
    """
    given = {units: spec for units, spec in others.items() if spec is not None}
    if not given and layers is None:
        return heads
    spec = {} if heads is None else parsed(heads)
    for kind in KINDS[1:]:
        if kind.units in given:
            spec |= parsed(given[kind.units], kind)
    spec |= {} if layers is None else dict.fromkeys(_whole_layers(layers))
    return {key: ALL if units is None else units for key, units in spec.items()}


def _whole_layers(text: str) -> Iterator[str]:
    """The keys of what is removed as a whole: names hold no comma, so it separates them as spaces do."""
    tokens = text.replace(",", " ").split()
    if not tokens:
        raise UsageError('no layer is named; name layers and blocks like "3 5-7 encoder.2 attn.9 ffn.4"')
    for token in tokens:
        stack, dot, numbers = token.rpartition(".")
        found = _RANGE.fullmatch(numbers)
        if token.startswith(HEAD.prefix) or kind_of_key(token) is not None:
            yield token
        elif found is not None:
            first, last = found.groups()
            for number in range(int(first), int(last or first) + 1):
                yield f"{LAYER.key}{stack}{dot}{number}"
        elif _NAME.fullmatch(token):
            yield f"{LAYER.key}{token}"
        else:
            raise UsageError(
                f'cannot read {token[:60]!r}: name layers and blocks like "3 5-7 encoder.2 attn.9 ffn.4"'
            )


# Resolving


def resolve_units(spec: HeadSpec, sites: Sites) -> dict[int, tuple[int, ...]]:
    """A spec as `{site index: units}` for the sites of all kinds; units are indices of the original model."""
    named: dict[UnitKind, dict[str, tuple[int, ...]]] = {}
    # What goes as a whole goes, whatever else is named of it.
    for key, units in sorted(parsed(spec).items(), key=lambda item: item[1] is None):
        kind, own = _kind_and_site(key)
        if units is not None:
            named.setdefault(kind, {})[own] = units
        for site in _whole_sites(kind, own, sites) if units is None else ():
            named.setdefault(site.KIND, {})[str(site.number)] = site.original(range(site.num_units))
    chosen: dict[int, tuple[int, ...]] = {}
    for kind, specs in named.items():
        chosen |= resolved(specs, _some(kind, sites))
    return dict(sorted(chosen.items()))


def kinds_named(spec: HeadSpec) -> tuple[UnitKind, ...]:
    """The kinds of the sites that a spec names."""
    return with_parts({_kind_and_site(key)[0] for key in parsed(spec)})


def names_all(spec: HeadSpec) -> bool:
    """Return whether a spec names heads of all attention sites."""
    return parsed(spec).get(ALL) is not None


def _kind_and_site(key: str) -> tuple[UnitKind, str]:
    """The kind that a key names, and the site of that kind."""
    kind = kind_of_key(key)
    return (HEAD, key.removeprefix(HEAD.prefix)) if kind is None else (kind, key.removeprefix(kind.key))


def _whole_sites(kind: UnitKind, own: str, sites: Sites) -> Iterable[Site]:
    """The sites that a key names of which everything goes."""
    if not any(own in (site.name, site.key.removeprefix(kind.key)) for site in sites.of(kind.units)):
        # A block may be named by its module alone.
        named = [site for site in sites.every if site.name == own]
        if named:
            return named
    return sites_of_key(own, _some(kind, sites))


def _some(kind: UnitKind, sites: Sites) -> tuple[Site, ...]:
    """The sites of one kind."""
    found = sites.of(kind.units)
    if not found:
        find = sites.others.get(kind)
        near = next(iter(sites.near_misses if find is None else find().near_misses), None)
        hint = "" if near is None else f"; {near.node} comes near: {near.reason.sentence}"
        raise RefusedError(
            f"no {kind.title} was found in this model, so there are no {kind.units} to remove{hint}"
        )
    return found


def resolved(named: Mapping[str, Iterable[int]], sites: Sequence[Site]) -> dict[int, tuple[int, ...]]:
    """Units (of the original) per site index, which exist and may go together.

    Args:
        named: units per key: an index, a name, a part of one, or "*".
        sites: of one kind.
    """
    chosen: dict[int, set[int]] = {}
    for key, units in named.items():
        for site in sites_of_key(key, sites):
            for unit in units:
                if unit >= site.original_num_units:
                    raise UsageError(
                        f"{site.label} has no {site.KIND.unit} {unit}: its {site.KIND.unit}s are"
                        f" 0-{site.original_num_units - 1}"
                    )
            before = set(units) & set(site.removed)
            if before:
                raise UsageError(f"{site.KIND.unit} {min(before)} of {site.label} was removed before")
            chosen.setdefault(site.index, set()).update(units)
    by_index = {site.index: site for site in sites}
    found = {index: tuple(sorted(units)) for index, units in sorted(chosen.items()) if units}
    for index, units in found.items():
        check_legal(by_index[index], units)
    return found


def sites_of_key(key: str, sites: Sequence[Site]) -> list[Site]:
    """The sites that a key names."""
    if key == ALL:
        return list(sites)
    found = [site for site in sites if site.name == key or site.key == f"{site.KIND.key}{key}"]
    if not found and key.isdecimal() and len(key) < 8:
        found = [site for site in sites if site.number == int(key)]
    if not found:
        # Whole components of a name: "encoder.layer.5" of "bert.encoder.layer.5.attention".
        found = [site for site in sites if f".{key}." in f".{site.name}."]
    if not found:
        raise UsageError(f"there is no {sites[0].KIND.block} {_short(key)}; this model has {listed(sites)}")
    if len(found) > 1:
        raise UsageError(f"{_short(key)} is ambiguous: {listed(found)}; use the full name or the number")
    return found


def listed(sites: Sequence[Site]) -> str:
    """Return sites by their keys: a few with their names, many in ranges ("attn.0-23, ffn.0-23")."""
    if len(sites) <= MAX_NAMED:
        return ", ".join(site.label for site in sites)
    numbers: dict[str, list[int]] = {}
    for site in sites:
        stack, _, number = site.tag.rpartition(".")
        numbers.setdefault(stack, []).append(int(number))
    return ", ".join(f"{stack}.{spelled(own)}" for stack, own in numbers.items())


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
        raise RefusedError(f"{site.label} cannot lose {site.KIND.unit}s: {site.reason}")
    few = site.why_too_few(site.present(sorted(gone)))
    if few is not None:
        raise RefusedError(f"{site.label} cannot lose {site.KIND.unit}s {_spell(gone)}: {few}")
    if all_go:
        return
    groups, whole = original_groups(site), [set(site.original(unit)) for unit in site.units]
    torn = [unit for unit in whole if unit & gone and not unit <= gone]
    if not torn and _is_even(site, groups, gone):
        return
    nearest = _nearest(site, groups, whole, gone)
    options = " or ".join(map(_spell, nearest))
    who = f"{site.KIND.unit}s {_spell(gone)} of {site.label}"
    why = site.uneven()
    if torn:
        packed = (item for item in site.projections if any(len(some) > 1 for some in item.packed_together()))
        parts = next((item.shared_parts for item in packed), "a layer")
        why = f"share {parts} with {site.KIND.unit}s that stay: {' and '.join(map(_spell, torn[:4]))} only go together"
    raise RefusedError(f"{who} {why}" + (f"; the nearest legal sets are {options}" if options else ""))


def _is_even(site: Site, groups: Sequence[Sequence[int]], gone: set[int]) -> bool:
    return is_legal(groups, gone) and (site.may_lose_groups or not any(gone >= {*group} for group in groups))


def _nearest(
    site: Site, groups: Sequence[Sequence[int]], units: Sequence[set[int]], gone: set[int]
) -> list[set[int]]:
    """The smallest legal set that contains `gone`, and the largest in it: groups that stay keep equally many units."""
    owned = [[unit for unit in units if min(unit) in group] for group in map(set, groups)]
    found: list[set[int]] = []
    for inside in (False, True):
        asked = [[unit for unit in own if (unit <= gone if inside else unit & gone)] for own in owned]
        sets = []
        for kept in range(1, max(map(len, owned)) + 1):
            chosen = set[int]()
            for own, wanted in zip(owned, asked, strict=True):
                lost, others = max(len(own) - kept, 0), [unit for unit in own if unit not in wanted]
                if inside:
                    some = wanted[:lost] if others else own
                else:
                    some = own if lost < len(wanted) else [*wanted, *others][:lost]
                chosen.update(*some)
            sets.append(chosen)
        legal = [
            chosen for chosen in sets if chosen and chosen not in found and _is_even(site, groups, chosen)
        ]
        found += sorted(legal, key=lambda chosen: len(chosen ^ gone))[:1]
    return found


def original_groups(site: Site) -> tuple[tuple[int, ...], ...]:
    """The site's groups (KV groups of heads) in indices of the original model."""
    return tuple(site.original(group) for group in site.groups)


def is_legal(groups: Sequence[Sequence[int]], gone: set[int]) -> bool:
    """Return whether every group that survives keeps as many heads as the other ones of its size."""
    left = {(len(group), len(set(group) - gone)) for group in groups}
    surviving = [(size, count) for size, count in left if count]
    return bool(surviving) and len(surviving) == len({size for size, _ in surviving})


def _spell(units: Iterable[int]) -> str:
    """Heads one by one; of other units there are too many for that."""
    listed = sorted(units)
    return ",".join(map(str, listed)) if len(listed) <= MAX_SPELLED else spelled(listed)
