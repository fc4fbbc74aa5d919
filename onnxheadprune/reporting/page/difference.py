"""The difference of the two models, by site."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from onnxheadprune.reporting.layout import many
from onnxheadprune.reporting.page.documents import Document

ELSEWHERE = "outside of sites"
MOST = 3000
"""Rows that are listed: beyond, a page is no longer read but searched in the JSON."""


@dataclass(frozen=True)
class Group:
    """The changes of one site.

    Attributes:
        name: of the site.
        rows: the differences, as the document has them.
        summary: how many there are of each kind.
    """

    name: str
    rows: tuple[dict[str, Any], ...]
    summary: str


@dataclass(frozen=True)
class DifferenceList:
    """All groups.

    Attributes:
        groups: sites in the order of the model, then the rest.
        shown: rows that are listed.
        total: rows that there are.
    """

    groups: tuple[Group, ...]
    shown: int
    total: int


def difference_list(document: Document) -> DifferenceList:
    """Return what tells the two models apart.

    Args:
        document: the result of `prune` or `fuse`.
    """
    rows = document.get("differences") or []
    order = [cut["name"] for cut in document["plan"]["cuts"]]
    by_site: dict[str, list[dict[str, Any]]] = {}
    for item in rows[:MOST]:
        by_site.setdefault(item["site"] or ELSEWHERE, []).append(item)
    position = {name: index for index, name in enumerate(order)}
    names = sorted(by_site, key=lambda name: (name == ELSEWHERE, position.get(name, len(order)), name))
    groups = tuple(Group(name, tuple(by_site[name]), _summary(by_site[name])) for name in names)
    return DifferenceList(groups, min(len(rows), MOST), len(rows))


_WORDS = {
    "narrowed": "tensor narrowed",
    "refitted": "tensor refitted",
    "tensor removed": "tensor removed",
    "tensor added": "tensor added",
    "attribute": "attribute changed",
    "input": "input rewired",
    "node removed": "node removed",
    "node added": "node added",
}


def _summary(rows: list[dict[str, Any]]) -> str:
    counts = Counter(item["what"] for item in rows)
    return ", ".join(_counted(number, _WORDS.get(what, what)) for what, number in counts.items())


def _counted(number: int, words: str) -> str:
    noun, _, verb = words.partition(" ")
    return f"{many(number, noun)} {verb}"
