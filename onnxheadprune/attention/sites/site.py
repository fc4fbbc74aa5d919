"""What an attention site is: a core that produces contexts per head, and projections that sum over heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.unit import NEURONS_FROM, Projection, Site, united
from onnxheadprune.edit.records import RecordedSite
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.notebook import BAD, GOOD, Html, card, table, word
from onnxheadprune.model.spelling import count, file_name, many

__all__ = ["AttentionSite", "NearMiss", "Projection", "Site", "Sites", "united"]


def _no_neurons() -> tuple[NeuronSite, ...]:
    return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionSite(Site):
    """One attention block; its units are heads.

    Attributes:
        index: position in graph order of the cores; stable when the model is pruned.
        kind: "mha", "gqa" or "mqa".
        kv_num_heads: key/value heads.
        head_size: width of a query or key head, None where the core has no such product.
        v_head_size: width of a context head.
        original_kv_num_heads: key/value heads before any pruning.
    """

    UNIT = "head"
    BLOCK = "site"

    kind: str
    kv_num_heads: int
    head_size: int | None
    v_head_size: int
    original_kv_num_heads: int = 0

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.num_units

    @property
    def original_num_heads(self) -> int:
        """Query heads before any pruning."""
        return self.original_num_units

    @property
    def original_heads(self) -> tuple[int, ...]:
        """The original model's index of each present head."""
        return self.original_units

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON-ready data (the contract of `inspect --json`)."""
        return {
            "index": self.index,
            "name": self.name,
            "kind": self.kind,
            "core": self.cores[0].op_type,
            "num_heads": self.num_heads,
            "kv_num_heads": self.kv_num_heads,
            "head_size": self.head_size,
            "v_head_size": self.v_head_size,
            "removable": self.removable,
            "reason": None if self.reason is None else str(self.reason),
            "params": self.params,
            "bytes": self.bytes,
            "flops_per_token": self.flops_per_token,
            "removed": list(self.removed),
            "projections": [projection.node.proto.name for projection in self.projections],
        }


@dataclass(frozen=True)
class NearMiss:
    """Something that looks like attention and is no site, with the reason."""

    node: str
    reason: Refusal

    def to_dict(self) -> dict[str, str]:
        """The near miss as JSON-ready data."""
        return {"node": self.node, "reason": self.reason.sentence}


@dataclass(frozen=True)
class Sites(Sequence[AttentionSite]):
    """All sites of a model in order of their index, and what attends without being one.

    Each product of attention weights and values is in one of the three.

    Attributes:
        model: name of the model.
        sites: what `[]`, `len` and iteration give.
        near_misses: attention with heads that cannot be told apart or cut, with the reasons.
        no_heads: attention in which no axis can enumerate heads.
        record: what earlier pruning wrote about the sites of the original, nothing for a model that was not pruned.
        elements: elements of all stored tensors of the model, None where they were not counted.
        find_neurons: finds the feed-forward blocks, which few ask for.
    """

    model: str
    sites: tuple[AttentionSite, ...]
    near_misses: tuple[NearMiss, ...] = field(default_factory=tuple)
    no_heads: tuple[NearMiss, ...] = field(default_factory=tuple)
    record: tuple[RecordedSite, ...] = ()
    elements: int | None = None
    find_neurons: Callable[[], tuple[NeuronSite, ...]] = field(default=_no_neurons, compare=False, repr=False)

    @cached_property
    def neurons(self) -> tuple[NeuronSite, ...]:
        """The feed-forward blocks, in graph order."""
        return self.find_neurons()

    def losing(self, units: Mapping[int, Sequence[int]]) -> tuple[Site, ...]:
        """The sites of all kinds that lose units.

        Args:
            units: what goes, per site index.
        """
        found: list[Site] = [site for site in self.sites if units.get(site.index)]
        if any(index >= NEURONS_FROM for index in units):
            found += [site for site in self.neurons if units.get(site.index)]
        return tuple(found)

    def concerned(self, units: Mapping[int, Sequence[int]]) -> tuple[Site, ...]:
        """All attention sites, and the feed-forward blocks that lose neurons.

        Args:
            units: what goes, per site index.
        """
        return (*self.sites, *(site for site in self.losing(units) if site not in self.sites))

    def at(self, index: int) -> Site:
        """The site of any kind with an index, which must be there."""
        some: Sequence[Site] = self.neurons if index >= NEURONS_FROM else self.sites
        return next(site for site in some if site.index == index)

    @property
    def every(self) -> tuple[Site, ...]:
        """The sites of all kinds."""
        return (*self.sites, *self.neurons)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, index: Any) -> Any:
        return self.sites[index]

    def _repr_html_(self) -> str:
        total = sum(site.num_heads for site in self)
        columns = ("#", "site", "kind", "heads", "kv heads", "head size", "elements", "removable")
        missed = [*self.near_misses, *self.no_heads]
        return card(
            f"{file_name(self.model)}: {many(len(self), 'attention site')}, {many(total, 'head')}",
            table(columns, map(_row, self), ("#", *columns[3:7])),
            table(
                ("attention that is no site", "why"), ((miss.node, miss.reason.sentence) for miss in missed)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The contract of `inspect --json`."""
        return {
            "model": self.model,
            "sites": [site.to_dict() for site in self.sites],
            "near_misses": [miss.to_dict() for miss in self.near_misses],
            "no_heads": [miss.to_dict() for miss in self.no_heads],
            "elements": self.elements,
            "feed_forward": [site.to_dict() for site in self.neurons],
        }


def _row(site: AttentionSite) -> tuple[str | Html, ...]:
    """Cells of a table in a notebook."""
    size = site.v_head_size if site.head_size is None else site.head_size
    removable = word("yes", GOOD) if site.reason is None else word(f"no: {site.reason.sentence}", BAD)
    counts = (str(site.num_heads), str(site.kv_num_heads), str(size), count(site.params))
    return str(site.index), site.name, site.kind, *counts, removable
