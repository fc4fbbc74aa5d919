"""What a feed-forward block is: maps that make neurons, and maps that sum them up. Its finders register here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from onnxheadprune.attention.sites.naming import named_apart
from onnxheadprune.attention.sites.unit import SPAN, Site
from onnxheadprune.model.graph.view import GraphView


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronSite(Site):
    """One feed-forward block; its units are neurons, numbered as the map that sums them up reads them."""

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
    def found(cls, view: GraphView) -> list[NeuronSite]:
        """All feed-forward blocks, in graph order of the maps that sum their neurons up.

        Args:
            view: an annotated view.
        """
        sites = [site for find in FINDERS for site in find(view)]
        sites.sort(key=lambda site: site.projections[0].node.index)
        names = named_apart([(site.projections, site.cores) for site in sites], cls.UNNAMED)
        return [
            replace(site, name=name, index=cls.FROM + number)
            for number, (site, name) in enumerate(zip(sites, names, strict=True))
        ]

    @property
    def experts(self) -> int:
        """Experts that the block holds in one operator, whose neurons are numbered one expert after the other."""
        return 1

    @property
    def is_measurable(self) -> bool:
        """Whether data says what its neurons are worth: what is summed up can be read, and one map does so."""
        weights = [item.node.inputs[item.weight[0]] for item in self.projections]
        return all(weight is not None and weight.is_constant for weight in weights)

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {"experts": self.experts}


Finder = Callable[[GraphView], Iterable[NeuronSite]]
FINDERS: list[Finder] = []
"""What finds feed-forward blocks, each in a form of its own; names and numbers are given afterwards."""


def finder(function: Finder) -> Finder:
    """Registers what finds blocks in some form."""
    FINDERS.append(function)
    return function
