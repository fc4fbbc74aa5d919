"""The result of a validation, as immutable data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Part, State, Table, Word
from onnxheadprune.display.spelling import file_name, first_few, many, measure, share
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Spelled, written
from onnxheadprune.runtime import SUFFIX, Provider
from onnxheadprune.runtime.feeds.data import Basis
from onnxheadprune.runtime.tolerances import POWER, Tolerance
from onnxheadprune.validation.figures import Accuracy, Distance, Drift, MetricResult
from onnxheadprune.validation.headline import Exact, Headline, headline_of
from onnxheadprune.validation.summary import Result

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.result import Benchmark


LISTED = 5
"""Differences that are spelled out."""
KnownSizes: TypeAlias = tuple[int | None, ...]
"""A shape, None along axes of which nothing is known."""
Verdict: TypeAlias = Literal["passed", "failed", "inconclusive"]
Settings: TypeAlias = Literal["exact", "deployed", "on the CPU", "against the CPU"]


def shows(power: float, error: float, epsilon: float) -> bool:
    """Return whether a wrong cut would have shown: its effect is far above the observed difference, and above rounding.

    Args:
        power: how far silencing the heads moves the outputs, relative to their scale.
    """
    return power > 0 and power >= POWER * max(error, epsilon)


@one_line("source settings max_abs_error tolerance feeds")
@dataclass(frozen=True)
class CaseResult(JsonObject):
    """Pruned against masked on inputs of one kind.

    Attributes:
        source: "random"; or "data" of the user.
        settings: "exact" (graph optimizations and TF32 off), "deployed" (ONNX Runtime's defaults), "on the CPU" (exact,
            as a second opinion), "against the CPU" (the provider's pruned model against the CPU's).
        feeds: how many feeds were run.
        shapes: shape of each input (of the first feed).
        tolerance: allowed error, relative to the output's scale.
        max_abs_error: largest absolute difference of any output.
        max_rel_error: largest difference relative to the scale of its output.
        worst_output: the output where that is.
        power: how far silencing the heads moves the outputs, relative to their scale.
        epsilon: the relative distance of neighboring floats, below which no effect counts.
        finite: whether the masked reference gave numbers that can be compared: NaN and infinities only where the
            original has them too.
    """

    source: str
    settings: Settings
    feeds: int
    shapes: Mapping[str, tuple[int, ...]]
    tolerance: float
    max_abs_error: float
    max_rel_error: float
    worst_output: str
    power: float
    epsilon: float
    finite: bool

    @property
    @written()
    def passed(self) -> bool:
        """True if the error is within the tolerance."""
        return self.max_rel_error <= self.tolerance

    def joined(self, other: CaseResult) -> CaseResult:
        """Both as one result: the larger error, of one that is too large if there is one, and the larger power."""
        bad = max(self, other, key=lambda case: (not case.passed, case.max_rel_error))
        return replace(
            self,
            feeds=self.feeds + other.feeds,
            tolerance=bad.tolerance,
            max_abs_error=bad.max_abs_error,
            max_rel_error=bad.max_rel_error,
            worst_output=bad.worst_output,
            power=max(self.power, other.power),
            finite=self.finite and other.finite,
        )

    @property
    def is_exact(self) -> bool:
        """True if it ran at exact settings."""
        return self.settings == "exact"

    @property
    @written()
    def conclusive(self) -> bool:
        """True if a wrong cut would have shown."""
        return self.finite and shows(self.power, self.max_rel_error, self.epsilon)


@dataclass(frozen=True)
class RefitDrift(JsonObject):
    """The effect of refitted tensors: the drift from the original with them, and without them."""

    source: str  # "random" or "data"
    refitted: Drift  # of the pruned model
    bare: Drift  # of the same cut with the original's tensors


@dataclass(frozen=True)
class Tried(JsonObject):
    """The inputs of a verdict that rests on numbers alone."""

    difference: Annotated[str, HIDDEN]  # what is not as planned
    feeds: Annotated[int, Key("inputs")]  # inputs on which both models gave the same numbers
    # the smallest and the largest size by what it is called: "lengths", "sides", "batches", "pasts"
    sizes: Mapping[str, tuple[int, int]]

    @property
    @written()
    def sentence(self) -> str:
        """The first line: "the graph is not the planned one; equal on 61 inputs, lengths 1 to 311"."""
        spans = (
            f"{name} {least} to {most}" if least < most else f"{name} of {most}"
            for name, (least, most) in self.sizes.items()
        )
        return ", ".join([f"{self.difference}; equal on {many(self.feeds, 'input')}", *spans])


@dataclass(frozen=True)
class Likeness(JsonObject):
    """The degree to which a pruned model's graph is the expected one."""

    nodes: int  # nodes of the pruned model, those of bodies included
    same: int  # how many of them compute what a node of the expected graph computes
    tensors: int  # stored tensors that hold the expected bytes
    differences: tuple[str, ...]  # where the two differ first, one sentence each, the first few
    count: int  # how many places there are
    # how many of them are declarations; the others are nodes and tensors
    declared: Annotated[int, HIDDEN] = 0
    # sizes of outputs that only the pruned model declares, None along other axes
    fixed: Annotated[Mapping[str, KnownSizes], HIDDEN] = field(default_factory=dict)
    # tensors that keep their name and hold other bytes, nodes that draw random numbers and are not expected
    altered: Annotated[tuple[str, ...], HIDDEN] = ()
    random: Annotated[tuple[str, ...], HIDDEN] = ()

    @property
    @written()
    def identical(self) -> bool:
        """True if nothing differs but names and order."""
        return not self.count

    @property
    def sentence(self) -> str:
        """The likeness of the graph and the expected one, in words."""
        if self.identical:
            return f"{many(self.nodes, 'node')}, all as planned but for names and order"
        same = f"{self.same} of {many(self.nodes, 'node')} are the planned ones"
        return f"{same}; it differs from the plan in {many(self.count, 'place')}"

    @property
    def notes(self) -> Iterator[str]:
        """The differences as notes."""
        yield from (f"not as planned: {difference}" for difference in self.differences)
        if self.count > len(self.differences):
            yield f"not as planned: {self.count - len(self.differences)} more places"


def _kept_of(tokens: tuple[int, int] | None) -> dict[str, int] | None:
    return None if tokens is None else {"kept": tokens[0], "of": tokens[1]}


@one_line("verdict reason original pruned heads drift accuracy metric")
@dataclass(frozen=True)
class Validation(Displayed):
    """The verdict on one pruned model, and everything it rests on.

    Attributes:
        original: name of the original model.
        pruned: name of the pruned model.
        verdict: "passed"; "failed"; or "inconclusive" where a wrong cut could not have been seen.
        reason: one sentence that says why.
        problems: what failed, one sentence each.
        notes: what else a reader should know.
        heads: the removed heads per site index, as indices of the unpruned model.
        tolerance: what was allowed.
        cases: what was run.
        drift: pruned against original, None where nothing ran.
        accuracy: on the labels of the data, None without labels.
        metric: the user's own measure, None if there was none.
        weights_compared: stored tensors that hold the bytes of the plan.
        provider: where it ran.
        placement: nodes of the pruned model per execution provider.
        versions: of onnx and onnxruntime.
        seed: of the random inputs.
        likeness: how far the pruned model's graph is the planned one.
        refitted: names of the tensors that are taken from the pruned model.
        refit: what those do, None where there are none or nothing ran.
        exits: numbers of the early exits that the pruned model has for good and the original has not.
        units: the removed units of all kinds, as a spec.
        tokens: how many tokens the pruned model has kept, and of how many; None where it has all of them.
        without: the same as people read it: layers and sublayers that are gone, units of others, exits.
        tried: the inputs that a verdict on numbers alone rests on, None for any other verdict.
        gates: the limits that were set, and whether they are kept.
        benchmark: the latencies behind a limit of the speed-up; None without one.
    """

    original: str
    pruned: str
    verdict: Verdict
    reason: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    heads: Mapping[int, tuple[int, ...]]
    tolerance: Tolerance
    cases: tuple[CaseResult, ...]
    drift: Drift | None
    accuracy: Accuracy | None
    metric: MetricResult | None
    weights_compared: int
    provider: Provider
    placement: Mapping[str, int]
    versions: Mapping[str, str]
    seed: int
    likeness: Annotated[Likeness, Key("structure")]
    refitted: tuple[str, ...] = ()
    refit: RefitDrift | None = None
    exits: tuple[int, ...] = ()
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    tokens: Annotated[tuple[int, int] | None, Spelled(Any, _kept_of)] = None
    tried: Tried | None = None
    gates: Annotated[tuple[Gate, ...], HIDDEN] = ()
    benchmark: Annotated[Benchmark | None, HIDDEN] = None

    @property
    @written()
    def exact(self) -> Exact:
        """The answer to "is it exact?"; "tried" where the graph is not the planned one and numbers alone agree."""
        if self.verdict == "passed":
            return "yes" if self.likeness.identical else "tried"
        return "no" if self.verdict == "failed" else "not shown"

    @property
    def passed(self) -> bool:
        """True if the pruned model was shown to equal the masked reference, and all limits are kept."""
        return self.verdict == "passed" and all(gate.passed for gate in self.gates)

    @property
    @written("max_rel_error")
    def error(self) -> float | None:
        """The largest relative error of the exact cases, None if nothing ran."""
        return max((case.max_rel_error for case in self.cases if case.is_exact), default=None)

    @property
    def allowed(self) -> float:
        """The tolerance at exact settings."""
        return max((case.tolerance for case in self.cases if case.is_exact), default=self.tolerance.exact)

    @property
    @written()
    def power(self) -> float:
        """The largest effect of silencing the heads in a finite exact case."""
        return max((c.power for c in self.cases if c.is_exact and c.finite), default=0.0)

    def on(self, data: Basis) -> Validation:
        """The same verdict, where figures of the user's data say what that is and what has seen it before."""
        drift, found, metric = self.drift, self.accuracy, self.metric
        return replace(
            self,
            drift=drift if drift is None or drift.source == "random" else replace(drift, **vars(data)),
            accuracy=None if found is None else replace(found, **vars(data)),
            metric=None if metric is None else replace(metric, **vars(data)),
        )

    @property
    def headline(self) -> Headline:
        """The answers on exactness, quality and limits."""
        return headline_of([self.to_dict()], self.gates)

    @property
    def verdict_fact(self) -> Fact:
        """The verdict and what it rests on."""
        states: Mapping[str, State] = {"yes": "good", "no": "bad"}
        return Fact("validation", f"{self.verdict}: {self.reason}", states.get(self.exact, "doubtful"))

    def document(self) -> dict[str, Any]:
        """See `Displayed`; with the limits that were set, and the answers by them."""
        measured = {} if self.benchmark is None else {"benchmark": self.benchmark.to_dict()}
        judged = {"gates": [gate.to_dict() for gate in self.gates], "accepted": self.passed}
        return {**super().document(), "headline": self.headline.to_dict(), **measured, **judged}

    def facts(self) -> Facts:
        """The verdict on the pruned model, its costs, and the cases that were run."""
        document = self.to_dict()
        told = Result(file_name(self.pruned), (), self.headline, [document], gates=self.gates).facts()
        return replace(told, details=(Fact("original", file_name(self.original)), *self.details))

    @property
    def details(self) -> tuple[Part, ...]:
        """The runs and comparisons that the verdict rests on."""
        return tuple(self._details())

    def _details(self) -> Iterator[Part]:
        if self.without:
            yield Fact("without", ", ".join(self.without))
        columns = ("inputs", "settings", "shapes", "error", "allowed", "effect", "")
        rows = tuple(
            (
                case.source if case.feeds == 1 else f"{case.source} x{case.feeds}",
                case.settings,
                _few_shapes(case.shapes),
                measure(case.max_rel_error),
                f"{case.tolerance:.0e}",
                f"{case.power:.1e}" if case.finite else "not finite",
                Word("ok", "good") if case.passed else Word("differs", "bad"),
            )
            for case in self.cases
        )
        if rows:
            yield Table(columns, rows, columns[3:6], ("shapes",))
        yield self.verdict_fact
        yield from (Fact("problem", problem, "bad") for problem in self.problems[1:])
        if self.drift is not None:
            yield Fact("drift", _drift(self.drift))
        if self.accuracy is not None:
            output, known = self.accuracy.output, self.accuracy.measured_on
            yield Fact("accuracy", f"{many(self.accuracy.count, 'label')} (argmax of {output}) on {known}")
        yield Fact("weights", f"{many(self.weights_compared, 'stored tensor')} compared bit by bit")
        yield Fact("graph", self.likeness.sentence)
        placed = [f"{number} on {name.removesuffix(SUFFIX)}" for name, number in self.placement.items()]
        where = f" (nodes: {', '.join(placed)})" if len(placed) > 1 else ""
        runtime = self.versions.get("onnxruntime", "?")
        yield Fact("ran on", f"{self.provider.label}{where}, onnxruntime {runtime}")

    def stamp(self) -> str:
        """One line for the metadata of a model: verdict, where, how exact. The same on every run."""
        error = "" if self.error is None else f" error {self.error:.1e} (allowed {self.allowed:.0e})"
        runtime = f"onnxruntime {self.versions.get('onnxruntime', '?')}"
        return f"{self.verdict} {self.provider.label}{error} {self.tolerance.precision} {runtime}"


def too_far(cases: Sequence[CaseResult]) -> Iterator[str]:
    """A sentence for each case in which outputs differ by more than is allowed."""
    for case in cases:
        if not case.passed and case.worst_output:
            yield (
                f"{case.worst_output} differs from the masked reference by {case.max_rel_error:.1e} of its"
                f" scale, where {case.tolerance:.0e} is allowed ({case.settings} settings,"
                f" {spell(case.shapes)})"
            )


def spell(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Shapes by name, the first few."""
    return first_few((f"{name} {list(shape)}" for name, shape in shapes.items()), 3)


def strict_gate(pruned: str, exact: Exact) -> Gate:
    """The limit that `--strict` sets: equality is proven by the graph, and not only tried."""
    return Gate("strict", file_name(pruned), 1, int(exact == "yes"), exact == "yes", exact)


def drift_gate(drift: Drift | Distance | None, limit: float) -> Gate:
    """The drift of a pruned model from the unmasked original, where that was measured."""
    return Gate("max_drift", "no output", limit, None, False) if drift is None else drift.gate(limit)


def _few_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    listed = [f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()]
    return ", ".join(listed) if len(listed) < 3 else f"{listed[0]}, {len(listed) - 1} more"


def _drift(drift: Drift) -> str:
    value = "" if drift.value is None else f" {drift.value:.3g} ({drift.measure}),"
    agreement = "" if drift.top1_agreement is None else f", top-1 agreement {share(drift.top1_agreement)}"
    return (
        f"{drift.output} against the original on {drift.measured_on}:{value} largest difference"
        f" {drift.max:.3g} and mean difference {drift.mean:.3g} of its scale, cosine {drift.cosine:.4f}{agreement}"
    )
