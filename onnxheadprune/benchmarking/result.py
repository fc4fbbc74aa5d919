"""Results of a benchmark, as immutable data, and their facts. Times are in seconds, memory in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from onnxheadprune.benchmarking.flops import Flops
from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.benchmarking.measure import NO_DIFFERENCE, Ratio, Verdict
from onnxheadprune.display import facts as display
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Intervals, Part, Quantity, State, Table, Word
from onnxheadprune.display.spelling import count, many, rounded, share, short_names
from onnxheadprune.model.graph.operator import STANDS_FOR_PATTERN
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, written
from onnxheadprune.runtime import CPU, SUFFIX, Provider
from onnxheadprune.runtime.memory import Footprint

STATES: Mapping[str, State] = {"faster": "good", "slower": "bad", NO_DIFFERENCE: "open"}
CACHE_LAYOUT = ("ReorderInput", "ReorderOutput")
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
        parts = [f"batch {self.batch}"]
        if self.seq == 1 and self.past:
            parts.append(f"1 token after {self.past}")
        elif self.seq is not None:
            parts.append(f"seq {self.seq}" + (f" after {self.past}" if self.past else ""))
        parts += [f"{name} {size}" for name, size in self.dims.items()]
        return ", ".join(parts if self.extent is None else [*parts, f"size {self.extent}"])


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
    def interval(self) -> tuple[float, float]:
        """The speed-ups between which the verdict holds."""
        return 1 / self.ratio.high, 1 / self.ratio.low

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
        return bool(open_) and all(item.interval[1] >= least for _, item in self.cells)

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


def _is_fused(operator: str) -> bool:
    """Return whether an operator of an optimized graph ("Softmax", "com.microsoft:BiasGelu") stands for several."""
    domain, _, op_type = operator.rpartition(":")
    return op_type not in CACHE_LAYOUT and (bool(domain) or op_type in set(STANDS_FOR_PATTERN))


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

    @property
    def fused(self) -> dict[str, int]:
        """The fused operators, with their numbers."""
        return {name: number for name, number in self.operators.items() if _is_fused(name)}


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

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Short names of the models that differ."""
        return short_names([model.name for model in self.models])

    def facts(self) -> Facts:
        """The verdicts, the latencies with the intervals that they follow from, and what qualifies them."""
        verdicts = [self._answer(index) for index in range(1, len(self.models))]
        parts: list[Part] = []
        title, answer = "latency", ""
        state: State = ""
        if len(verdicts) == 1:
            title, (answer, state) = self.names[1], verdicts[0]
        else:
            parts += [Fact(name, *verdict) for name, verdict in zip(self.names[1:], verdicts, strict=True)]
        if self.gates:
            answer = f"{'accepted' if self.passed else 'rejected'}: {answer}".removesuffix(": ")
            state = "good" if self.passed else "bad"
        parts += [gate.fact for gate in self.gates]
        for name, model in zip(self.names, self.models, strict=True):
            parts += [Fact("not comparable", f"{name}: {why}", "doubtful") for why in model.differences]
        parts += [self._plot(), self._latencies(), Fact("ran on", self._where())]
        parts += [Fact("note", note, "doubtful") for note in self.notes]
        return Facts(title, answer, state, tuple(parts), tuple(self._details()))

    def _answer(self, model: int) -> tuple[str, State]:
        """The verdict on one model in words: of several sizes that differ, with the sizes."""
        by_verdict: dict[str, list[tuple[GridPoint, Comparison]]] = {}
        for point, item in self.speedup(model).cells:
            by_verdict.setdefault(item.verdict, []).append((point, item))
        parts = []
        for verdict, found in by_verdict.items():
            factors = [item.speedup for _, item in found]
            if verdict == NO_DIFFERENCE:
                # The factor alone would contradict the verdict.
                factors = [end for _, item in found for end in item.interval]
            low, high = min(factors), max(factors)
            spread = f"{low:.2f}x" if len(factors) == 1 else f"{low:.2f}x to {high:.2f}x"
            at = f" at {', '.join(point.label for point, _ in found)}" if len(by_verdict) > 1 else ""
            parts.append(f"{verdict}{at} ({spread})")
        return ", ".join(parts), STATES.get(self.verdict(model), "")

    def _by_size(self) -> Iterator[tuple[str, str, Cell]]:
        """All cells with their size and model in words, those of a size together."""
        for point in dict.fromkeys(cell.point.label for cell in self.cells):
            for cell in self.cells:
                if cell.point.label == point:
                    yield point, self.names[cell.model], cell

    def _latencies(self) -> Table:
        columns = ("sizes", "model", "median ms", "speed-up", "interval", "verdict")
        rows: list[tuple[display.Cell, ...]] = []
        for size, name, cell in self._by_size():
            last: tuple[display.Cell, ...] = ("", "", "")
            if cell.comparison is not None:
                found, (low, high) = cell.comparison, cell.comparison.interval
                state = "" if found.verdict == NO_DIFFERENCE else STATES[found.verdict]
                last = (f"{found.speedup:.2f}x", f"{low:.2f} to {high:.2f}", Word(found.verdict, state))
            rows.append((size, name, f"{1000 * cell.latency.p50:.3g}", *last))
        return Table(columns, tuple(rows), columns[2:5], columns[5:])

    def _plot(self) -> Intervals:
        """Medians with their intervals, size by size."""
        sizes = list(dict.fromkeys(cell.point.label for cell in self.cells))
        quantities = []
        for index, name in enumerate(self.names):
            own = {cell.point.label: cell.latency for cell in self.cells_of(index)}
            found = [own.get(size) for size in sizes]
            medians = tuple(None if each is None else 1000 * each.p50 for each in found)
            ends = tuple(None if each is None else (1000 * each.low, 1000 * each.high) for each in found)
            quantities.append(Quantity(name, medians, ends))
        title = f"{self.provider.label}, onnxruntime {self.versions['onnxruntime']}"
        unit = f"median latency with its {100 * self.settings['confidence']:.3g} % interval, ms"
        return Intervals(title, unit, tuple(sizes), tuple(quantities))

    def _details(self) -> Iterator[Part]:
        """Files, operations, memory, percentiles, bounds, and the method."""
        for index in range(1, len(self.models)):
            yield from self._saved(index)
        yield self._sizes()
        yield self._percentiles()
        for name, model in zip(self.names, self.models, strict=True):
            if model.operators:
                kinds = ", ".join(f"{number} {kind}" for kind, number in model.fused.items())
                yield Fact("fused", f"{name}: {kinds or 'none'}")
        for how in sorted({model.footprint.how for model in self.models if model.footprint is not None}):
            yield Fact("memory", f"{how}, at the largest size")
        yield Fact("method", self.method)

    def _saved(self, model: int) -> Iterator[Fact]:
        """The part of the time that the operations allow to be saved."""
        saved = [item.saved for _, item in self.speedup(model).cells]
        known = [part for part in saved if part is not None]
        if known and len(known) == len(saved):
            least, most = (share(part) if part <= 1 else "more than all" for part in (min(known), max(known)))
            span = least if len(known) == 1 else f"{least} at least, {most} at best"
            yield Fact("saved", f"{self.names[model]}: {span} of the time that its operations allow")

    def _sizes(self) -> Table:
        columns = ("model", "file", "params", "operations", "attention", "peak memory", "nodes")
        rows: list[tuple[display.Cell, ...]] = []
        for index, (name, model) in enumerate(zip(self.names, self.models, strict=True)):
            flops = self.cells_of(index)[-1].flops
            part, peak = (
                flops.attention_share,
                None if model.footprint is None else model.footprint.peak_bytes,
            )
            placed = ", ".join(
                f"{number} {where.removesuffix(SUFFIX)}" for where, number in model.placement.items()
            )
            rows.append(
                (
                    name,
                    rounded(model.file_bytes, "B"),
                    count(model.params),
                    rounded(flops.total) + ("+" if flops.uncounted else ""),
                    "" if part is None else share(part),
                    "not measured" if peak is None else rounded(peak, "B"),
                    placed or "unknown",
                )
            )
        return Table(columns, tuple(rows), columns[1:6], ("nodes",))

    def _percentiles(self) -> Table:
        columns = ("sizes", "model", "p90 ms", "p99 ms", "per second", "bound", "reached")
        rows: list[tuple[display.Cell, ...]] = []
        for size, name, cell in self._by_size():
            found, compared = cell.latency, cell.comparison
            bound, reached = (None, None) if compared is None else (compared.bound, compared.reached)
            rows.append(
                (
                    size,
                    name,
                    *(f"{1000 * seconds:.3g}" for seconds in (found.p90, found.p99)),
                    f"{found.throughput:,.4g}",
                    "" if bound is None else f"{bound:.3f}",
                    "" if reached is None else share(reached),
                )
            )
        return Table(columns, tuple(rows), columns[2:])

    @property
    def method(self) -> str:
        """A sentence on the measurement of latencies."""
        used, runs = self.settings, min(cell.latency.runs for cell in self.cells)
        graphs = ", CUDA graphs" if used["cuda_graph"] else ""
        return (
            f"{used['rounds']} rounds of fresh sessions, models in turn in random blocks, at least {runs} runs each"
            f"{graphs}; {used['confidence']:.1%} intervals of the speed-up over the rounds, from which the verdict"
            " follows"
        )

    def _where(self) -> str:
        stray = [
            f"{number} of {model.name}"
            for model in self.models
            if len(model.placement) > 1 and (number := model.placement.get(CPU))
        ]
        places = f"; nodes on the CPU: {', '.join(stray)}" if stray else ""
        name = f"{self.provider.label}, onnxruntime {self.versions['onnxruntime']}{places}"
        cards = [card["name"] for card in self.machine["cards"]]
        return "; ".join(
            [name, f"{self.machine['processor']}, {many(self.machine['cores'], 'core')}", *cards]
        )

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
