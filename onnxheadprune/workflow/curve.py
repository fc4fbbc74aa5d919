"""Costs and gains of cuts of many sizes: the result of `sweep`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxheadprune.attention.sites.kinds import kind_of_key
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.model.display import card, line, one_line, table
from onnxheadprune.model.spelling import accuracy, count, file_name, many
from onnxheadprune.model.storage.folder import write_text


@one_line("ratio removed drift accuracy speedup elements")
@dataclass(frozen=True)
class CurvePoint:
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
    def units(self) -> dict[str, int]:
        """The number of removed units of each kind."""
        found: dict[str, int] = {}
        for key, units in self.heads.items():
            kind = kind_of_key(key)
            name = "heads" if kind is None else kind.UNITS
            found[name] = found.get(name, 0) + len(units)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "ratio": self.ratio,
            "share": self.share,
            "removed": self.removed,
            "units": self.units,
            "heads": {index: list(heads) for index, heads in self.heads.items()},
            "drift": self.drift,
            "accuracy": self.accuracy,
            "speedup": self.speedup,
            "speed": None if self.speed is None else self.speed.to_dict(),
            "elements": self.elements,
            "recovery": None if self.recovery is None else dict(self.recovery),
        }


@one_line("model points heads unit knee measured_on")
@dataclass(frozen=True)
class Curve:
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
    unit: str
    points: tuple[CurvePoint, ...]
    knee: int | None
    elements: int | None = None
    counted: str = "heads"
    measured_on: str = "held-out data"

    def share(self, point: CurvePoint) -> float:
        """Return what a cut takes of what ratios are shares of."""
        return point.removed / max(self.heads, 1) if point.share is None else point.share

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "format": 1,
            "model": self.model,
            "heads": self.heads,
            "ratio_of": self.counted,
            "drift_unit": self.unit,
            "measured_on": self.measured_on,
            "points": [point.to_dict() for point in self.points],
            "knee": self.knee,
            "elements": self.elements,
        }

    def _repr_html_(self) -> str:
        labelled = any(point.accuracy is not None for point in self.points)
        columns = ["removed", "elements left", f"drift ({self.unit})", "times as fast", ""]
        rows = [
            [
                gone_words(self.counted, self.heads, point.removed, point.units),
                "" if point.elements is None else count(point.elements),
                f"{point.drift:.3g}",
                "" if point.speedup is None else f"{point.speedup:.2f}",
                "knee" if position == self.knee else "",
            ]
            for position, point in enumerate(self.points)
        ]
        if labelled:
            columns.insert(3, "accuracy")
            for row, point in zip(rows, self.points, strict=True):
                row.insert(3, "" if point.accuracy is None else accuracy(point.accuracy))
        measured = line("measured on", self.measured_on)
        return card(f"{file_name(self.model)}: what cuts cost", table(columns, rows, columns[:-1]), measured)

    def write(self, path: str | os.PathLike[str], run: Mapping[str, object] | None = None) -> None:
        """Write the curve as JSON.

        Args:
            path: where to.
            run: how to repeat it, None to leave that out.

        Raises:
            UsageError: if the file cannot be written.
        """
        told = self.to_dict() | ({} if run is None else {"run": dict(run)})
        write_text(path, json.dumps(told, indent=1) + "\n")


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
