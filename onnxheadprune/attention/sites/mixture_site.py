"""Mixtures of experts as a kind of unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.settings.units import EXPERT

if TYPE_CHECKING:
    from onnxheadprune.attention.sites.routing import Routing
    from onnxheadprune.liveness.registry import Answer
    from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureSite(Site):
    """The experts that one router chooses from."""

    KIND = EXPERT
    may_lose_groups = False

    routing: Routing  # the path of its scores

    @property
    def only_named(self) -> str | None:
        """The reason that data never selects its experts, None if data shows which experts tokens are routed to."""
        if not self.routing.chosen:
            return "each token goes through all of its experts"
        return None if self.routing.picks else "no value of the graph tells which experts are chosen"

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
    def details(self) -> dict[str, str]:
        """The number of experts chosen per token, and the size of one in bytes."""
        return {
            "chosen": f"{self.routing.chosen:,}" if self.routing.chosen else "all",
            "bytes each": f"{self.bytes // self.num_units:,}",
        }

    def to_dict(self) -> dict[str, Any]:
        """The mixture as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {
            "chosen_per_token": self.routing.per_token,
            "groups": len(self.groups),
            "bytes_per_expert": self.bytes // self.num_units,
        }
