"""All sites of a model, of every kind, and attention sites: a core that produces contexts per head, and projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from onnxheadprune.attention.sites.held import Stay, needed_heads, still_computed
from onnxheadprune.attention.sites.site import Findings, NearMiss, Site
from onnxheadprune.edit.records import RecordedUnits
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.analysis_errors import NotAnalysed
from onnxheadprune.model.display import Displayed, one_line
from onnxheadprune.model.facts import Cell, Facts, Table, Word
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.spelling import count, file_name, many
from onnxheadprune.settings.units import HEAD, UnitKind


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
        }


@one_line("model sites near_misses others")
@dataclass(frozen=True)
class Sites(Sequence[AttentionSite], Displayed):
    """All sites of a model in order of their index, and attention that is no site.

    Each product of attention weights and values is in one of the three.

    Attributes:
        model: name of the model.
        sites: the sites, also by `[]`, `len` and iteration.
        near_misses: attention with heads that cannot be distinguished or cut, with the reasons.
        no_heads: attention in which no axis can enumerate heads.
        elements: elements of all stored tensors of the model, None where they were not counted.
        others: finds the sites of each other kind, on demand.
        ignored_declarations: declared shapes that operators contradict, one sentence each.
        failed: the searches for other kinds that ran and ended in an unexpected error.
    """

    model: str
    sites: tuple[AttentionSite, ...]
    near_misses: tuple[NearMiss, ...] = field(default_factory=tuple)
    no_heads: tuple[NearMiss, ...] = field(default_factory=tuple)
    elements: int | None = None
    others: Mapping[UnitKind, Callable[[], Findings]] = field(default_factory=dict, compare=False, repr=False)
    ignored_declarations: tuple[str, ...] = field(default=(), compare=False, repr=False)
    failed: Sequence[NotAnalysed] = field(default=(), compare=False, repr=False)

    @classmethod
    def gathered(
        cls,
        name: str,
        every: Iterable[Site],
        kinds: Iterable[UnitKind],
    ) -> Sites:
        """Combine sites of several models as if they were one model's.

        Args:
            name: the name of that model.
            every: sites of all kinds, with distinct indices.
            kinds: these kinds.
        """
        some = tuple(every)
        heads = tuple(site for site in some if isinstance(site, AttentionSite))
        found: dict[UnitKind, tuple[Site, ...]] = {
            kind: tuple(site for site in some if kind.owns(site.index)) for kind in kinds if kind is not HEAD
        }
        return cls(
            name,
            heads,
            others={kind: partial(Findings, own) for kind, own in found.items()},
        )

    @property
    def neurons(self) -> tuple[Site, ...]:
        """The feed-forward blocks, in graph order."""
        return self.of("neurons")

    def of(self, units: str) -> tuple[Site, ...]:
        """The sites of one kind, in graph order.

        Args:
            units: the kind's name of its units ("heads", "neurons").

        Raises:
            Exception: the unexpected error that ended the search for them.
        """
        if units == HEAD.units:
            return self.sites
        return next(
            (tuple(find().asked_for()) for kind, find in self.others.items() if units == kind.units), ()
        )

    def losing(self, units: Mapping[int, Sequence[int]]) -> tuple[Site, ...]:
        """The sites of all kinds that lose units.

        Args:
            units: what goes, per site index.
        """
        found: list[Site] = [site for site in self.sites if units.get(site.index)]
        for kind, find in self.others.items():
            if any(map(kind.owns, units)):
                found += [site for site in find().asked_for() if units.get(site.index)]
        return tuple(found)

    def concerned(self, units: Mapping[int, Sequence[int]]) -> tuple[Site, ...]:
        """All attention sites, and those of other kinds that lose units.

        Args:
            units: what goes, per site index.
        """
        return (*self.sites, *(site for site in self.losing(units) if site not in self.sites))

    def at(self, index: int) -> Site:
        """The site of any kind with an index, which must exist."""
        found = next((find for kind, find in self.others.items() if kind.owns(index)), None)
        some: Sequence[Site] = self.sites if found is None else found().asked_for()
        return next(site for site in some if site.index == index)

    @property
    def every(self) -> tuple[Site, ...]:
        """The sites of all kinds.

        Raises:
            Exception: the unexpected error that ended the search for parts of layers.
        """
        for kind, find in self.others.items():
            if kind.in_layers:
                find().asked_for()
        return self.known

    @property
    def known(self) -> tuple[Site, ...]:
        """The sites of all kinds, without those whose search ended in an unexpected error."""
        return (*self.sites, *(site for find in self.others.values() for site in find().sites))

    @property
    def hidden(self) -> tuple[NearMiss, ...]:
        """Near misses of all kinds other than heads, with the reasons."""
        return tuple(miss for find in self.others.values() for miss in find().near_misses)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, index: Any) -> Any:
        return self.sites[index]

    def facts(self) -> Facts:
        """The attention sites, and attention that is none."""
        total = sum(site.num_heads for site in self)
        columns = ("#", "site", "kind", "heads", "kv heads", "head size", "elements", "removable")
        missed = [*self.near_misses, *self.no_heads]
        reasons = tuple((miss.node, miss.reason.sentence) for miss in missed)
        return Facts(
            f"{file_name(self.model)}: {many(len(self), 'attention site')}, {many(total, 'head')}",
            parts=(
                Table(columns, tuple(map(_row, self)), columns[3:7]),
                Table(("attention that is no site", "why"), reasons),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The output of `inspect --json`."""
        return {
            "model": self.model,
            "sites": [site.to_dict() for site in self.sites],
            "near_misses": [miss.to_dict() for miss in (*self.near_misses, *self.hidden)],
            "no_heads": [miss.to_dict() for miss in self.no_heads],
            "elements": self.elements,
            "ignored_declarations": list(self.ignored_declarations),
            "not_analysed": [item.to_dict() for item in self.failed],
            **{kind.field: [site.to_dict() for site in find().sites] for kind, find in self.others.items()},
        }


def _row(site: AttentionSite) -> tuple[Cell, ...]:
    removable = Word("yes", "good") if site.reason is None else Word(f"no: {site.reason.sentence}", "bad")
    counts = (str(site.num_heads), site.kv_count, str(site.head_size), count(site.params))
    return site.tag, site.name, site.kind, *counts, removable
