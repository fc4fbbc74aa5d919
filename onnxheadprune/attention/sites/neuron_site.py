"""What a feed-forward block is: maps that make neurons, and maps that sum them up. Its finders register here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxheadprune.attention.sites.block_kinds import FEED_FORWARD, LOW_RANK
from onnxheadprune.attention.sites.naming import named_apart
from onnxheadprune.attention.sites.unit import SPAN, Findings, NearMiss, Site
from onnxheadprune.model.graph.view import GraphView

PICKED = "its units are those of experts that a router chooses, and data says nothing of these"
NO_ACTIVATION = "its units are the ranks of a product of two matrices, with no activation in between"


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronSite(Site):
    """One feed-forward block; its units are neurons, numbered as the linear layer that sums them up reads them.

    Its `kind` is one of `block_kinds.py`.
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

    @classmethod
    def found(cls, view: GraphView, known: Sequence[Site]) -> Findings:
        """All feed-forward blocks, in graph order of the layers that sum their neurons up, and the near misses.

        Args:
            view: an annotated view.
            known: its attention sites.
        """
        every = [item for find in FINDERS for item in find(view, known)]
        sites = [item for item in every if isinstance(item, NeuronSite)]
        sites.sort(key=lambda site: site.projections[0].node.index)
        names = named_apart([(site.projections, site.cores) for site in sites], cls.UNNAMED)
        return Findings(
            [
                replace(site, name=name, index=cls.FROM + number)
                for number, (site, name) in enumerate(zip(sites, names, strict=True))
            ],
            [replace(item, units=cls.UNITS) for item in every if isinstance(item, NearMiss)],
        )

    @property
    def is_branch(self) -> bool:
        """Whether it is a branch of a residual stream, as sublayers are; stems and heads are none."""
        return self.kind == FEED_FORWARD

    @property
    def experts(self) -> int:
        """Experts that the block holds in one operator, whose neurons are numbered one expert after the other."""
        return 1

    @property
    def only_named(self) -> str | None:
        """Why its neurons go only where they are named, None if what they are worth can be measured and compared."""
        weights = [item.operand for item in self.projections]
        if any(weight is None or not weight.is_constant for weight in weights):
            return PICKED
        return NO_ACTIVATION if self.kind == LOW_RANK else None

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {"experts": self.experts}


Finder = Callable[[GraphView, Sequence[Site]], Iterable[NeuronSite | NearMiss]]
FINDERS: list[Finder] = []
"""What finds feed-forward blocks, each in a form of its own; names and numbers are given afterwards."""


def finder(function: Finder) -> Finder:
    """Registers what finds blocks in some form."""
    FINDERS.append(function)
    return function
