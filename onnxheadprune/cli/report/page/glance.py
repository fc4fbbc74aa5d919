"""The cut at a glance: what there was, what there is, and how much that is less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxheadprune.cli.report.layout import change, count, size
from onnxheadprune.cli.report.page.documents import Document
from onnxheadprune.edit.plan import NeuronCut


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


def quantities(document: Document) -> list[Quantity]:
    """What a cut changes in size.

    Args:
        document: the result of `prune` or `fuse`.
    """
    return list(_quantities(document))


def blocks(document: Document) -> list[Quantity]:
    """What is left of each feed-forward block; nothing where none lost neurons.

    Args:
        document: the result of `prune` or `fuse`.
    """
    cuts = neuron_cuts(document)
    return [_counted(f"{cut.key} {cut.name}", cut.left + len(cut.removed), cut.left) for cut in cuts]


def neuron_cuts(document: Document) -> list[NeuronCut]:
    """What a plan says of feed-forward blocks; nothing where none lost neurons."""
    return [NeuronCut.from_dict(item) for item in document["plan"].get("neurons", ())]


def _quantities(document: Document) -> Iterator[Quantity]:
    cuts = document["plan"]["cuts"]
    before = sum(cut["num_heads"] - len(cut["removed_before"]) for cut in cuts)
    yield _counted("attention heads", before, sum(cut["heads_left"] for cut in cuts))
    neurons = neuron_cuts(document)
    if neurons:
        left = sum(cut.left for cut in neurons)
        yield _counted("neurons", left + sum(len(cut.removed) for cut in neurons), left)
    if document.get("before") and document.get("after"):
        there, here = document["before"], document["after"]
        yield _counted("stored elements", there["elements"], here["elements"], note="weights and constants")
        if not document.get("file_bytes"):
            yield _bytes("weights", there["bytes"], here["bytes"])
    files = document.get("file_bytes")
    if files:
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
