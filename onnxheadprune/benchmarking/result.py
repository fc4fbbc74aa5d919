"""Results of a benchmark, as immutable data. Times are in seconds, memory in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from onnxheadprune.benchmarking.flops import Flops
from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.benchmarking.measure import NO_DIFFERENCE, Ratio, Verdict
from onnxheadprune.benchmarking.summary import bench_facts, label_of
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Facts
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, written
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.memory import Footprint

MIXED = "mixed"
NO_BOUND = 1.005
"""A cut that saves less of the operations than this leaves nothing to reach."""


@one_line()
@dataclass(frozen=True)
class GridPoint(JsonObject):
    """One combination of sizes.

    Attributes:
        batch: samples.
        seq: length of the sequence; 1 with a `past` is one decode step. None for models without such an axis.
        past: length of the cache, None for models without one.
        extent: side of images or length of sound, None for models without such an axis.
        dims: sizes of single symbols.
    """

    batch: int
    seq: int | None = None
    past: int | None = None
    extent: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The sizes in words."""
        return label_of(self.to_dict())


@one_line()
@dataclass(frozen=True)
class Latency(JsonObject):
    """Latencies of one model at one grid point.

    Attributes:
        p50, p90, p99: percentiles of single runs.
        low, high: confidence interval of the median over rounds of sessions.
        mean: the arithmetic mean.
        runs: how many were timed.
        throughput: samples per second (sequences, or tokens of a decode step) at the median.
        settled: whether the warm-up reached a steady median.
    """

    p50: float
    p90: float
    p99: float
    low: float
    high: float
    mean: float
    runs: int
    throughput: float
    settled: bool


@one_line("ratio bound")
@dataclass(frozen=True)
class Comparison(JsonObject):
    """One model against the first one at one grid point.

    Attributes:
        ratio: its latency over the first model's, with the interval that the verdict follows from.
        bound: the speed-up that Amdahl's law allows this cut, by operations; None where they are not known.
    """

    ratio: Ratio
    bound: Annotated[float | None, Key("speedup_bound")]

    @property
    @written()
    def verdict(self) -> Verdict:
        """Return "faster", "no measurable difference" or "slower"."""
        return self.ratio.verdict

    @property
    @written()
    def speedup(self) -> float:
        """The speed as a multiple of the first model's."""
        return 1 / self.ratio.value

    @property
    def most(self) -> float:
        """The largest speed-up that the noise leaves possible."""
        return 1 / self.ratio.low

    @property
    @written("reached_of_bound")
    def reached(self) -> float | None:
        """The speed-up as a fraction of the bound."""
        return None if self.bound is None else self.speedup / self.bound

    @property
    @written("saved_of_bound")
    def saved(self) -> float | None:
        """The time saved as a fraction of the time that the bound says can be saved: the stricter measure.

        None where no time was measurably saved, or there is nothing to save.
        """
        if self.bound is None or self.bound < NO_BOUND or self.verdict != "faster":
            return None
        return (1 - self.ratio.value) / (1 - 1 / self.bound)


@dataclass(frozen=True)
class SpeedUp:
    """The speed of one model relative to another, which targets, limits and curves use."""

    cells: tuple[tuple[GridPoint, Comparison], ...]  # the comparison at each grid point
    provider: Provider  # where it was measured

    @property
    def value(self) -> float:
        """The smallest speed-up over the grid that was truly measured: "no measurable difference" counts as 1."""
        return min(
            min(item.speedup, 1.0) if item.verdict == NO_DIFFERENCE else item.speedup
            for _, item in self.cells
        )

    @property
    def verdict(self) -> str:
        """The verdict at every grid point, "mixed" where they differ."""
        found = {item.verdict for _, item in self.cells}
        return found.pop() if len(found) == 1 else MIXED

    def reaches(self, least: float) -> bool:
        """Return whether it is so many times as fast at every grid point; noise reaches nothing above 1."""
        return self.value >= least

    def is_too_noisy(self, least: float) -> bool:
        """True if noise hides whether it is so many times as fast, and even that there is a difference."""
        open_ = [item for _, item in self.cells if item.verdict == NO_DIFFERENCE]
        return bool(open_) and all(item.most >= least for _, item in self.cells)

    def __str__(self) -> str:
        return "; ".join(f"{point.label}: {_words(item)}" for point, item in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "value": self.value,
            "verdict": self.verdict,
            "provider": self.provider.label,
            "at": [{"point": point.to_dict(), **item.to_dict()} for point, item in self.cells],
        }


def _words(item: Comparison) -> str:
    if item.verdict == NO_DIFFERENCE:
        return f"{NO_DIFFERENCE} ({item.speedup:.2f}x)"
    return f"{item.speedup:.2f}x"


@one_line("model point latency comparison")
@dataclass(frozen=True)
class Cell(JsonObject):
    """One model at one grid point; the first model is compared with nothing."""

    model: int
    point: GridPoint
    latency: Annotated[Latency, Key("latency_seconds")]
    flops: Flops
    comparison: Comparison | None


@one_line("name params file_bytes")
@dataclass(frozen=True)
class ModelFacts(JsonObject):
    """Facts of a model that do not depend on the grid.

    Attributes:
        name: of the model.
        file_bytes: size on disk, weights beside the file included.
        params: elements of the stored tensors, Constants included.
        operators: nodes of the graph that ONNX Runtime optimized, by operator.
        placement: nodes per execution provider.
        footprint: memory at the largest grid point, None if not asked for.
        differences: why a comparison of latencies with the first model does not tell what the cut does.
    """

    name: str
    file_bytes: int
    params: int
    operators: Mapping[str, int]
    placement: Mapping[str, int]
    footprint: Annotated[Footprint | None, Key("memory")] = None
    differences: tuple[str, ...] = ()

    @property
    @written()
    def comparable(self) -> bool:
        """True if ONNX Runtime runs it with the same fused operators in the same places as the first model."""
        return not self.differences


@one_line("models cells provider notes")
@dataclass(frozen=True)
class Benchmark(Displayed):
    """Everything that `bench` measured.

    Attributes:
        models: the models; the first is the reference.
        points: the grid.
        cells: one per model and grid point.
        provider: where it ran.
        settings: of the measurement: rounds, time budget, threads, seed and so on.
        versions: of onnx and onnxruntime.
        machine: processor, cores, load and card.
        notes: what else a reader should know.
        gates: the limits that were set, and whether they are kept.
    """

    models: tuple[ModelFacts, ...]
    points: Annotated[tuple[GridPoint, ...], HIDDEN]
    cells: tuple[Cell, ...]
    provider: Provider
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def passed(self) -> bool:
        """True if all limits are kept."""
        return all(gate.passed for gate in self.gates)

    def facts(self) -> Facts:
        """The verdicts, the latencies, and what qualifies them."""
        return bench_facts(self.to_dict())

    @written("verdicts")
    def _verdicts(self) -> dict[str, str]:
        return {str(index): self.verdict(index) for index in range(1, len(self.models))}

    @written("guaranteed")
    def _guaranteed(self) -> dict[str, float]:
        return {str(index): self.guaranteed(index) for index in range(1, len(self.models))}

    def cells_of(self, model: int) -> tuple[Cell, ...]:
        """The cells of one model in the order of the grid."""
        return tuple(cell for cell in self.cells if cell.model == model)

    def verdict(self, model: int) -> str:
        """Return what holds at every grid point, "mixed" where they differ."""
        return self.speedup(model).verdict

    def limited(self, least: float) -> tuple[Gate, ...]:
        """Return one gate per compared model: its speed-up over the grid must reach `least`."""
        found = [(facts.name, self.speedup(index)) for index, facts in enumerate(self.models) if index]
        return tuple(
            Gate("min_speedup", name, least, speed.value, speed.reaches(least)) for name, speed in found
        )

    def speedup(self, model: int) -> SpeedUp:
        """One model against the first over the grid."""
        cells = self.cells_of(model)
        compared = tuple((cell.point, cell.comparison) for cell in cells if cell.comparison is not None)
        return SpeedUp(compared, self.provider)

    def guaranteed(self, model: int) -> float:
        """The smallest speed-up over the grid that was truly measured: "no measurable difference" counts as 1."""
        return self.speedup(model).value
