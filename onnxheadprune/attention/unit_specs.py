"""Specs of units of all kinds, and of whole attentions, feed-forward blocks and layers.

A spec is a head spec with more keys. "attn.3" is an attention site like plain "3", "ffn.3" a feed-forward block, as
its kind has it, and "layer.3" a layer, or "layer.encoder.3" where a model has several stacks of them. "*" in the
place of numbers means all units: nothing of a block is left but its bias, and nothing of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from onnxheadprune.attention.head_specs import ALL, EXAMPLE, HeadSpec, parse_heads, resolved, sites_of_key
from onnxheadprune.attention.sites import kinds
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.kinds import kind_of_key
from onnxheadprune.attention.sites.layer_site import LayerSite
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.site_cuts import HEADS_KEY
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import json_of, read_text

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def resolve_units(spec: HeadSpec, sites: Sites) -> dict[int, tuple[int, ...]]:
    """A spec as `{site index: units}` for the sites of all kinds; units are indices of the original model.

    Args:
        spec: see the module; names work as keys, too (after what the keys of a kind begin with).
    """
    partly, whole = _apart(spec)
    named: dict[type[Site], dict[str, tuple[int, ...]]] = {}
    for key, gone in partly.items():
        kind, own = _apart_from_kind(key)
        named.setdefault(kind, {})[own] = gone
    for site in (site for key in whole for site in _whole_sites(key, sites)):
        named.setdefault(kinds.kind_of(site), {})[str(site.number)] = site.original(range(site.num_units))
    chosen: dict[int, tuple[int, ...]] = {}
    for kind, specs in named.items():
        chosen |= resolved(specs, _some(kind, sites))
    return dict(sorted(chosen.items()))


def _apart_from_kind(key: str) -> tuple[type[Site], str]:
    """The kind that a key names, and the site of that kind."""
    kind = kind_of_key(key)
    return (
        (AttentionSite, key.removeprefix(HEADS_KEY)) if kind is None else (kind, key.removeprefix(kind.KEY))
    )


def kinds_named(spec: HeadSpec) -> tuple[type[Site], ...]:
    """The kinds of the sites that a spec names."""
    partly, whole = _apart(spec)
    keys = [*partly, *whole]
    found = {_apart_from_kind(key)[0] for key in keys}
    return kinds.with_parts(found)


def names_all(spec: HeadSpec) -> bool:
    """Return whether a spec names heads of all attention sites."""
    return ALL in _apart(spec)[0]


def _apart(spec: HeadSpec) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The keys of a spec with their units, and the keys of which everything goes."""
    if isinstance(spec, Mapping):
        items = {str(key): units for key, units in spec.items()}
        whole = [key for key, units in items.items() if isinstance(units, str) and units == ALL]
        return parse_heads({key: units for key, units in items.items() if key not in whole}), whole
    text = str(spec).strip()
    if isinstance(spec, Path) or text.startswith("{") or text.endswith(".json"):
        return parse_heads(spec), []
    tokens = text.split()
    named = [token.rpartition(":")[0] for token in tokens if token.endswith(f":{ALL}")]
    rest = " ".join(token for token in tokens if not token.endswith(f":{ALL}"))
    return (parse_heads(rest) if rest or not named else {}), named


def combined(
    heads: HeadSpec | None, others: Mapping[str, HeadSpec | None], layers: str | None
) -> HeadSpec | None:
    """One spec of what a command line says in several; None where it names nothing.

    Args:
        others: the same for other kinds, by what they call their units; keys need not begin as the kind has them.
        layers: layers and blocks that are removed as a whole: "3 5-7 attn.9 ffn.4".
    """
    given = {units: text for units, text in others.items() if text is not None}
    if not given and layers is None:
        return heads
    partly, whole = ({}, []) if heads is None else _apart(heads)
    spec: dict[str, Iterable[int] | str] = {**partly, **dict.fromkeys(whole, ALL)}
    for kind in kinds.KINDS:
        if kind.UNITS in given:
            partly, whole = _apart(_of_kind(kind, given[kind.UNITS]))
            spec |= {**partly, **dict.fromkeys(whole, ALL)}
    for key in () if layers is None else _named_layers(layers):
        spec[key] = ALL
    return spec


def _of_kind(kind: type[Site], given: HeadSpec) -> HeadSpec:
    """A spec of units of one kind with full keys."""

    def full(key: str) -> str:
        return key if key.startswith(kind.KEY) else f"{kind.KEY}{key}"

    if isinstance(given, Mapping):
        return {full(str(key)): units for key, units in given.items()}
    text = str(given).strip()
    if not text:
        raise UsageError(f"the {kind.UNIT} spec is empty; write for example {EXAMPLE}")
    if text.startswith("{") or text.endswith(".json"):
        inline = text.startswith("{")
        where = f"the {kind.UNIT} spec" if inline else f"the {kind.UNIT} spec file {text}"
        content = json_of(text if inline else read_text(text, f"the {kind.UNIT} spec file"), where, once=True)
        if not isinstance(content, dict):
            raise UsageError(f'a {kind.UNIT} spec in JSON is an object like {{"0": [1, 3]}}')
        return {full(str(key)): units for key, units in content.items()}
    return " ".join(map(full, text.split()))


def _named_layers(text: str) -> Iterator[str]:
    """The keys of what is removed as a whole: names hold no comma, so it separates them as spaces do."""
    for token in text.replace(",", " ").split():
        if token.startswith(HEADS_KEY) or kind_of_key(token) is not None:
            yield token
            continue
        stack, dot, numbers = token.rpartition(".")
        found = _RANGE.fullmatch(numbers)
        if found is None and re.fullmatch(r"[^:,*=]*[./][^:,*=]*|\w+_\d+", token):
            # A name, as `inspect` prints it.
            yield f"{LayerSite.KEY}{token}"
            continue
        if found is None:
            raise UsageError(
                f'cannot read {token[:60]!r}: name layers and blocks like "3 5-7 encoder.2 attn.9 ffn.4"'
            )
        first, last = found.groups()
        for number in range(int(first), int(last or first) + 1):
            yield f"{LayerSite.KEY}{stack}{dot}{number}"


def _whole_sites(key: str, sites: Sites) -> Iterable[Site]:
    """The sites that a key names of which everything goes."""
    kind, own = _apart_from_kind(key)
    if not any(own in (site.name, site.key.removeprefix(kind.KEY)) for site in sites.of(kind.UNITS)):
        # A block may be named by its module alone.
        named = [site for site in sites.every if site.name == own]
        if named:
            return named
    return sites_of_key(own, _some(kind, sites))


def _some(kind: type[Site], sites: Sites) -> tuple[Site, ...]:
    """The sites of one kind."""
    found = sites.of(kind.UNITS)
    if not found:
        find = sites.others.get(kind)
        near = next(iter(sites.near_misses if find is None else find().near_misses), None)
        hint = "" if near is None else f"; {near.node} comes near: {near.reason.sentence}"
        raise RefusedError(
            f"no {kind.TITLE} was found in this model, so there are no {kind.UNITS} to remove{hint}"
        )
    return found
