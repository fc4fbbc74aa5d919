"""The cuts of a plan, site by site: units that are removed now, those removed before, and how many are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from onnxheadprune.edit.records import MAX_UNITS, Units
from onnxheadprune.model.display import one_line
from onnxheadprune.model.typed_json import (
    Between,
    FieldError,
    JsonObject,
    Key,
    Name,
    Size,
    at,
    read_document,
    shown,
    written,
)

ALWAYS = ("neurons",)
"""Kinds whose list is in every plan, be it empty."""


HEADS_KEY = "attn."
"""The optional prefix of keys of attention sites, which people always see."""


@dataclass(frozen=True, kw_only=True)
class UnitsCut(JsonObject, ABC):
    """The cut of one site of any kind; units are indices of the original, unpruned model.

    Attributes:
        number: its position among the sites of its kind in the original.
        name: module path, as far as the original told it.
        num_units: units in the original.
        removed: the units that are removed.
        removed_before: those that an earlier cut removed.
    """

    number: Annotated[int, Between(0, MAX_UNITS)]
    name: str
    num_units: Annotated[int, Between(1, MAX_UNITS)]
    removed: tuple[Size, ...]
    removed_before: tuple[Size, ...] = ()

    def __post_init__(self) -> None:
        if max((*self.removed, *self.removed_before), default=0) >= self.num_units:
            raise ValueError(f"more is removed than the {self.num_units} units that there are")

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

    number: Annotated[int, Between(0, MAX_UNITS), Key("index")]
    num_units: Annotated[int, Between(1, MAX_UNITS), Key("num_heads")]
    kv_num_heads: Annotated[int, Between(1, MAX_UNITS), Key(before="removed")]
    kv_removed: Size = 0

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
    @written()
    def heads_left(self) -> int:
        """Query heads that remain."""
        return self.left


@dataclass(frozen=True, kw_only=True)
class BlockCut(UnitsCut):
    """The cut of one site of another kind than heads."""

    removed: Units
    removed_before: Units = ()
    key: Annotated[Name, Key(before="number")]  # how a spec names the site
    # what the kind calls its units, and its sites: ("neurons", "feed-forward block")
    kind: Annotated[tuple[Name, Name], Key(before="key")]

    @property
    def units(self) -> str:
        """The name of the units, in the plural."""
        return self.kind[0]

    @property
    def called(self) -> str:
        """The site's name in messages, tables and pages."""
        return self.key


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


def written_by_units(cuts: Iterable[BlockCut]) -> dict[str, Any]:
    """The cuts of other kinds as JSON-ready data: a list for each kind, and the names of these lists."""
    lists: dict[str, list[dict[str, Any]]] = {units: [] for units in ALWAYS}
    for cut in cuts:
        document = cut.to_dict()
        _, site = document.pop("kind")
        number = {f"num_{cut.units}" if key == "num_units" else key: value for key, value in document.items()}
        lists.setdefault(cut.units, []).append({"site": site, **number, f"{cut.units}_left": cut.left})
    return {"kinds": list(lists), **lists}


def block_cuts_of(plan: Mapping[str, Any]) -> tuple[BlockCut, ...]:
    """The cuts of other kinds in the document of a plan."""
    kinds = plan.get("kinds", ALWAYS)
    return read_by_units({"kinds": list(kinds)} | {units: plan.get(units, []) for units in kinds})


def read_by_units(content: Any) -> tuple[BlockCut, ...]:
    """The inverse of `written_by_units`."""
    lists = dict(content)
    cuts = []
    for units in at(".kinds", partial(read_document, tuple[Name, ...]), lists.get("kinds")):
        for place, item in enumerate(
            at(f".{units}", partial(read_document, tuple[Any, ...]), lists.get(units))
        ):
            document = dict(read_document(Mapping[str, Any], item))
            document["kind"] = [units, document.pop("site", None)]
            document["num_units"] = document.pop(f"num_{units}", None)
            document.pop(f"{units}_left", None)
            cuts.append(at(f".{units}[{place}]", partial(read_document, BlockCut), document))
    unknown = [name for name in content if name not in written_by_units(cuts)]
    if unknown:
        raise FieldError(f"the field {shown(unknown[0])} is unknown")
    if written_by_units(cuts) != content:
        raise FieldError(
            "kinds: the lists of the cuts are not those that it names, or a number of units left is wrong"
        )
    return tuple(cuts)
