"""Costs and gains of cuts of many sizes: the result of `sweep`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, get_args

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Curves, Fact, Facts, Part, Quantity, Table
from onnxheadprune.display.spelling import accuracy as accuracy_words
from onnxheadprune.display.spelling import count, file_name, many
from onnxheadprune.errors import UsageError
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.writing import write_json
from onnxheadprune.model.typed_json import JsonObject, Key, written
from onnxheadprune.settings.units import kind_of_key

Against: TypeAlias = Literal["heads", "operations", "bytes", "parameters", "speedup"]
COUNTED: tuple[Against, ...] = ("heads", "operations", "bytes")
"""The wholes that ratios may be shares of."""


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

    @written()
    def format(self) -> int:
        """Of its document."""
        return 1

    def share(self, point: CurvePoint) -> float:
        """The share that a cut removes of what is counted."""
        return point.removed / max(self.heads, 1) if point.share is None else point.share

    def gone(self, point: CurvePoint) -> str:
        """Describe what a cut removes."""
        if self.counted == "heads":
            return f"{point.removed} of {self.heads}"
        units = (many(number, name.removesuffix("s")) for name, number in point.units.items())
        return ", ".join(units) or "nothing"

    @property
    def recovered(self) -> str | None:
        """The effect of training on the cuts, None where none was trained."""
        trained = [point.recovery for point in self.points if point.recovery is not None]
        if not trained:
            return None
        better = sum(found["rejected"] is None for found in trained)
        others = "; the others keep their refit, which is nearer to the original on held-out data"
        return f"{better} of {many(len(trained), 'cut')}{others if better < len(trained) else ''}"

    def facts(self) -> Facts:
        """The plot, a row per cut, and the meaning of each column."""
        parts: tuple[Part, ...] = (self.plot(), self._table(), *self._columns())
        return Facts(f"{file_name(self.model)}: what cuts cost", parts=parts)

    def _table(self) -> Table:
        """A row per cut; the last column marks the knee.

        A size of inputs at which no difference in speed was measurable has an "=".
        """
        by_share, sizes = self.counted != "heads", self._sizes()
        several = sizes if len(sizes) > 1 else ()
        columns = ("asked", *([self.counted] if by_share else []), "removed", "drift", "accuracy", "speed")
        rows = tuple(
            (
                f"{point.ratio:.0%}",
                *([f"-{self.share(point):.1%}"] if by_share else []),
                self.gone(point),
                f"{point.drift:.3g}",
                "" if point.accuracy is None else accuracy_words(point.accuracy),
                "" if point.speedup is None else f"{point.speedup:.2f}x",
                *(_speed_at(point, size) for size in range(len(several))),
                "knee" if position == self.knee else "",
            )
            for position, point in enumerate(self.points)
        )
        return Table((*columns, *several, "remark"), rows, (*columns, *several))

    def _sizes(self) -> tuple[str, ...]:
        """The sizes of inputs that speed was measured at."""
        speed = next((point.speed for point in self.points if point.speed is not None), None)
        return () if speed is None else tuple(point.label for point, _ in speed.cells)

    def _columns(self) -> Iterator[Fact]:
        """Yield the meaning of each column, with its name."""
        if self.counted != "heads":
            yield Fact("asked", f"shares of the {self.counted} of all blocks that can lose units")
        yield Fact("drift", f"{self.unit} on {self.measured_on}")
        if any(point.accuracy is not None for point in self.points):
            yield Fact("accuracy", f"on {self.measured_on}")
        if self.recovered is not None:
            yield Fact("recovered", self.recovered)
        speed = next((point.speed for point in self.points if point.speed is not None), None)
        if speed is not None:
            where = f"{'; '.join(self._sizes())}, on {speed.provider.label}, without refitted weights"
            least = f"the least over {where}; what is no measurable difference (=) counts as 1 at most"
            yield Fact("speed", least)

    def plot(self, x: Against | None = None) -> Curves:
        """Drift, accuracy and measured speed along one axis.

        Args:
            x: the axis: the removed share of heads, operations or bytes, the remaining share of parameters, or
                the measured speed. None is the share that ratios were given for.

        Raises:
            UsageError: if `x` is none of these, or was not measured.
        """
        counted: Against = next(item for item in COUNTED if item == self.counted)
        x = x or counted
        if x not in get_args(Against):
            raise UsageError(f"a curve is drawn against {', '.join(get_args(Against))}, not {x!r}")
        if x in COUNTED and x != counted:
            raise UsageError(
                f"the ratios of this curve are of {counted}, not of {x}; draw it against {counted}, parameters or"
                " speedup"
            )
        along = self._along(x)
        if any(value is None for value in along.values):
            raise UsageError(
                f"the curve does not say what its cuts have of {x}; sweep again, or draw it against {counted}"
            )
        lines = [
            self._quantity(f"drift ({self.unit})", lambda point: point.drift),
            self._quantity("accuracy, %", lambda point: _percent(point.accuracy)),
            *([] if x == "speedup" else [self._speed()]),
        ]
        words = "" if self.knee is None else f"knee: {self._gone_at(self.points[self.knee])} removed"
        known = tuple(line for line in lines if line.is_known) or tuple(lines[:1])
        return Curves(file_name(self.model), along, known, self.knee, words)

    def _gone_at(self, point: CurvePoint) -> str:
        if self.counted == "heads":
            return f"{point.removed} of {self.heads} heads"
        return f"{100 * self.share(point):.0f} % of {self.counted}"

    def _quantity(self, label: str, value: Callable[[CurvePoint], float | None]) -> Quantity:
        return Quantity(label, tuple(map(value, self.points)))

    def _speed(self) -> Quantity:
        """The least speed-up over the measured sizes, with the interval at that size."""
        least = [
            None
            if point.speed is None
            else min((item for _, item in point.speed.cells), key=lambda item: item.speedup)
            for point in self.points
        ]
        return Quantity(
            "times as fast",
            tuple(point.speedup for point in self.points),
            tuple(None if item is None else (1 / item.ratio.high, 1 / item.ratio.low) for item in least),
            tuple(item is not None and item.verdict == NO_DIFFERENCE for item in least),
        )

    def _along(self, x: Against) -> Quantity:
        if x in COUNTED:
            label = f"% of {self.heads}" if x == "heads" else "% of those of all blocks"
            return self._quantity(f"{x} removed, {label}", lambda point: 100 * self.share(point))
        if x == "speedup":
            return self._speed()
        whole = self.elements
        label = "parameters left" if whole is None else f"parameters left, % of {count(whole)}"
        return self._quantity(label, lambda point: None if not whole else _percent(point.elements, whole))

    def write(self, path: str | os.PathLike[str], run: Mapping[str, object] | None = None) -> None:
        """Write the curve as JSON.

        Args:
            path: where to.
            run: how to repeat it, None to leave that out.

        Raises:
            UsageError: if the file cannot be written.
        """
        told = self.document() | ({} if run is None else {"run": dict(run)})
        write_json(path, told)


def _speed_at(point: CurvePoint, size: int) -> str:
    if point.speed is None:
        return ""
    _, found = point.speed.cells[size]
    return f"{'= ' if found.verdict == NO_DIFFERENCE else ''}{found.speedup:.2f}x"


def _percent(part: float | None, whole: float = 1) -> float | None:
    return None if part is None else 100 * part / whole
