"""What a feed-forward block is: maps that make neurons, and maps that sum them up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxheadprune.attention.sites.unit import NEURONS_FROM, Site


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronSite(Site):
    """One feed-forward block; its units are neurons, numbered as the map that sums them up reads them."""

    UNIT = "neuron"
    BLOCK = "block"

    @property
    def experts(self) -> int:
        """Experts that the block holds in one operator, whose neurons are numbered one expert after the other."""
        return 1

    @property
    def is_measurable(self) -> bool:
        """Whether data says what its neurons are worth: what is summed up can be read, and one map does so."""
        weights = [item.node.inputs[item.weight[0]] for item in self.projections]
        return all(weight is not None and weight.is_constant for weight in weights)

    @property
    def number(self) -> int:
        """Position among the feed-forward blocks of the original, in graph order."""
        return self.index - NEURONS_FROM

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data (a part of the contract of `inspect --json`)."""
        return {
            "index": self.number,
            "key": self.key,
            "name": self.name,
            "num_neurons": self.num_units,
            "experts": self.experts,
            "removable": self.removable,
            "reason": None if self.reason is None else str(self.reason),
            "params": self.params,
            "bytes": self.bytes,
            "flops_per_token": self.flops_per_token,
            "removed": list(self.removed),
            "together": max((len(unit) for unit in self.units), default=1),
            "projections": [projection.node.proto.name for projection in self.projections],
        }


def numbered(site: NeuronSite, number: int) -> NeuronSite:
    """A block under a number, and so an index, of its own."""
    return replace(site, index=NEURONS_FROM + number)
