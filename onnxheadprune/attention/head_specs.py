"""Specs: which heads or other units of which sites. Parsing, and resolving against a model."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from onnxheadprune.attention.legal_cuts import check_legal
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.kinds import kind_of_key
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import json_of, read_text
from onnxheadprune.model.spelling import spelled

HeadSpec: TypeAlias = (
    str | Path | Mapping[str, Iterable[int]] | Mapping[str, Iterable[int] | str] | Mapping[int, Iterable[int]]
)
MAX_NAMED = 6
"""Sites that a sentence lists with their names."""
ALL = "*"
"""The key that means every site."""
MAX_HEAD = 9_999
"""The largest head and site index that a spec may name; the widest models have a few hundred heads."""
MAX_LISTED = 2**20
"""Units that a spec may list."""
MAX_UNIT = MAX_LISTED - 1
"""The largest unit of another kind that a spec may name; the widest feed-forward blocks have some fifty thousand."""
EXAMPLE = '"0:1,3 5:0-3 *:7"'


def parse_heads(spec: HeadSpec) -> dict[str, tuple[int, ...]]:
    """A spec as `{site key: heads}`; a key is an index, a name or "*".

    Args:
        spec: an inline spec ("0:1,3 encoder.layer.5:0-3 *:7"), the path of a JSON file
            `{"0": [1, 3]}`, or such a mapping.
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
            kind = kind_of_key(token) or AttentionSite
            raise UsageError(
                f"cannot read {_short(token)} in the {kind.UNIT} spec; write {kind.BLOCK.upper()}:{kind.UNITS.upper()},"
                f" for example {EXAMPLE}"
            )
        parsed[key] = _merge(parsed.get(key, ()), _numbers(numbers, token, key))
    return parsed


def most_units(key: str) -> int:
    """The largest number of a unit that a key may go with."""
    return MAX_HEAD if kind_of_key(key) is None else MAX_UNIT


def _numbers(text: str, token: str, key: str) -> list[int]:
    most, units = most_units(key), _units(key)
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"cannot read {_short(part)} in {_short(token)}: {units} are numbers or ranges like 0-3"
            )
        if max(len(first), len(last)) > len(str(most)):
            raise UsageError(f"cannot read {_short(part)}: {units} are numbers up to {most}")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"the range {_short(part)} in {_short(token)} runs backwards")
        found += range(int(first), stop + 1)
        if len(found) > MAX_LISTED:
            raise UsageError(f"the spec lists more than {MAX_LISTED:,} {units}")
    return found


def _units(key: str) -> str:
    """The name of the units of the site that a key names."""
    return (kind_of_key(key) or AttentionSite).UNITS


def _short(text: str) -> str:
    """A quoted part of a spec, cut off where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _from_json(text: str, where: str) -> dict[str, tuple[int, ...]]:
    data = json_of(text, where, once=True)
    if not isinstance(data, dict):
        raise UsageError(f'{where} must hold an object like {{"0": [1, 3]}}')
    return _from_mapping(data, where)


def _from_mapping(
    data: Mapping[str, Iterable[int]] | Mapping[str, Iterable[int] | str] | Mapping[int, Iterable[int]],
    where: str,
) -> dict[str, tuple[int, ...]]:
    parsed: dict[str, tuple[int, ...]] = {}
    for key, heads in data.items():
        listed = isinstance(heads, Iterable) and not isinstance(heads, str)
        numbers: list[Any] | None = list(itertools.islice(heads, MAX_LISTED + 1)) if listed else None
        most = most_units(str(key))
        if numbers is None or not all(_is_unit(head, most) for head in numbers):
            raise UsageError(
                f"{where}: the {_units(str(key))} of {_short(str(key))} must be a list of numbers from 0 to {most}"
            )
        if len(numbers) > MAX_LISTED:
            raise UsageError(f"{where} lists more than {MAX_LISTED:,} {_units(str(key))}")
        parsed[str(key)] = _merge(parsed.get(str(key), ()), [operator.index(head) for head in numbers])
    return parsed


def _is_unit(number: object, most: int) -> bool:
    return (
        not isinstance(number, bool) and hasattr(number, "__index__") and 0 <= operator.index(number) <= most
    )


def _merge(known: Iterable[int], more: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*known, *more}))


def resolved(parsed: Mapping[str, Iterable[int]], sites: Sequence[Site]) -> dict[int, tuple[int, ...]]:
    """Units (of the original) per site index, which exist and may go together.

    Args:
        parsed: units per key: an index, a name, a part of one, or "*".
    """
    chosen: dict[int, set[int]] = {}
    for key, units in parsed.items():
        for site in sites_of_key(key, sites):
            for unit in units:
                if unit >= site.original_num_units:
                    raise UsageError(
                        f"{site.label} has no {site.UNIT} {unit}: its {site.UNIT}s are"
                        f" 0-{site.original_num_units - 1}{site.elsewhere}"
                    )
            before = set(units) & set(site.removed)
            if before:
                raise UsageError(f"{site.UNIT} {min(before)} of {site.label} was removed before")
            chosen.setdefault(site.index, set()).update(units)
    by_index = {site.index: site for site in sites}
    resolved = {index: tuple(sorted(units)) for index, units in sorted(chosen.items()) if units}
    for index, units in resolved.items():
        check_legal(by_index[index], units)
    return resolved


def sites_of_key(key: str, sites: Sequence[Site]) -> list[Site]:
    """The sites that a key names."""
    if key == ALL:
        return list(sites)
    found = [site for site in sites if site.name == key or site.key == f"{site.KEY}{key}"]
    if not found and key.isdecimal() and len(key) < 8:
        found = [site for site in sites if site.number == int(key)]
    if not found:
        # Whole components of a name: "encoder.layer.5" of "bert.encoder.layer.5.attention".
        found = [site for site in sites if f".{key}." in f".{site.name}."]
    if not found:
        raise UsageError(f"there is no {sites[0].BLOCK} {_short(key)}; this model has {listed(sites)}")
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
