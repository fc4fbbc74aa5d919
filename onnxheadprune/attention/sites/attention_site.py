"""Attention sites: a core that produces contexts per head, and projections that sum over heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from onnxheadprune.attention.sites.held import Stay, needed_heads, still_computed
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.records import RecordedUnits
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.display import one_line
from onnxheadprune.model.graph.view import Node
from onnxheadprune.settings.units import HEAD


@one_line("index name kind num_units removed head_size kv_num_heads reason")
@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionSite(Site):
    """One attention block; its units are heads.

    Attributes:
        index: position in graph order of the cores; stable when the model is pruned.
        kind: "mha", "gqa" or "mqa"; "unknown" where the sharing of keys and values is unknown.
        kv_num_heads: key/value heads; equal to the heads where unknown.
        head_size: width of a query or key head; that of a value head where no product of queries and keys has one.
        v_head_size: width of a context head.
        original_kv_num_heads: key/value heads before any pruning.
        kv_known: whether the sharing of keys and values is known. Else each head is assumed to have its own, which is
            exact: shared parts are kept as long as one of their heads is.
        stays: the queries, keys or maps that stay when heads are removed, because others need all of them.
        maps_stay: whether products of queries and keys are among these.
    """

    KIND = HEAD

    kind: str
    kv_num_heads: int
    head_size: int
    v_head_size: int
    original_kv_num_heads: int = 0
    kv_known: bool = True
    stays: Stay | None = None
    maps_stay: bool = False

    @property
    def unit_cores(self) -> tuple[Node, ...]:
        """The cores, which compute heads side by side."""
        return self.cores

    def needed(self, units: Sequence[int], swept: Sweep) -> Refusal | None:
        """Return a refusal naming the node that still needs removed heads, None if no node does."""
        return None if self.block is None else needed_heads(self.block, swept, units)

    def left_in(self, swept: Sweep) -> Refusal | None:
        """Return why a part of removed heads is still computed after a sweep without them, None if none is."""
        if self.block is None or self.stays is None:
            return None
        left = still_computed(self.block, swept, self.stays.mixers)
        return None if left is None else left.why

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.num_units

    @property
    def original_num_heads(self) -> int:
        """Query heads before any pruning."""
        return self.original_num_units

    @property
    def kv_count(self) -> str:
        """Key/value heads, formatted for tables."""
        return str(self.kv_num_heads) if self.kv_known else "?"

    @property
    def shape(self) -> tuple[object, ...]:
        """Properties that are equal in all files with this site."""
        return self.original_num_heads, self.original_kv_num_heads, self.v_head_size, self.removed

    def recorded(self) -> RecordedUnits:
        """Return the site's entry for a record."""
        return replace(super().recorded(), kv_num_heads=self.original_kv_num_heads)

    def with_record(self, entry: RecordedUnits) -> Self:
        """Return the site with its number, name and heads in the original, as a record has them."""
        return replace(super().with_record(entry), original_kv_num_heads=entry.kv_num_heads)

    def flops_per_unit(self, length: float) -> float:
        """Multiply-adds x 2 per token of one head, with its scores and its context.

        Args:
            length: positions of a sequence.
        """
        width = self.v_head_size + (0 if self.maps_stay else self.head_size)
        return super().flops_per_unit(length) + 2 * length * width

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON-ready data (the contract of `inspect --json`)."""
        return {
            "index": self.index,
            "name": self.name,
            "kind": self.kind,
            "core": self.cores[0].op_type,
            "num_heads": self.num_heads,
            "kv_num_heads": self.kv_num_heads if self.kv_known else None,
            "head_size": self.head_size,
            "v_head_size": self.v_head_size,
            **self._state(),
            "projections": self._projections(),
        }
