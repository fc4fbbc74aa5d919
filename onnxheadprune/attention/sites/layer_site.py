"""Whole layers as a kind of unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.settings.units import LAYER

if TYPE_CHECKING:
    from onnxheadprune.edit.records import RecordedUnits
    from onnxheadprune.model.graph.view import Value

SEVERAL = 10_000
"""The first number of a layer in the first of several stacks; in the only stack it is that of the name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerSite(Site):
    """A layer, from its input to its output in the residual stream; it has one unit, and is the identity when removed.

    Its cores are the nodes between the states, and those that nothing else needs.
    """

    KIND = LAYER

    short: str  # its number, after the name of its stack where a model has several: "3", "encoder.3"

    def among_several(self, part: str, count: int) -> Self:
        """Return the layer with a name, key and number among those of several models."""
        # No number of a layer in one of them means one in another.
        made = super().among_several(part, SEVERAL + count)
        return replace(made, short=f"{part}.{self.short}")

    @property
    def key(self) -> str:
        """The layer's key in a spec."""
        return f"{self.KIND.key}{self.short}"

    @property
    def tag(self) -> str:
        """The layer's name in tables: "layer.3", "layer.encoder.3"."""
        return self.key

    @property
    def marks(self) -> tuple[Value, ...]:
        """The states behind it, whose names identify the layer in pruned models."""
        return tuple(state.behind for state in self.states)

    def recorded(self) -> RecordedUnits:
        """Return the layer's entry for a record, with the names of its states."""
        names = dict.fromkeys((state.front.name, state.behind.name) for state in self.states)
        return replace(super().recorded(), states=tuple(names))

    def flops_per_unit(self, length: float) -> float:
        """Multiply-adds x 2 per token of the layer, in sequences of a length."""
        inside = outermost(self.parts)
        growing = sum(site.flops_per_unit(length) * site.num_units - site.flops_per_token for site in inside)
        return super().flops_per_unit(length) + growing

    def to_dict(self) -> dict[str, Any]:
        """The layer as JSON-ready data (a part of the contract of `inspect --json`)."""
        states = [{"front": state.front.name, "behind": state.behind.name} for state in self.states]
        return super().to_dict() | {"states": states, "sites": [site.tag for site in self.parts]}
