"""The kinds of units: each is a class of sites in a file `*_site.py`, where it is found by lying there.

Heads have more properties (KV heads, caches), and so their own entries in plans and records. All
other kinds are only used through the interface of `Site`; no code checks which kind it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.records import HEADS
from onnxheadprune.settings.registry import SCORED, UNIT_KINDS

DEFAULT_UNITS = frozenset({HEADS})
"""The default units of a target."""


KINDS: list[type[Site]] = [kind.load() for kind in UNIT_KINDS[1:]]
"""In the order in which they are found and listed; a kind knows the sites of those before it."""


def every_kind() -> tuple[type[Site], ...]:
    """Heads and all other kinds."""
    return (AttentionSite, *KINDS)


def scorable() -> tuple[str, ...]:
    """Return the kinds whose units have scores: all but layers."""
    return tuple(SCORED)


def selectable() -> tuple[str, ...]:
    """Return the kinds that a target may name."""
    return tuple(kind.UNITS for kind in every_kind())


def key_of(index: int) -> str:
    """Return the key in a spec of the site with an index, of any kind."""
    kind = next((kind for kind in KINDS if kind.owns(index)), None)
    return str(index) if kind is None else f"{kind.KEY}{index - kind.FROM}"


def called(index: int) -> str:
    """Return the name in messages, tables and pages of the site with an index, of any kind."""
    kind = kind_at(index)
    return kind.called(index - kind.FROM)


def kind_of_key(key: str) -> type[Site] | None:
    """The kind whose sites a key of a spec names, None for heads."""
    return next((kind for kind in KINDS if key.startswith(kind.KEY)), None)


def kind_of(site: Site) -> type[Site]:
    """The kind of a site, which may be of a subclass."""
    return kind_at(site.index)


def kind_at(index: int) -> type[Site]:
    """The kind of the site with an index."""
    return next(kind for kind in every_kind() if kind.owns(index))


def with_parts(found: Collection[type[Site]]) -> tuple[type[Site], ...]:
    """Return some kinds, with those by which layers are told apart if they are among them."""
    layers = not all(kind.SCORED_BY for kind in found)
    return tuple(kind for kind in every_kind() if kind in found or (layers and kind.in_layers()))


def kinds_of(indices: Iterable[int]) -> list[type[Site]]:
    """The kinds of the sites with these indices, without heads."""
    some = list(indices)
    return [kind for kind in KINDS if any(map(kind.owns, some))]
