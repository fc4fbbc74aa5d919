"""The cut at a glance: what there was, what there is, and how much that is less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxheadprune.edit.site_cuts import block_cuts, totals
from onnxheadprune.reporting.layout import change, count, size
from onnxheadprune.reporting.page.documents import Document, Shipped


@dataclass(frozen=True)
class Quantity:
    """One line: before, after, and the part that is left as a bar.

    Attributes:
        name: of what is counted.
        before: how much it was.
        after: how much it is.
        change: in words ("-24.3 %").
        left: percent of it that is left, None where that says nothing.
        note: how it was counted; empty where it is plain.
    """

    name: str
    before: str
    after: str
    change: str
    left: float | None = None
    note: str = ""


def quantities(document: Document, shipped: Shipped | None = None) -> list[Quantity]:
    """Return what a cut changes in size.

    Args:
        document: the result of `prune` or `fuse`.
        shipped: the model that a job made of it, whose files count.
    """
    return list(_quantities(document, shipped))


def blocks(document: Document) -> dict[str, list[Quantity]]:
    """What is left of each site of another kind than heads, by what its units are called; nothing where none was cut.

    Args:
        document: the result of `prune` or `fuse`.
    """
    found: dict[str, list[Quantity]] = {}
    for cut in block_cuts(document["plan"]):
        quantity = _counted(f"{cut.key} {cut.name}", cut.left + len(cut.removed), cut.left)
        found.setdefault(cut.units, []).append(quantity)
    return found


def _quantities(document: Document, shipped: Shipped | None) -> Iterator[Quantity]:
    cuts = document["plan"]["cuts"]
    before = sum(cut["num_heads"] - len(cut["removed_before"]) for cut in cuts)
    after, others = sum(cut["heads_left"] for cut in cuts), totals(block_cuts(document["plan"]))
    if after < before or not others:
        yield _counted("attention heads", before, after)
    for units, gone, left in others:
        yield _counted(units, left + gone, left)
    if document.get("before") and document.get("after"):
        there, here = document["before"], document["after"]
        yield _counted("stored elements", there["elements"], here["elements"], note="weights and constants")
        if not document.get("file_bytes"):
            yield _bytes("weights", there["bytes"], here["bytes"])
    files = document.get("file_bytes")
    if shipped is not None:
        yield _bytes("file", shipped.before, shipped.after, f"{shipped.name}, with the files of its weights")
    elif files:
        yield _bytes("file", files["before"], files["after"], "with the files of its weights")
    done = document.get("operations")
    if done:
        part = "" if done["complete"] else "; some could not be counted"
        shapes = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in done["shapes"].items())
        yield Quantity(
            "operations of a run",
            _operations(done["before"]),
            _operations(done["after"]),
            change(done["before"], done["after"]),
            _left(done["before"], done["after"]),
            f"products only, at {shapes}{part}",
        )


def _counted(name: str, before: int, after: int, note: str = "") -> Quantity:
    return Quantity(name, count(before), count(after), change(before, after), _left(before, after), note)


def _bytes(name: str, before: int, after: int, note: str = "") -> Quantity:
    return Quantity(name, size(before), size(after), change(before, after), _left(before, after), note)


def _left(before: int, after: int) -> float | None:
    return 100 * after / before if before and after <= before else None


def _operations(number: int) -> str:
    amount = float(number)
    for unit in ("", "thousand", "million", "billion"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}".strip()
        amount /= 1000
    return f"{amount:,.3g} trillion"
