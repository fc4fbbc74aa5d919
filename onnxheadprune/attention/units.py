"""Specs of units of all kinds: heads, neurons, and whole sublayers and layers.

A spec is a head spec with more keys. "ffn.3" is a feed-forward block, "attn.3" an attention site like plain "3",
"layer.3" a layer: a feed-forward block and the attention before it. "*" in the place of numbers means all units, so
that the sublayer goes and leaves nothing but its bias; a layer only goes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from onnxheadprune.attention.heads import (
    ALL,
    NEURONS,
    HeadSpec,
    parse_heads,
    resolve_heads,
    resolved,
    sites_of_key,
)
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import parse_json, read_text

HEADS = "attn."
"""What keys of attention sites may begin with."""
LAYERS = "layer."
"""What keys of layers begin with."""


def resolve_units(spec: HeadSpec, sites: Sites) -> dict[int, tuple[int, ...]]:
    """A spec as `{site index: units}` for the sites of all kinds; units are indices of the original model.

    Args:
        spec: see the module; names work as keys, too ("ffn." and a name for feed-forward blocks).
        sites: of the model.

    Raises:
        UsageError: if a site or unit does not exist, or was removed before.
        RefusedError: if a site cannot lose units, or the set is not legal.
    """
    partly, whole = apart(spec)
    neurons = {key.removeprefix(NEURONS): gone for key, gone in partly.items() if key.startswith(NEURONS)}
    heads = {key.removeprefix(HEADS): gone for key, gone in partly.items() if not key.startswith(NEURONS)}
    for site in (site for key in whole for site in _whole_sites(key, sites)):
        kind = neurons if site in sites.neurons else heads
        kind[str(site.number)] = site.original(range(site.num_units))
    chosen = resolve_heads(heads, sites) if heads or not neurons else {}
    return chosen | (resolved(neurons, _neurons(sites)) if neurons else {})


def names_all(spec: HeadSpec) -> bool:
    """Whether a spec names heads of all attention sites."""
    return ALL in apart(spec)[0]


def apart(spec: HeadSpec) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The keys of a spec with their units, and the keys of which everything goes."""
    if isinstance(spec, Mapping):
        items = {str(key): units for key, units in spec.items()}
        whole = [key for key, units in items.items() if isinstance(units, str) and units == ALL]
        return parse_heads({key: units for key, units in items.items() if key not in whole}), whole
    text = str(spec).strip()
    if isinstance(spec, Path) or text.startswith("{") or text.endswith(".json"):
        parsed = parse_heads(spec)
        return _no_layers(parsed), []
    tokens = text.split()
    named = [token.rpartition(":")[0] for token in tokens if token.endswith(f":{ALL}")]
    rest = " ".join(token for token in tokens if not token.endswith(f":{ALL}"))
    return (_no_layers(parse_heads(rest)) if rest or not named else {}), named


def _no_layers(parsed: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Refuses numbers of units in a layer, which has heads and neurons.

    Raises:
        UsageError: if there are any.
    """
    for key in parsed:
        if key.startswith(LAYERS):
            raise UsageError(
                f"a layer goes as a whole: write {key}:{ALL}, or name heads and neurons of its sites"
            )
    return parsed


def combined(heads: HeadSpec | None, neurons: str | None, layers: str | None) -> HeadSpec | None:
    """One spec of what a command line says in up to three; None where it names nothing.

    Args:
        heads: a head spec.
        neurons: the same for feed-forward blocks, whose keys need no "ffn." here.
        layers: layers and sublayers that go as a whole: "3 5-7 attn.9 ffn.4".

    Raises:
        UsageError: if one does not parse.
    """
    if neurons is None and layers is None:
        return heads
    partly, whole = ({}, []) if heads is None else apart(heads)
    spec: dict[str, Iterable[int] | str] = {**partly, **dict.fromkeys(whole, ALL)}
    if neurons is not None:
        partly, whole = apart(_of_blocks(neurons))
        spec |= {**partly, **dict.fromkeys(whole, ALL)}
    for key in () if layers is None else _named_layers(layers):
        spec[key] = ALL
    return spec


def _of_blocks(neurons: str) -> HeadSpec:
    """A spec of neurons with the full keys of blocks."""

    def full(key: str) -> str:
        return key if key.startswith(NEURONS) else f"{NEURONS}{key}"

    text = neurons.strip()
    if text.startswith("{") or text.endswith(".json"):
        content = parse_json(text if text.startswith("{") else read_text(text, "the neuron spec file"))
        if not isinstance(content, dict):
            raise UsageError('a neuron spec in JSON is an object like {"0": [1, 3]}')
        return {full(str(key)): units for key, units in content.items()}
    return " ".join(map(full, text.split()))


def _named_layers(text: str) -> Iterator[str]:
    """The keys of what goes as a whole."""
    for token in text.split():
        if token.startswith((HEADS, NEURONS, LAYERS)):
            yield token
            continue
        first, _, last = token.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or len(token) > len("9999-9999"):
            raise UsageError(
                f'cannot read {token[:60]!r}: name layers and sublayers like "3 5-7 attn.9 ffn.4"'
            )
        for number in range(int(first), int(last or first) + 1):
            yield f"{LAYERS}{number}"


def layers(sites: Sites) -> list[tuple[Site, ...]]:
    """The layers of a model: each feed-forward block, and the attention between it and the one before.

    Args:
        sites: of the model. Attention behind the last block is a layer of its own.
    """
    found: list[tuple[Site, ...]] = []
    waiting: list[Site] = []
    for site in sorted(sites.every, key=_place):
        waiting.append(site)
        if site in sites.neurons:
            found.append(tuple(waiting))
            waiting = []
    return [*found, tuple(waiting)] if waiting else found


def _place(site: Site) -> int:
    """Where a site is in the graph."""
    return min(projection.node.index for projection in site.projections)


def _whole_sites(key: str, sites: Sites) -> Iterable[Site]:
    """The sites that a key names of which everything goes.

    Raises:
        UsageError: if there is none.
    """
    if key.startswith(LAYERS):
        number, known = key.removeprefix(LAYERS), layers(sites)
        if not number.isdecimal() or int(number) >= len(known):
            raise UsageError(f"there is no layer {number!r}: this model's layers are 0-{len(known) - 1}")
        return known[int(number)]
    if key.startswith(NEURONS):
        return sites_of_key(key.removeprefix(NEURONS), _neurons(sites))
    return sites_of_key(key.removeprefix(HEADS), sites.sites)


def _neurons(sites: Sites) -> tuple[Site, ...]:
    """The feed-forward blocks.

    Raises:
        RefusedError: if there are none.
    """
    if not sites.neurons:
        raise RefusedError("no feed-forward block was found in this model, so there are no neurons to remove")
    return sites.neurons
