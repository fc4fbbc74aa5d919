"""Whole residual branches as a kind of unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.site import Silencing, Site


@dataclass(frozen=True, eq=False, kw_only=True)
class SublayerSite(Site):
    """One innermost residual branch; it has one unit, itself."""

    UNIT = "sublayer"
    UNITS = "sublayers"
    BLOCK = "sublayer"
    TITLE = "other sublayer"
    KEY = "sublayer."
    FROM = 2_000_000
    FIELD = "sublayers"
    UNNAMED = "sublayer"
    LAYER = "begin"
    CHOSEN = False
    FOUND_BY = "onnxheadprune.attention.sites.sublayers"

    def silenced(self, how: Silencing, units: Sequence[int]) -> None:
        """Silence the branch where it is added."""
        how.at_sum(self, units)

    @property
    def only_named(self) -> str:
        """The reason that data never selects it."""
        return "a sublayer has no units to choose among"


@dataclass(frozen=True, eq=False, kw_only=True)
class TermSite(SublayerSite):
    """A residual branch as what a sum adds to its stream: no layer at its end outputs its bias without the others."""

    LAYER = "part"
