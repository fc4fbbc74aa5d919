"""The kinds of units beside heads. A kind is a class of sites, in one file; adding it to the list is all that it takes.

Heads came first and have more to say (KV heads, caches), so what a plan and a record say of them is their own. All
that is done with the other kinds is done by what `Site` says of them, and nobody asks which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxheadprune.attention.sites.neurons import NeuronSite
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.attention.sites.sublayers import SublayerSite
from onnxheadprune.attention.sites.unit import Site

KINDS: list[type[Site]] = [NeuronSite, SublayerSite]
"""In the order in which they are found and listed; a kind knows the sites of those before it."""


def every_kind() -> tuple[type[Site], ...]:
    """Heads, and the kinds beside them."""
    return (AttentionSite, *KINDS)


def key_of(index: int) -> str:
    """How a spec names the site with an index, of whatever kind."""
    kind = next((kind for kind in KINDS if kind.owns(index)), None)
    return str(index) if kind is None else f"{kind.KEY}{index - kind.FROM}"


def called(index: int) -> str:
    """How messages, tables and pages name the site with an index, of whatever kind."""
    kind = kind_at(index)
    return kind.called(index - kind.FROM)


def kind_of_key(key: str) -> type[Site] | None:
    """The kind whose sites a key of a spec names, None for heads."""
    return next((kind for kind in KINDS if key.startswith(kind.KEY)), None)


def kind_of(site: Site) -> type[Site]:
    """The kind of a site, which may be in a form of its own."""
    return kind_at(site.index)


def kind_at(index: int) -> type[Site]:
    """The kind of the site with an index."""
    return next(kind for kind in every_kind() if kind.owns(index))


def kinds_of(indices: Iterable[int]) -> list[type[Site]]:
    """The kinds of the sites with these indices, without heads."""
    some = list(indices)
    return [kind for kind in KINDS if any(map(kind.owns, some))]
