"""All sites of a model, of every kind, and attention sites: a core that produces contexts per head, and projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from onnxheadprune.attention.sites.needed import Stay, needed_heads, still_computed
from onnxheadprune.attention.sites.site import Findings, NearMiss, Site
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Cell, Fact, Facts, Part, Table, Word
from onnxheadprune.display.spelling import count, many, spelled
from onnxheadprune.edit.records import RecordedUnits
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.analysis_errors import NotAnalysed
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.one_line import one_line
from onnxheadprune.settings.cutting import UNITS
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
        """The sites of all kinds with why some cannot be cut, and what looks like a site and is none."""
        heads = sum(site.num_heads for site in self)
        counts = (
            f"{many(len(self), 'attention site')}, {many(heads, 'head')}" if self else "no attention site"
        )
        return Facts(f"{self.model}: {counts}", parts=tuple(self._parts()))

    def _parts(self) -> Iterator[Part]:
        if self:
            yield self._table()
        blocked = [f"{site.label}: {site.reason}" for site in self if site.reason is not None]
        yield from _listed("blocked", "no single head can be removed from these:", blocked)
        yield from self.missed()
        for kind, find in self.others.items():
            # Layers have a table of their own.
            if kind.scored_by and (sites := find().sites):
                yield _table_of(kind, sites)
                reasons = (f"{site.label}: {site.reason}" for site in sites if site.reason is not None)
                yield from (Fact(f"{kind.block}s", reason, "doubtful") for reason in reasons)

    def _table(self) -> Table:
        before = ("removed before",) if any(site.removed for site in self) else ()
        columns = ("#", "site", "kind", "heads", "kv", "size", "params", "removable", *before)
        rows = tuple((*_row(site), *(spelled(site.removed) or "-" for _ in before)) for site in self)
        return Table(columns, rows, columns[3:7])

    def missed(self, where: str = "") -> tuple[Fact, ...]:
        """The near misses with their reasons, and declared shapes that operators contradict.

        Args:
            where: the files of a folder that hold it, where there are several.
        """
        lists = [
            ("near misses", "these look like attention, but heads cannot be removed", self.near_misses),
            ("no heads", "of these one attention map weighs all channels", self.no_heads),
            *(
                (
                    "near misses",
                    f"these look like a {kind.title}, but cannot lose {kind.units}",
                    find().near_misses,
                )
                for kind, find in self.others.items()
            ),
        ]
        found = [
            (label, text, [f"{miss.node}: {miss.reason.sentence}" for miss in missed])
            for label, text, missed in lists
        ]
        text = "these declared shapes contradict the operators"
        found.append(("shapes", text, list(self.ignored_declarations)))
        return tuple(
            fact for label, text, lines in found for fact in _listed(label, f"{text}{where}:", lines)
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
    size = (
        str(site.head_size) if site.head_size == site.v_head_size else f"{site.head_size}/{site.v_head_size}"
    )
    counts = (str(site.num_heads), site.kv_count, size, count(site.params))
    return site.tag, site.name, site.kind, *counts, _removable(site)


def _removable(site: Site) -> Word:
    """Return whether units of a site can be removed: "yes", "whole" where only all of them can, "no"."""
    if site.removable:
        return Word("yes", "good")
    return Word("whole", "doubtful") if site.removable_whole else Word("no", "bad")


def _table_of(kind: UnitKind, sites: Sequence[Site]) -> Table:
    """The sites of a kind other than attention."""
    # Of what is its own only unit the number is known.
    several = (kind.units,) if any(site.original_num_units > 1 for site in sites) else ()
    option = f" (--{kind.units})" if kind.units in UNITS.split() else ""
    units = f", {many(sum(site.num_units for site in sites), kind.unit)}{option}" if several else ""
    details = tuple(dict.fromkeys(name for site in sites for name in site.details))
    sorts = ("kind",) if any(site.kind for site in sites) else ()
    rows: list[tuple[Cell, ...]] = []
    for site in sites:
        number = count(site.num_units) + (f" of {count(site.original_num_units)}" if site.removed else "")
        known = (site.details.get(name, "-") for name in details)
        cells = (*(site.kind for _ in sorts), *(number for _ in several), *known, count(site.params))
        rows.append((site.tag, site.name, *cells, _removable(site)))
    numeric = (*several, *details, "params")
    title = f"{many(len(sites), kind.title)}{units}"
    return Table(("#", kind.block, *sorts, *numeric, "removable"), tuple(rows), numeric, title=title)


def _listed(label: str, text: str, lines: Sequence[str]) -> Iterator[Fact]:
    """A sentence, and below it what it is about; nothing where that is nothing."""
    if lines:
        yield Fact(label, text, "doubtful")
        yield from (Fact("", line, "doubtful") for line in lines)
