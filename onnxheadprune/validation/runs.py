"""Runs the original, the masked reference and the pruned model side by side."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.errors import InferenceError, MissingKernelError, UsageError, without_frames
from onnxheadprune.model.graph.main_output import MainOutput, main_output
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import first_few
from onnxheadprune.runtime import CPU, Session
from onnxheadprune.runtime.deterministic import label, random_nodes
from onnxheadprune.runtime.feeds.fill import Padding
from onnxheadprune.runtime.feeds.generate import Feed, FeedMaker, Outputs, narrowed, rows_of
from onnxheadprune.runtime.feeds.samples import DataSource, Sample
from onnxheadprune.validation.compare import AccuracyMeter, DriftMeter, Gap, comparable, has_nan, stray, worst
from onnxheadprune.validation.declarations import contradicted
from onnxheadprune.validation.deployment import KeptFeed, Models, as_deployed, judged, second_opinion
from onnxheadprune.validation.request import ValidationRequest
from onnxheadprune.validation.result import Accuracy, CaseResult, Drift, RefitDrift, spell, too_far
from onnxheadprune.validation.rounds import OriginalRun, Runner, rounds

if TYPE_CHECKING:
    from onnxheadprune.validation.extra_inputs import Wide
    from onnxheadprune.validation.metric import MetricMeter, MetricResult


@dataclass
class Compared:
    """The inputs on which the outputs of both models were compared at exact settings."""

    feeds: int = 0
    # the sizes of each axis of each input
    sizes: dict[tuple[str, int], set[int]] = field(default_factory=dict)

    def add(self, feed: Feed) -> None:
        """Count one."""
        self.feeds += 1
        for name, value in feed.items():
            for axis, size in enumerate(value.shape):
                self.sizes.setdefault((name, axis), set()).add(size)


@dataclass(frozen=True)
class Findings:
    """The result of the runs; `unsteady` is the reason why the original cannot be compared with anything, if any."""

    cases: tuple[CaseResult, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    drift: Drift | None
    accuracy: Accuracy | None
    placement: dict[str, int]
    metric: MetricResult | None = None
    refit: RefitDrift | None = None
    unsteady: str = ""
    sensitivity: float | None = None
    compared: Compared = field(default_factory=Compared)


MORE_ROUNDS = 3
"""Number of times that all kinds of random feeds are made once more where rounding decides."""
NO_NUMBERS = (
    "where the original itself gives NaN, with the heads and without them, nothing is compared, and on such inputs a"
    " deployment is not checked"
)
NOTHING_RAN = Findings((), (), (), None, None, {})


def run_all(models: Models, request: ValidationRequest, metric: MetricMeter | None = None) -> Findings:
    """Random feeds, the user's data, a pass at deployment settings, a second opinion of the CPU."""
    bench = _Bench(models, request, metric)
    try:
        bench.random_cases(request.seed)
        if bench.sensitivity.largest is not None:
            # On a few feeds a wrong cut may move no more than rounding does.
            bench.more_random_cases(request.seed)
        if models.wide is not None:
            bench.wide_cases(models.wide, request.seed)
        if request.data is not None:
            bench.data_cases(request.data)
        placement = bench.pruned.session.placement()
    except _PrunedFailedError as error:
        return replace(NOTHING_RAN, problems=(str(error),))
    bench.further_opinions()
    models.turns.rest()
    return bench.findings(placement)


class _PrunedFailedError(Exception):
    """The pruned model cannot do what the original can; its text is the problem."""


def _load_pruned(models: Models) -> Session:
    try:
        return models.session(models.pruned, "the pruned model")
    except InferenceError as error:
        raise _PrunedFailedError(str(error)) from error


class _Bench:
    def __init__(self, models: Models, request: ValidationRequest, metric: MetricMeter | None) -> None:
        self.models, self.metric = models, metric
        # A user's measure sees the user's data alone, where there is some.
        self.measured = "random" if request.data is None else "data"
        self.original = models.session(models.original, "the original model")
        self.masked = Runner(lambda: models.session(models.masked, "the masked reference"))
        self.pruned = Runner(lambda: _load_pruned(models), lambda feed: narrowed(feed, models.planning.io))
        self.silenced = self._if_there(models.silenced, "the original without its fused sites")
        self.alive = self._if_there(models.alive, "the original before the heads were cut")
        self.aside = self._if_there(models.aside, "the original with its decision forced the other way")
        self.unrefitted = self._if_there(models.unrefitted, "the masked original without its refit")
        self.sensitivity = models.sensitivity
        self.cases: list[CaseResult] = []
        self.compared = Compared()
        self.problems: list[str] = []
        self.notes: list[str] = []
        if drawing := random_nodes(models.original.proto):
            named = first_few([label(node) for node in drawing])
            self.notes.append(f"random nodes output the same fixed numbers in all compared models: {named}")
        self.unsteady: list[str] = []
        self.kept: list[KeptFeed] = []
        self.maker = FeedMaker(models.asked, request.seed)
        self.inputs = self.maker.inputs
        self.main: MainOutput | None = main_output(models.planning.view, models.planning.io.changed)
        self.drifts: dict[str, DriftMeter] = {}
        self.bare: dict[str, DriftMeter] = {}
        self.moved = None if self.main is None else EffectMeter(self.main, self.inputs, request.effect)
        self.accuracy: AccuracyMeter | None = None

    def _if_there(self, model: LoadedModel | None, name: str) -> Runner | None:
        models = self.models  # a runner that held this object would keep its session from ending with it
        return None if model is None else Runner(lambda: models.session(model, name))

    def random_cases(self, seed: int) -> None:
        maker = self.maker
        maker.seed = seed
        obstacles: list[str] = []
        ran: list[OriginalRun] = []
        for case in maker.cases:
            found = maker.first_that_runs(case, self.original.run)
            if isinstance(found, MissingKernelError):
                raise without_frames(found)
            if isinstance(found, InferenceError):
                obstacles.append(str(found))
                # Where the first case finds nothing, the others will not: the search is long.
                if len(obstacles) == 1 and not ran:
                    break
            else:
                ran.append(OriginalRun(*found, deploy=case.padding is not Padding.LEFT))
        for held in rounds(ran):
            self.cases += [case for _, case, _ in self._compared("random", held)]
        if maker.note:
            self.notes.append(maker.note)
        if obstacles and not self.cases:
            self.notes.append(f"no random inputs fit the original model: {obstacles[0]}")

    def more_random_cases(self, seed: int) -> None:
        """Further random feeds, as one case."""
        made, self.cases = self.cases, []
        for more in range(1, MORE_ROUNDS + 1):
            self.random_cases(seed + more)
        self.cases = [*made, functools.reduce(CaseResult.joined, self.cases)] if self.cases else made

    def wide_cases(self, wide: Wide, seed: int) -> None:
        """Yield inputs that the usual ones leave out; sizes that the original cannot take are skipped."""
        self.problems += wide.problems
        allowed = self.models.tolerance.deployed
        tails: list[Feed] = []

        def ran() -> Iterator[OriginalRun]:
            for item in wide.feeds(self.maker):
                with contextlib.suppress(InferenceError):
                    tails.extend([item.feed] if item.tails else [])
                    yield OriginalRun(item.feed, self.original.run(item.feed), deploy=False)

        for held in rounds(ran()):
            for item, case, _ in self._compared("wide", held):
                # Large numbers are rounded more coarsely than the scale of the outputs tells.
                coarse = any(item.feed is feed for feed in tails)
                self.cases.append(replace(case, tolerance=max(case.tolerance, allowed)) if coarse else case)
        self.notes += wide.notes

    def data_cases(self, data: DataSource) -> None:
        from onnxheadprune.runtime.feeds.data import load_data

        def ran() -> Iterator[OriginalRun]:
            for sample in self._fitting(load_data(data, self.inputs)):
                try:
                    yield OriginalRun(sample.feed, self.original.run(sample.feed), labels=sample.labels)
                except MissingKernelError:
                    raise
                except InferenceError as error:
                    raise UsageError(f"{sample.source} does not fit the model: {error}") from error

        combined: CaseResult | None = None
        for held in rounds(ran()):
            for item, case, after in self._compared("data", held):
                combined = case if combined is None else combined.joined(case)
                if after is not None:
                    self._judge(item, after)
        if combined is not None:
            self.cases.append(combined)

    def _judge(self, item: OriginalRun, after: Outputs) -> None:
        """Apply the user's labels and measure to a feed."""
        if self.metric is not None:
            self.metric.add(item.feed, rows_of(item.feed, self.inputs), item.labels, item.before, after)
        if item.labels is not None and self.main is not None:
            self.accuracy = self.accuracy or AccuracyMeter(self.main.name, self.inputs)
            self.accuracy.add(item.labels, item.before[self.main.name], after[self.main.name], item.feed)

    def _fitting(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples, in batches whose outputs fit into memory; one by one if the original takes no more."""
        from onnxheadprune.data.bounded import bounded
        from onnxheadprune.data.single import ONE_AT_A_TIME, one_by_one, takes_one

        several: bool | None = None
        for sample in samples:
            if several is None and rows_of(sample.feed, self.inputs) > 1:
                several = not takes_one(sample, self.inputs, self.original.run)
                if not several:
                    self.notes.append(ONE_AT_A_TIME)
            if several is False:
                yield from one_by_one(sample, self.inputs)
            else:
                yield from bounded(sample, self.models.asked, self.inputs)

    def _compared(
        self, source: str, held: Sequence[OriginalRun]
    ) -> Iterator[tuple[OriginalRun, CaseResult, Outputs | None]]:
        """A round of feeds at exact settings: all models run them in turn, then outputs are compared feed by feed."""
        feeds = [item.feed for item in held]
        unrefitted = None if source == "wide" else self.unrefitted
        for runner in (self.masked, self.alive, self.silenced, self.aside, unrefitted, self.pruned):
            if runner is not None:
                runner.ahead(feeds)
        for item in held:
            case, after = self._compare(source, item.feed, item.before, deploy=item.deploy)
            if case is not None:
                yield item, case, after

    def _compare(
        self, source: str, feed: Feed, before: Outputs, *, deploy: bool
    ) -> tuple[CaseResult | None, Outputs | None]:
        """One feed at exact settings; whether it is also run as a deployment does later.

        Where the outputs differ and those of the original differ from run to run, nothing was compared.
        """
        io, allowed = self.models.planning.io, self.models.tolerance.exact
        reference = self.masked.run(feed)
        expected = narrowed(reference, io)
        names = judged(expected, "exact", self.models.tolerance)
        # Both masks and the original have the original's names.
        earlier = io.before(names)
        power = self._power(feed, reference, before, earlier)
        finite = comparable(reference, before)
        shapes = {name: value.shape for name, value in feed.items()}
        case = CaseResult(
            source=source,
            settings="exact",
            feeds=1,
            shapes=shapes,
            tolerance=allowed,
            max_abs_error=math.inf,
            max_rel_error=math.inf,
            worst_output="",
            power=power,
            epsilon=self.models.tolerance.epsilon,
            finite=finite,
        )
        unknown = finite and has_nan(expected)
        if unknown:
            self.notes.append(NO_NUMBERS)
        try:
            after = self.pruned.run(feed)
        except InferenceError as error:
            self.problems.append(f"{error} (on {spell(shapes)}, where the original runs)")
            return case, None
        if finite:
            self.compared.add(feed)
        self.problems += contradicted(after, self.models.fixed)
        name, off = worst(after, expected, names)
        if finite and (strange := stray(after, expected, names)) is not None:
            name, off = strange, Gap(math.inf, math.inf)
        if off.relative > allowed and (unsteady := self._unsteady(feed, before)):
            self.unsteady.append(unsteady)
            return None, None
        allowed = self.sensitivity.allowed(allowed, off.relative, feed, after, names)
        # Fused kernels give other numbers to rows that attend to nothing.
        if finite and deploy and not unknown:
            self._keep(KeptFeed(power, source, feed))
        if source != "wide":
            self._drift(source, feed, before, after)
        return (
            replace(
                case,
                tolerance=allowed,
                max_abs_error=off.absolute,
                max_rel_error=off.relative,
                worst_output=name,
            ),
            after,
        )

    def _drift(self, source: str, feed: Feed, before: Outputs, after: Outputs) -> None:
        """Count how far the pruned model lies from the original, and how far it would without its refit."""
        if self.main is None or self.main.name not in after:
            return
        pairs = [(self.drifts, after)]
        if self.unrefitted is not None:
            bare = narrowed(self.unrefitted.run(feed), self.models.planning.io)
            pairs.append((self.bare, bare))
        for meters, outputs in pairs:
            meter = meters.setdefault(source, DriftMeter(source, self.main, self.inputs))
            if outputs[self.main.name].shape == before[self.main.name].shape:
                meter.add(before[self.main.name], outputs[self.main.name], feed)
        same = after[self.main.name].shape == before[self.main.name].shape
        if same and self.moved is not None and source == self.measured:
            self.moved.add(before, after, feed)

    def _power(self, feed: Feed, reference: Outputs, before: Outputs, names: tuple[str, ...]) -> float:
        """The effect of a mistake on the outputs: the least of heads, fused sites and the other decision."""
        alive = before if self.alive is None else self.alive.run(feed)
        effects = (
            [worst(reference, alive, names)[1].relative] if self.models.planning.plan.cuts_something else []
        )
        if self.silenced is not None:
            whole = before if self.aside is None else alive
            effects.append(worst(self.silenced.run(feed), whole, names)[1].relative)
        if self.aside is not None:
            effects.append(worst(self.aside.run(feed), alive, names)[1].relative)
        return min(effects, default=0.0)

    def further_opinions(self) -> None:
        """As a deployment runs it, and on the CPU where that is another place."""
        if not self.kept or self.problems:
            return
        opinions = [as_deployed]
        if self.models.provider.name != CPU:
            opinions.append(second_opinion)
        for opinion in opinions:
            found = opinion(self.models, self.kept)
            self.cases += found.cases
            self.problems += found.problems
            self.notes += found.notes

    def _keep(self, kept: KeptFeed) -> None:
        """All random feeds, which are small; of the user's the one that shows most."""
        if kept.source == "data":
            others = [item for item in self.kept if item.source == "data"]
            if others and others[0].power >= kept.power:
                return
            self.kept = [item for item in self.kept if item.source != "data"]
        self.kept.append(kept)

    def _unsteady(self, feed: Feed, before: Outputs) -> str:
        """The distance of the original from itself when it runs again, as a sentence; "" where it repeats itself."""
        name, off = worst(self.original.run(feed), before, judged(before, "exact", self.models.tolerance))
        if off.relative <= self.models.tolerance.exact:
            return ""
        return (
            f"the original is not deterministic: its outputs differ each time it runs on the same inputs ({name}"
            f" differs by {off.relative:.1e} of its scale), so nothing can be compared with it"
        )

    def findings(self, placement: dict[str, int]) -> Findings:
        source = "data" if "data" in self.drifts else "random"
        drift = self.drifts[source].result() if source in self.drifts else None
        if drift is not None and self.moved is not None and source == self.measured:
            value = self.moved.mean()
            drift = replace(drift, measure=self.moved.name, value=None if math.isnan(value) else value)
        accuracy = None if self.accuracy is None else self.accuracy.result()
        if self.accuracy is not None and self.accuracy.obstacle is not None:
            self.notes.append(self.accuracy.obstacle)
        bare = self.bare[source].result() if source in self.bare else None
        steady = any(case.usual for case in self.cases)
        if self.unsteady and steady:
            self.notes.append(
                f"on {len(self.unsteady)} other inputs the original is not deterministic, so nothing was compared"
            )
        problems = (*self.problems, *too_far(self.cases, self.sensitivity.largest))
        return Findings(
            tuple(self.cases),
            tuple(dict.fromkeys(problems)),
            tuple(dict.fromkeys(self.notes)),
            drift,
            accuracy,
            placement,
            None if self.metric is None else self.metric.result(),
            None if bare is None or drift is None else RefitDrift(source, drift, bare),
            unsteady=self.unsteady[0] if self.unsteady and not steady else "",
            sensitivity=self.sensitivity.largest,
            compared=self.compared,
        )
