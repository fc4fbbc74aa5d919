"""All sites of a model, of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.site import Findings, NearMiss, Site
from onnxheadprune.model.analysis_errors import NotAnalysed
from onnxheadprune.model.display import Displayed, one_line
from onnxheadprune.model.facts import Cell, Facts, Table, Word
from onnxheadprune.model.spelling import count, file_name, many
from onnxheadprune.settings.units import HEAD, UnitKind


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
