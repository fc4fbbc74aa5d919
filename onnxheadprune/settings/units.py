"""The kinds of units that can be removed, and how options, plans, messages and files know each.

Sites of a kind are found by the function `found` of a module. Heads have more properties (KV heads, caches), and so
their own entries in plans and records; all other kinds are only used through the interface of `Site` and through what
stands here, and no code checks which kind it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

OPERATIONS, BYTES = "operations", "bytes"
"""The resources that a cut can save."""
SPAN = 1_000_000
"""Indices reserved for each kind of site, so that a cut of one kind renumbers no site of another."""


@dataclass(frozen=True, kw_only=True)
class UnitKind:
    """A kind of unit.

    Attributes:
        unit: the name of one unit: "head".
        units: its plural, in options, records and JSON: "heads".
        block: the name of a site of this kind in messages.
        title: the same in full.
        key: the prefix of a site's key in a spec: "ffn." of "ffn.3".
        prefix: the same in messages and tables, which show one of heads, too.
        first: the first of the indices of its sites: a multiple of `SPAN`.
        field: the list of these sites in `inspect --json`.
        unnamed: the name, with a number, of a site whose nodes have no names.
        finder: the module whose function `found` looks for the sites when they are first asked for; "" of heads.
        in_layers: whether sites are parts of layers.
        begins_layers: whether a layer may begin with one.
        steps: steps in which a site goes from all units to few; None where each is weighed against each.
        multiple: the number of which a site keeps a multiple of units, unless another one is set.
        scored_by: the signal that scoring methods need, one of `ScoringMethod.READS`; "" without scores.
        saves: the resource that a cut of this kind saves, and of which ratios are shares.
        counted_by: fields of configurations that specify one number of units for all sites.
    """

    unit: str
    units: str
    block: str
    title: str
    key: str
    prefix: str = ""
    first: int
    field: str
    unnamed: str = "site"
    finder: str = ""
    in_layers: bool = False
    begins_layers: bool = False
    steps: int | None = 64
    multiple: int = 1
    scored_by: str = "contexts"
    saves: str = OPERATIONS
    counted_by: tuple[str, ...] = ()

    @property
    def has_many_units(self) -> bool:
        """True if sites have hundreds of units, which are counted, and removed many at a time."""
        return self.steps is not None

    def owns(self, index: int) -> bool:
        """Return whether an index is that of a site of this kind."""
        return self.first <= index < self.first + SPAN

    def called(self, number: int) -> str:
        """Return the name of a site in messages, tables and pages, by its number: "attn.3", "ffn.3"."""
        return f"{self.prefix or self.key}{number}"


HEAD = UnitKind(
    unit="head",
    units="heads",
    block="site",
    title="attention site",
    key="",
    prefix="attn.",
    first=0,
    field="sites",
    unnamed="attention",
    in_layers=True,
    begins_layers=True,
    steps=None,
)
NEURON = UnitKind(
    unit="neuron",
    units="neurons",
    block="block",
    title="feed-forward block",
    key="ffn.",
    first=1_000_000,
    field="feed_forward",
    unnamed="feed_forward",
    finder="onnxheadprune.attention.sites.neurons",
    in_layers=True,
    multiple=8,
)
EXPERT = UnitKind(
    unit="expert",
    units="experts",
    block="mixture",
    title="mixture-of-experts block",
    key="moe.",
    first=3_000_000,
    field="mixtures",
    unnamed="mixture",
    finder="onnxheadprune.attention.sites.mixtures",
    steps=None,
    scored_by="router",
    saves=BYTES,
    counted_by=("num_local_experts", "num_experts", "n_routed_experts"),
)
LAYER = UnitKind(
    unit="layer",
    units="layers",
    block="layer",
    title="layer",
    key="layer.",
    first=4_000_000,
    field="layers",
    unnamed="layer",
    finder="onnxheadprune.attention.sites.layers",
    scored_by="",
)
KINDS = [HEAD, NEURON, EXPERT, LAYER]
"""In the order in which sites are found and listed; a finder knows the sites of those before."""
SCORED: Mapping[str, UnitKind] = {kind.units: kind for kind in KINDS if kind.scored_by}
"""Those with scores, by the name of their units."""
SELECTED = tuple(kind.units for kind in KINDS)
"""The names of the units that may be selected among."""
DEFAULT_UNITS = frozenset({HEAD.units})
"""The default units of a target."""


def kind_at(index: int) -> UnitKind:
    """The kind of the site with an index."""
    return next(kind for kind in KINDS if kind.owns(index))


def key_of(index: int) -> str:
    """Return the key in a spec of the site with an index."""
    kind = kind_at(index)
    return f"{kind.key}{index - kind.first}"


def called(index: int) -> str:
    """Return the name in messages, tables and pages of the site with an index."""
    kind = kind_at(index)
    return kind.called(index - kind.first)


def kind_of_key(key: str) -> UnitKind | None:
    """The kind whose sites a key of a spec names, None for heads."""
    return next((kind for kind in KINDS[1:] if key.startswith(kind.key)), None)


def with_parts(found: Collection[UnitKind]) -> tuple[UnitKind, ...]:
    """Return some kinds, with those by which layers are told apart if they are among them."""
    layers = not all(kind.scored_by for kind in found)
    return tuple(kind for kind in KINDS if kind in found or (layers and kind.in_layers))


def kinds_of(indices: Iterable[int]) -> list[UnitKind]:
    """The kinds of the sites with these indices, without heads."""
    some = list(indices)
    return [kind for kind in KINDS[1:] if any(map(kind.owns, some))]
