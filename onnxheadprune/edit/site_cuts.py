"""The cut of a site in a plan: units that are removed now, those removed before, and how many are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxheadprune.edit.records import HEADS, MAX_UNITS
from onnxheadprune.model.display import one_line
from onnxheadprune.model.spelling import read_ranges, spelled
from onnxheadprune.model.typed_json import JsonObject

HEADS_KEY = "attn."
"""The optional prefix of keys of attention sites, which people always see."""
HEADS_KIND = (HEADS, "attention block")


ALWAYS = ("neurons",)
"""Kinds whose list is in every plan, be it empty."""


@one_line("key name removed num_units")
@dataclass(frozen=True, kw_only=True)
class SiteCut(JsonObject):
    """The cut of one site; units are indices of the original, unpruned model.

    Attributes:
        number: its position among the sites of its kind in the original.
        name: module path, as far as the original told it.
        num_units: units in the original: query heads of an attention site.
        removed: the units that are removed.
        removed_before: those that an earlier cut removed.
        key: the site's key in a spec.
        kind: the names of its units, and of sites of its kind: ("neurons", "feed-forward block").
        kv_num_heads: key/value heads in the original, of an attention site.
        kv_removed: key/value heads that are removed.
    """

    number: int
    name: str
    num_units: int
    removed: tuple[int, ...]
    removed_before: tuple[int, ...] = ()
    key: str
    kind: tuple[str, str] = HEADS_KIND
    kv_num_heads: int = 0
    kv_removed: int = 0

    @property
    def units(self) -> str:
        """The name of the units, in the plural."""
        return self.kind[0]

    @property
    def called(self) -> str:
        """The site's name in messages, tables and pages."""
        return f"{HEADS_KEY}{self.key}" if self.units == HEADS else self.key

    @property
    def left(self) -> int:
        """Units that remain."""
        return self.num_units - len(self.removed) - len(self.removed_before)

    @property
    def index(self) -> int:
        """The position of an attention site among those of the original."""
        return self.number

    @property
    def num_heads(self) -> int:
        """Query heads in the original."""
        return self.num_units

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: of heads their indices, of units of which there may be many thousands ranges."""
        are_heads = self.units == HEADS
        listed: Callable[[Sequence[int]], Any] = list if are_heads else spelled
        site = (
            {"index": self.number, "kv_num_heads": self.kv_num_heads, "kv_removed": self.kv_removed}
            if are_heads
            else {"site": self.kind[1], "key": self.key, "number": self.number}
        )
        return site | {
            "name": self.name,
            f"num_{self.units}": self.num_units,
            "removed": listed(self.removed),
            "removed_before": listed(self.removed_before),
            f"{self.units}_left": self.left,
        }


def by_units(cuts: Iterable[SiteCut]) -> dict[str, list[dict[str, Any]]]:
    """The cuts of sites of other kinds as JSON-ready data, a list for each kind."""
    lists: dict[str, list[dict[str, Any]]] = {units: [] for units in ALWAYS}
    for cut in cuts:
        lists.setdefault(cut.units, []).append(cut.to_dict())
    return lists


def other_cuts(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int, int]]:
    """Yield the cuts of sites without heads in the document of a plan: (units, cut, removed, left)."""
    for units in plan["kinds"]:
        for cut in plan[units]:
            yield units, cut, len(read_ranges(cut["removed"], MAX_UNITS)), cut[f"{units}_left"]


def counts_in(plan: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield removed and remaining units of sites without heads in the document of a plan."""
    return ((units, lost, left) for units, _, lost, left in other_cuts(plan))


def totals(counts: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Removed and remaining units of each kind that loses some, summed over sites: (units, removed, left)."""
    found: dict[str, tuple[int, int]] = {}
    for units, lost, left in counts:
        gone, stay = found.get(units, (0, 0))
        found[units] = gone + lost, stay + left
    return [(units, lost, left) for units, (lost, left) in found.items() if lost]
