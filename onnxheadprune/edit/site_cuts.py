"""The cuts of a plan, site by site: units that are removed now, those removed before, and how many are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnxheadprune.model.display import one_line
from onnxheadprune.model.spelling import read_ranges, spelled

ALWAYS = ("neurons",)
"""Kinds whose list is in every plan, be it empty."""


HEADS_KEY = "attn."
"""What keys of attention sites may begin with, and begin with wherever people read them."""


@dataclass(frozen=True, kw_only=True)
class UnitsCut(ABC):
    """The cut of one site of any kind; units are indices of the original, unpruned model.

    Attributes:
        number: its position among the sites of its kind in the original.
        name: module path, as far as the original told it.
        num_units: units in the original.
        removed: the units that are removed.
        removed_before: those that an earlier cut removed.
    """

    number: int
    name: str
    num_units: int
    removed: tuple[int, ...]
    removed_before: tuple[int, ...] = ()

    @property
    @abstractmethod
    def units(self) -> str:
        """The name of the units, in the plural."""

    @property
    @abstractmethod
    def called(self) -> str:
        """The site's name in messages, tables and pages."""

    @property
    def left(self) -> int:
        """Units that remain."""
        return self.num_units - len(self.removed) - len(self.removed_before)


@one_line("index name removed num_heads kv_num_heads")
@dataclass(frozen=True, kw_only=True)
class SiteCut(UnitsCut):
    """The cut of one attention site, whose units are heads.

    Attributes:
        kv_num_heads: key/value heads in the original.
        kv_removed: key/value heads that are removed.
    """

    kv_num_heads: int
    kv_removed: int = 0

    @property
    def index(self) -> int:
        """Its position among the attention sites of the original."""
        return self.number

    @property
    def units(self) -> str:
        """The name of the units, in the plural."""
        return "heads"

    @property
    def key(self) -> str:
        """The site's key in a spec."""
        return str(self.number)

    @property
    def called(self) -> str:
        """The site's name in messages, tables and pages."""
        return f"{HEADS_KEY}{self.number}"

    @property
    def num_heads(self) -> int:
        """Query heads in the original."""
        return self.num_units

    @property
    def heads_left(self) -> int:
        """Query heads that remain."""
        return self.left

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "index": self.number,
            "name": self.name,
            "num_heads": self.num_units,
            "kv_num_heads": self.kv_num_heads,
            "removed": list(self.removed),
            "removed_before": list(self.removed_before),
            "kv_removed": self.kv_removed,
            "heads_left": self.left,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SiteCut:
        """The inverse of `to_dict`."""
        return cls(
            number=data["index"],
            name=data["name"],
            num_units=data["num_heads"],
            removed=tuple(data["removed"]),
            removed_before=tuple(data["removed_before"]),
            kv_num_heads=data["kv_num_heads"],
            kv_removed=data["kv_removed"],
        )


@dataclass(frozen=True, kw_only=True)
class BlockCut(UnitsCut):
    """The cut of one site of another kind than heads."""

    kind: tuple[str, str]  # what the kind calls its units, and its sites: ("neurons", "feed-forward block")
    key: str  # how a spec names the site

    @property
    def units(self) -> str:
        """The name of the units, in the plural."""
        return self.kind[0]

    @property
    def called(self) -> str:
        """The site's name in messages, tables and pages."""
        return self.key

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; units as ranges, since they are many."""
        return {
            "site": self.kind[1],
            "key": self.key,
            "number": self.number,
            "name": self.name,
            f"num_{self.units}": self.num_units,
            "removed": spelled(self.removed),
            "removed_before": spelled(self.removed_before),
            f"{self.units}_left": self.left,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], units: str) -> BlockCut:
        """The inverse of `to_dict`."""
        size = int(data[f"num_{units}"])
        return cls(
            number=int(data["number"]),
            name=str(data["name"]),
            num_units=size,
            removed=read_ranges(data["removed"], size - 1),
            removed_before=read_ranges(data["removed_before"], size - 1),
            kind=(units, str(data.get("site", "block"))),
            key=str(data["key"]),
        )


def totals(cuts: Iterable[BlockCut]) -> list[tuple[str, int, int]]:
    """For each kind that loses units: what they are called, how many go, and how many stay."""
    found: dict[str, list[BlockCut]] = {}
    for cut in cuts:
        found.setdefault(cut.units, []).append(cut)
    return [
        (units, sum(len(cut.removed) for cut in some), sum(cut.left for cut in some))
        for units, some in found.items()
        if any(cut.removed for cut in some)
    ]


def block_cuts_of(data: Mapping[str, Any]) -> tuple[BlockCut, ...]:
    """The cuts of other kinds in the document of a plan; plans of earlier versions have neurons at most."""
    kinds = data.get("kinds", ALWAYS)
    return tuple(BlockCut.from_dict(item, units) for units in kinds for item in data.get(units, ()))
