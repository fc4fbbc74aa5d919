"""Costs and gains of cuts of many sizes: the result of `sweep`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.benchmarking.summary import label_of
from onnxheadprune.model.display import Displayed, one_line
from onnxheadprune.model.documents import Document
from onnxheadprune.model.facts import Fact, Facts, Table
from onnxheadprune.model.spelling import accuracy as accuracy_words
from onnxheadprune.model.spelling import file_name, many
from onnxheadprune.model.storage.writing import write_json
from onnxheadprune.model.typed_json import JsonObject, Key, written
from onnxheadprune.settings.units import kind_of_key


@one_line("ratio removed drift accuracy speedup elements")
@dataclass(frozen=True)
class CurvePoint(JsonObject):
    """One cut.

    Attributes:
        ratio: the requested share of all heads, or of the operations or bytes of all blocks; see `Curve.counted`.
        removed: the number of removed units.
        heads: the removed units, as a spec.
        drift: on held-out data.
        accuracy: on held-out data, None without labels.
        speedup: measured against the original (`SpeedUp.value`); 1 where nothing was removed, None where it was
            not measured.
        speed: the measurement behind it, None where there is none.
        elements: elements of the stored tensors after it, None where that was not counted.
        share: the removed share of `Curve.counted`, None where that was not counted.
        recovery: training, None without: its steps, and why its weights are not written, null where they are.
    """

    ratio: float
    removed: int
    heads: Mapping[str, Sequence[int]]
    drift: float
    accuracy: float | None
    speedup: float | None
    speed: SpeedUp | None = None
    elements: int | None = None
    share: float | None = None
    recovery: Mapping[str, int | str | None] | None = None

    @property
    @written()
    def units(self) -> dict[str, int]:
        """The number of removed units of each kind."""
        found: dict[str, int] = {}
        for key, units in self.heads.items():
            kind = kind_of_key(key)
            name = "heads" if kind is None else kind.units
            found[name] = found.get(name, 0) + len(units)
        return found


@one_line("model points heads unit knee measured_on")
@dataclass(frozen=True)
class Curve(Displayed):
    """Cuts of growing size.

    Attributes:
        model: the model's name.
        heads: heads of all its sites.
        unit: of the drift.
        points: the cuts, the empty one first.
        knee: position of the point where further cuts begin to cost much more.
        elements: elements of the original's stored tensors, None where that was not counted.
        counted: what ratios are shares of: all "heads", or "operations" or "bytes" of all blocks that can lose units.
        measured_on: a description of the data for drift and accuracy, and what has not used it.
    """

    model: str
    heads: int
    unit: Annotated[str, Key("drift_unit")]
    points: tuple[CurvePoint, ...]
    knee: int | None
    elements: int | None = None
    counted: Annotated[str, Key("ratio_of")] = "heads"
    measured_on: str = "held-out data"

    def share(self, point: CurvePoint) -> float:
        """Return what a cut takes of what ratios are shares of."""
        return point.removed / max(self.heads, 1) if point.share is None else point.share

    @written()
    def format(self) -> int:
        """Of its document."""
        return 1

    def facts(self) -> Facts:
        """A row per cut, and what the columns are."""
        return curve_facts(self.to_dict())

    def write(self, path: str | os.PathLike[str], run: Mapping[str, object] | None = None) -> None:
        """Write the curve as JSON.

        Args:
            path: where to.
            run: how to repeat it, None to leave that out.

        Raises:
            UsageError: if the file cannot be written.
        """
        told = self.to_dict() | ({} if run is None else {"run": dict(run)})
        write_json(path, told)


def gone_words(counted: str, heads: int, removed: int, units: Mapping[str, int]) -> str:
    """Describe what a cut removes."""
    if counted == "heads":
        return f"{removed} of {heads}"
    return ", ".join(many(number, name.removesuffix("s")) for name, number in units.items()) or "nothing"


def recovery_words(points: Iterable[Mapping[str, object]]) -> str | None:
    """Describe the effect of training on cuts (of `CurvePoint.to_dict`); None where none was trained."""
    trained = [found for point in points if isinstance(found := point.get("recovery"), Mapping)]
    if not trained:
        return None
    better = sum(found["rejected"] is None for found in trained)
    others = "; the others keep their refit, which is nearer to the original on held-out data"
    return f"{better} of {many(len(trained), 'cut')}{others if better < len(trained) else ''}"


def curve_facts(document: Document) -> Facts:
    """A curve as `sweep --json` prints it: a row per cut, then the meaning of each column."""
    return Facts(
        f"{file_name(document['model'])}: what cuts cost",
        parts=(curve_table(document), *(Fact(*item) for item in column_words(document))),
    )


def curve_table(document: Document) -> Table:
    """A row per cut; the last column marks the knee.

    A size of inputs at which no difference in speed was measurable has an "=".
    """
    counted, sizes = document["ratio_of"], speed_sizes(document)
    by_share, several = counted != "heads", len(sizes) > 1
    columns = ("asked", *([counted] if by_share else []), "removed", "drift", "accuracy", "speed")
    columns = (*columns, *(sizes if several else []), "remark")
    rows = []
    for position, point in enumerate(document["points"]):
        accuracy, speedup, speed = point["accuracy"], point["speedup"], point["speed"]
        found = [_measured(cell) for cell in speed["at"]] if speed else [""] * len(sizes)
        rows.append(
            (
                f"{point['ratio']:.0%}",
                *([f"-{curve_share(document, point):.1%}"] if by_share else []),
                gone_words(counted, document["heads"], point["removed"], point["units"]),
                f"{point['drift']:.3g}",
                "" if accuracy is None else accuracy_words(accuracy),
                "" if speedup is None else f"{speedup:.2f}x",
                *(found if several else []),
                "knee" if position == document["knee"] else "",
            )
        )
    return Table(columns, tuple(rows), columns[:-1])


def _measured(cell: Document) -> str:
    return ("= " if cell["verdict"] == NO_DIFFERENCE else "") + f"{cell['speedup']:.2f}x"


def curve_share(document: Document, point: Document) -> float:
    """Return what a cut takes of what ratios are shares of."""
    share = point["share"]
    return float(point["removed"] / max(document["heads"], 1) if share is None else share)


def speed_sizes(document: Document) -> list[str]:
    """The sizes of inputs that the speed of a curve's cuts was measured at."""
    speed = next((point["speed"] for point in document["points"] if point["speed"]), None)
    return [] if speed is None else [label_of(cell["point"]) for cell in speed["at"]]


def column_words(document: Document) -> Iterator[tuple[str, str]]:
    """Yield the meaning of each column of a curve, with its name."""
    if document["ratio_of"] != "heads":
        yield "asked", f"shares of the {document['ratio_of']} of all blocks that can lose units"
    yield "drift", f"{document['drift_unit']} on {document['measured_on']}"
    if any(point["accuracy"] is not None for point in document["points"]):
        yield "accuracy", f"on {document['measured_on']}"
    recovered = recovery_words(document["points"])
    if recovered is not None:
        yield "recovered", recovered
    speed = next((point["speed"] for point in document["points"] if point["speed"]), None)
    if speed is not None:
        where = f"{'; '.join(speed_sizes(document))}, on {speed['provider']}, without refitted weights"
        yield "speed", f"the least over {where}; what is no measurable difference (=) counts as 1 at most"
