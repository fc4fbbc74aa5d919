"""The kinds of units other than heads. A kind is a class of sites in its own file; it only has to be listed here.

Heads have more properties (KV heads, caches), and so their own entries in plans and records. All
other kinds are only used through the interface of `Site`; no code checks which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.site import BYTES, SPAN, Site
from onnxheadprune.edit.records import HEADS

if TYPE_CHECKING:
    from onnxheadprune.attention.sites.routing import Routing
    from onnxheadprune.liveness.registry import Answer
    from onnxheadprune.model.graph.view import Node

FEED_FORWARD = "feed-forward"
"""A branch of a residual stream, with an activation or a gate."""
CONVOLUTION = "convolution"
"""Convolutions of stems and backbones, whose windows span several positions, or that no residual stream goes around."""
LOW_RANK = "low-rank"
"""Nothing but a product of two matrices: no activation between the layers."""
MLP = "mlp"
"""Layers with an activation that no residual stream goes around: poolers, classifiers, projectors."""

PICKED = "its units are those of experts that a router chooses, and data says nothing of these"
NO_ACTIVATION = "its units are the ranks of a product of two matrices, with no activation in between"
UNSEEN = "no value of the graph tells which experts are chosen"
ALL_USED = "each token goes through all of its experts"
ALONE = "a sublayer has no units to choose among"
HEADS_ALONE = frozenset({HEADS})
"""The default units of a target."""
LAYERS = "layers"
"""In the units of a target: attention and feed-forward blocks as a whole."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronSite(Site):
    """One feed-forward block; its units are neurons, numbered in the order in which the second linear layer reads them.

    Its `kind` is one of the words above.
    """

    UNIT = "neuron"
    UNITS = "neurons"
    BLOCK = "block"
    TITLE = "feed-forward block"
    KEY = "ffn."
    FROM = SPAN
    FIELD = "feed_forward"
    UNNAMED = "feed_forward"
    LAYER = "part"
    FOUND_BY = "onnxheadprune.attention.sites.neurons"

    @property
    def is_branch(self) -> bool:
        """True if it is a branch of a residual stream, as sublayers are; stems and heads are none."""
        return self.kind == FEED_FORWARD

    @property
    def experts(self) -> int:
        """The number of experts of a block in one operator, whose neurons are numbered expert by expert."""
        return 1

    @property
    def only_named(self) -> str | None:
        """Why its neurons are removed only if named, None if they can be scored."""
        weights = [item.operand for item in self.projections]
        if any(weight is None or not weight.is_constant for weight in weights):
            return PICKED
        return NO_ACTIVATION if self.kind == LOW_RANK else None

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {"experts": self.experts}


@dataclass(frozen=True, eq=False, kw_only=True)
class SublayerSite(Site):
    """One innermost residual branch; it has one unit, itself."""

    UNIT = "sublayer"
    UNITS = "sublayers"
    BLOCK = "sublayer"
    TITLE = "other sublayer"
    KEY = "sublayer."
    FROM = 2 * SPAN
    FIELD = "sublayers"
    UNNAMED = "sublayer"
    LAYER = "begin"
    WHOLE = True
    CHOSEN = False
    FOUND_BY = "onnxheadprune.attention.sites.sublayers"

    @property
    def only_named(self) -> str:
        """Why it is never selected by data."""
        return ALONE


@dataclass(frozen=True, eq=False, kw_only=True)
class TermSite(SublayerSite):
    """A residual branch as what a sum adds to its stream: no layer at its end outputs its bias without the others."""

    LAYER = "part"


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureSite(Site):
    """The experts that one router chooses from.

    Attributes:
        routing: the path of its scores.
        shared: keys of the feed-forward blocks of the shared experts.
    """

    UNIT = "expert"
    UNITS = "experts"
    BLOCK = "mixture"
    TITLE = "mixture-of-experts block"
    KEY = "moe."
    FROM = 3 * SPAN
    FIELD = "mixtures"
    UNNAMED = "mixture"
    WIDE = False
    ROUTED = True
    METHODS = ("reap", "frequency", "activation", "ablation", "random")
    SAVES = BYTES
    ALL_GROUPS_STAY = True
    COUNTED_BY = ("num_local_experts", "num_experts", "n_routed_experts")
    FOUND_BY = "onnxheadprune.attention.sites.mixtures"

    routing: Routing
    shared: tuple[str, ...] = ()

    @property
    def only_named(self) -> str | None:
        """Why its experts are never selected by data, None if data shows which experts tokens are routed to."""
        if not self.routing.chosen:
            return ALL_USED
        return None if self.routing.picks else UNSEEN

    def answers(self, units: Iterable[int]) -> dict[Node, Answer]:
        """Return the answers of the operators in which scores of experts meet."""
        return self.routing.answers(tuple(units))

    def why_too_few(self, units: Sequence[int]) -> str | None:
        """Return why experts cannot be removed together: enough must remain to choose for each token."""
        return self.routing.why_too_few(units)

    def uneven(self) -> str:
        """Return the error if groups lose different numbers of experts."""
        return f"leave the {len(self.groups)} groups of its router with different numbers of experts, or with none"

    def inner(self, sites: Iterable[Site]) -> tuple[Site, ...]:
        """Those of the given sites that lie inside experts which are separate networks."""
        return tuple(
            site
            for site in sites
            if site is not self and self.routing.holds(item.node for item in site.projections)
        )

    @property
    def elsewhere(self) -> str:
        """A hint for an error about an expert that does not exist: the block of the shared expert."""
        keys = " and ".join(self.shared)
        return keys and f"; the shared expert is a feed-forward block, {keys}: remove its neurons or all"

    @property
    def details(self) -> dict[str, str]:
        """The number of experts chosen per token, the shared experts, and the size of a routed one in bytes."""
        shared = {"shared": " ".join(self.shared)} if self.shared else {}
        return {
            "chosen": f"{self.routing.chosen:,}" if self.routing.chosen else "all",
            **shared,
            "bytes each": f"{self.bytes // self.num_units:,}",
        }

    def to_dict(self) -> dict[str, Any]:
        """The mixture as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {
            "chosen_per_token": self.routing.per_token,
            "shared_experts": list(self.shared),
            "groups": len(self.groups),
            "bytes_per_expert": self.bytes // self.num_units,
        }


KINDS: list[type[Site]] = [NeuronSite, SublayerSite, MixtureSite]
"""In the order in which they are found and listed; a kind knows the sites of those before it."""


def every_kind() -> tuple[type[Site], ...]:
    """Heads and all other kinds."""
    return (AttentionSite, *KINDS)


def scorable() -> tuple[str, ...]:
    """Return the kinds whose units have scores: all but sublayers."""
    return tuple(kind.UNITS for kind in every_kind() if kind.CHOSEN)


def wishable() -> tuple[str, ...]:
    """Return the kinds that a target may name."""
    return (*scorable(), LAYERS)


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


def kinds_of(indices: Iterable[int]) -> list[type[Site]]:
    """The kinds of the sites with these indices, without heads."""
    some = list(indices)
    return [kind for kind in KINDS if any(map(kind.owns, some))]
