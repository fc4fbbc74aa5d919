"""Runs of the original, the masked reference and the pruned model on a few inputs, and what they show.

At exact settings (no graph optimizations, no TF32) on made inputs and a few batches of the user's, then as a deployment
runs them, then on the CPU where the provider is another one. On all of the user's data only the cost of the cut is
measured.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxheadprune.attention.planning import Planning
from onnxheadprune.display.spelling import first_few
from onnxheadprune.errors import InferenceError, MissingKernelError, UsageError, without_frames
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, CUDA, Array, Provider, Session, saturates_here, survives_optimization
from onnxheadprune.runtime.deterministic import label, random_nodes
from onnxheadprune.runtime.feeds.data import DataSource, Sample, load_data
from onnxheadprune.runtime.feeds.generate import (
    Feed,
    FeedMaker,
    Outputs,
    Padding,
    Sizes,
    narrowed,
)
from onnxheadprune.runtime.feeds.inputs import padding_warning
from onnxheadprune.runtime.int8_saturation import fuses_int8, unsaturated
from onnxheadprune.runtime.memory_limits import Turns
from onnxheadprune.runtime.tolerances import POWER, QUANTIZED, Tolerance
from onnxheadprune.settings.calls import ValidateCall
from onnxheadprune.validation.compare import Gap, comparable, has_nan, stray, worst
from onnxheadprune.validation.declarations import contradicted
from onnxheadprune.validation.figures import Accuracy, Drift, MetricResult
from onnxheadprune.validation.measure import Meter, MetricMeter
from onnxheadprune.validation.result import (
    CaseResult,
    KnownSizes,
    RefitDrift,
    Settings,
    spell,
    too_far,
)

BATCHES = 4
"""Batches of the user's data on which outputs are compared; the cost of the cut is measured on all."""
MORE_SEEDS = 3
"""Seeds of further random inputs where the graph is not the planned one."""
MORE_SIZES = ((1, 1), (3, 5), (9, 5), (3, 16), (1, 33), (2, 65), (1, 129))
"""Batches and lengths of further inputs where the graph is not the planned one."""
MOST = 0.1
"""More than this part of the scale of an output is never put down to rounding."""
ROUND_BYTES = 2**24
"""Outputs of one model that wait for those of the others, so that large models are opened once for several inputs."""
SPARED = 2**23
"""Bytes of a model that stays in memory while others run."""
SATURATES = (
    "this processor saturates products of uint8 by int8, so results here differ from those on other processors,"
    " before the cut and after it; deployment is compared without that, and weights that were quantized with"
    " reduce_range are free of it, as are sessions with session.x64quantprecision = 1"
)
NO_NUMBERS = (
    "where the original itself gives NaN, with the heads and without them, nothing is compared, and on such inputs a"
    " deployment is not checked"
)


@dataclass(frozen=True)
class Models:
    """The models that are compared.

    Feeds are made for the inputs of `asked`, the original's view. `is_planned`: the pruned model's graph is the planned
    one. `fixed` has the sizes of outputs that only the pruned model declares. Where it has fused attention,
    `silenced` is the original without any of those sites. Where it was refitted, `unrefitted` is the masked original
    without the refitted weights. Where it has a permanent exit or fewer tokens, `aside` is the original with a mistake.
    In both cases `alive` is what the pruned model was cut from, with all units. Large models take `turns` in memory.
    """

    original: LoadedModel
    masked: LoadedModel
    pruned: LoadedModel
    planning: Planning
    tolerance: Tolerance
    provider: Provider
    asked: GraphView
    is_planned: bool = True
    silenced: LoadedModel | None = None
    alive: LoadedModel | None = None
    aside: LoadedModel | None = None
    unrefitted: LoadedModel | None = None
    fixed: Mapping[str, KnownSizes] = field(default_factory=dict)
    turns: Turns = field(default_factory=lambda: Turns(SPARED))

    def session(
        self,
        model: LoadedModel,
        name: str,
        *,
        provider: Provider | None = None,
        deployed: bool = False,
        exact_products: bool = False,
    ) -> Session:
        """A session of one of the models, or of what is made from it."""
        self.turns.rest()
        made = Session(
            model,
            provider or self.provider,
            name=name,
            optimize=deployed,
            tf32=deployed and self.rounds_to_tf32,
            exact_products=exact_products,
        )
        return made.taking(self.turns)

    @property
    def rounds_to_tf32(self) -> bool:
        """True if a deployment rounds float32 products to TF32."""
        return self.provider.name == CUDA


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
    """The result of the runs."""

    cases: tuple[CaseResult, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drift: Drift | None = None
    accuracy: Accuracy | None = None
    placement: Mapping[str, int] = field(default_factory=dict)
    metric: MetricResult | None = None
    refit: RefitDrift | None = None
    # why nothing can be compared with the original, or not as closely as the pruned model differs; "" if it can
    obstacle: str = ""
    compared: Compared = field(default_factory=Compared)


@dataclass(frozen=True, eq=False)
class Ran:
    """A feed that the original ran."""

    feed: Feed  # the inputs
    before: Outputs  # what the original gave
    # whether to run it as a deployment does later. Where padding leaves a token nothing to attend to, fused
    # operators give other numbers than the graph spells, and no one reads them.
    deploy: bool = True
    compare: bool = True  # whether outputs are compared with the masked reference, and not only measured
    labels: Array | None = None  # of the user's samples, None without


@dataclass(frozen=True)
class Kept:
    """A feed on which all outputs were numbers or infinite by design, and how far silencing the units moved them."""

    power: float
    source: str
    feed: Feed


def run_all(
    models: Models, given: ValidateCall, data: DataSource | None, metric: MetricMeter | None = None
) -> Findings:
    """Random feeds, the user's data, a pass at deployment settings, a second opinion of the CPU."""
    bench = _Bench(models, given, "random" if data is None else "data", metric)
    try:
        bench.random_cases(given.seed)
        fits = bool(bench.cases)
        if data is not None:
            bench.data_cases(data)
        if not models.is_planned:
            bench.further_cases(given.seed, MORE_SEEDS if fits else 0)
        placement = bench.session("pruned").placement()
    except _PrunedFailedError as error:
        return Findings(problems=(str(error),))
    if bench.kept and not bench.problems:
        bench.as_deployed()
        if models.provider.name != CPU:
            bench.second_opinion()
    models.turns.rest()
    return bench.findings(placement)


class _PrunedFailedError(Exception):
    """The pruned model cannot do what the original can; its text is the problem."""


NAMES = {
    "original": "the original model",
    "masked": "the masked reference",
    "pruned": "the pruned model",
    "alive": "the original before the heads were cut",
    "silenced": "the original without its fused sites",
    "aside": "the original with its decision forced the other way",
    "unrefitted": "the masked original without its refit",
}
"""The models by their fields, as errors name them."""


class _Bench:
    def __init__(
        self, models: Models, given: ValidateCall, measured: str, metric: MetricMeter | None
    ) -> None:
        self.models = models
        self.sessions: dict[str, Session] = {}
        self.cases: list[CaseResult] = []
        self.compared = Compared()
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.unsteady: list[str] = []
        self.kept: list[Kept] = []
        self.moved = 0.0  # how far rounding alone moves the masked reference
        self.maker = FeedMaker(models.asked, given.seed)
        self.inputs = self.maker.inputs
        # A user's measures see the user's data alone, where there is some.
        self.measured = measured
        main = main_output(models.planning.view, models.planning.io.changed)
        self.meter = Meter(self.measured, main, self.inputs, given.drift, metric)
        self.bare = Meter(self.measured, main, self.inputs, given.drift)
        if drawing := random_nodes(models.original.proto):
            named = first_few([label(node) for node in drawing])
            self.notes.append(f"random nodes output the same fixed numbers in all compared models: {named}")

    def session(self, name: str) -> Session:
        """One of the models at exact settings, loaded when it first runs."""
        if name not in self.sessions:
            try:
                self.sessions[name] = self.models.session(getattr(self.models, name), NAMES[name])
            except InferenceError as error:
                if name == "pruned":
                    raise _PrunedFailedError(str(error)) from error
                raise
        return self.sessions[name]

    def random_cases(self, seed: int) -> None:
        """Compare on inputs of each of the usual sizes and paddings."""
        maker, run = self.maker, self.session("original").run
        maker.seed = seed
        obstacles: list[str] = []
        ran: list[Ran] = []
        for case in maker.cases:
            found = maker.first_that_runs(case, run)
            # Once a feed has run, the kernels are there: rotary positions beyond their table are called missing, too.
            if isinstance(found, MissingKernelError) and not ran:
                raise without_frames(found)
            if isinstance(found, InferenceError):
                obstacles.append(str(found))
                # Where the first case finds nothing, the others will not: the search is long.
                if len(obstacles) == 1 and not ran:
                    break
            else:
                ran.append(Ran(*found, deploy=case.padding is not Padding.LEFT))
        self.cases += self._cases("random", ran)
        if maker.note:
            self.notes.append(maker.note)
        if obstacles and not self.cases:
            self.notes.append(f"no random inputs fit the original model: {obstacles[0]}")

    def further_cases(self, seed: int, seeds: int) -> None:
        """Compare on more random inputs and sizes; those that the original cannot take are skipped.

        Args:
            seeds: how many more, none where no random inputs fit.
        """
        usual = len(self.cases)
        for more in range(1, seeds + 1):
            self.random_cases(seed + more)
        again = self.cases[usual:]
        self.cases[usual:] = [functools.reduce(CaseResult.joined, again)] if again else []

        def ran() -> Iterator[Ran]:
            past = 3 if self.maker.symbols.past else 0
            for batch, length in MORE_SIZES:
                with contextlib.suppress(InferenceError, UsageError):
                    feed = self.maker.sized(Sizes(batch, past, length, length, distinct=False))
                    yield Ran(feed, self.session("original").run(feed), deploy=False)

        self.cases += self._cases("random", ran())

    def data_cases(self, data: DataSource) -> None:
        """Compare on the first batches of the user's data, and measure on all."""
        self.notes += filter(None, [padding_warning(self.inputs)])

        def ran() -> Iterator[Ran]:
            for index, sample in enumerate(self._fitting(load_data(data, self.inputs))):
                try:
                    before = self.session("original").run(sample.feed)
                except MissingKernelError:
                    raise
                except InferenceError as error:
                    raise UsageError(f"{sample.source} does not fit the model: {error}") from error
                yield Ran(sample.feed, before, compare=index < BATCHES, labels=sample.labels)

        found = [*self._cases("data", ran())]
        self.cases += [functools.reduce(CaseResult.joined, found)] if found else []

    def _fitting(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples, in batches whose outputs fit into memory; one by one if the original takes no more."""
        from onnxheadprune.data.rows import ONE_AT_A_TIME, bounded, rows_in, takes_one

        several: bool | None = None
        for sample in samples:
            rows = rows_in(sample, self.inputs)
            if several is None and len(rows) > 1:
                several = not takes_one(rows[0], self.inputs, self.session("original").run)
                if not several:
                    self.notes.append(ONE_AT_A_TIME)
            if several is False:
                yield from rows
            else:
                yield from bounded(sample, self.models.asked, self.inputs)

    def _cases(self, source: str, ran: Iterable[Ran]) -> Iterator[CaseResult]:
        """Run all models in turn, a round of feeds each, and compare and measure feed by feed."""
        others = ("masked", "alive", "silenced", "aside")
        there = [name for name in others if getattr(self.models, name) is not None]
        for held in _rounds(ran):
            compared = [item for item in held if item.compare]
            found = {name: self._outputs(name, compared) for name in there}
            after = self._outputs("pruned", held)
            measured = source == self.measured
            refitted = measured and self.models.unrefitted is not None
            bare = self._outputs("unrefitted", held) if refitted else {}
            for item in held:
                mine = after[id(item)]
                if isinstance(mine, InferenceError):
                    where = f"(on {spell(_shapes(item.feed))}, where the original runs)"
                    self.problems.append(f"{mine} {where}")
                elif measured:
                    self.meter.add(item.feed, item.labels, item.before, mine)
                    if bare:
                        unrefitted = narrowed(_given(bare[id(item)]), self.models.planning.io)
                        self.bare.add(item.feed, None, item.before, unrefitted)
                if item.compare:
                    given = {name: _given(outputs[id(item)]) for name, outputs in found.items()}
                    case = self._compare(source, item, given, mine)
                    yield from () if case is None else (case,)

    def _outputs(self, name: str, held: Sequence[Ran]) -> dict[int, Outputs | InferenceError]:
        """The outputs of one model for a round of feeds, or its errors."""
        session, found = self.session(name), dict[int, Outputs | InferenceError]()
        for item in held:
            feed = narrowed(item.feed, self.models.planning.io) if name == "pruned" else item.feed
            try:
                found[id(item)] = session.run(feed)
            except InferenceError as error:
                found[id(item)] = without_frames(error)
        return found

    def _compare(
        self, source: str, item: Ran, others: Mapping[str, Outputs], after: Outputs | InferenceError
    ) -> CaseResult | None:
        """One feed at exact settings; None where the original differs from run to run, so that nothing was compared."""
        models, io, reference = self.models, self.models.planning.io, others["masked"]
        expected = narrowed(reference, io)
        names = _judged(expected, "exact", models.tolerance)
        power = self._power(item.before, others, io.before(names))
        finite = comparable(reference, item.before)
        case = self._case(source, "exact", item.feed, power)
        case = replace(case, finite=finite, tolerance=self._allowed(models.tolerance.exact, power))
        unknown = finite and has_nan(expected)
        if unknown:
            self.notes.append(NO_NUMBERS)
        if isinstance(after, InferenceError):
            return case
        if finite:
            self.compared.add(item.feed)
        self.problems += contradicted(after, models.fixed)
        name, off = worst(after, expected, names)
        if finite and (strange := stray(after, expected, names)) is not None:
            name, off = strange, Gap(math.inf, math.inf)
        if off.relative > case.tolerance and (unsteady := self._unsteady(item)):
            self.unsteady.append(unsteady)
            return None
        # Fused kernels give other numbers to rows that attend to nothing.
        if finite and item.deploy and not unknown:
            self._keep(Kept(power, source, item.feed))
        return _measured(case, name, off)

    def _case(self, source: str, settings: Settings, feed: Feed, power: float) -> CaseResult:
        return CaseResult(
            source=source,
            settings=settings,
            feeds=1,
            shapes=_shapes(feed),
            tolerance=self.models.tolerance.exact,
            max_abs_error=math.inf,
            max_rel_error=math.inf,
            worst_output="",
            power=power,
            epsilon=self.models.tolerance.epsilon,
            finite=True,
        )

    def _allowed(self, usual: float, power: float) -> float:
        """The tolerance: of the planned graph with quantized activations up to a tenth of the effect.

        There the last bit of a sum can move outputs by a quantized value.
        """
        is_stepped = self.models.tolerance.precision == QUANTIZED.precision
        return max(usual, min(power / POWER, MOST)) if is_stepped and self.models.is_planned else usual

    def _power(self, before: Outputs, others: Mapping[str, Outputs], names: tuple[str, ...]) -> float:
        """The effect of a mistake on the outputs: the least of units, fused sites and the other decision."""
        alive = others.get("alive", before)
        pairs = [(others["masked"], alive)] if self.models.planning.plan.cuts_something else []
        if "silenced" in others:
            pairs.append((others["silenced"], alive if "aside" in others else before))
        if "aside" in others:
            pairs.append((others["aside"], alive))
        return min((worst(*pair, names)[1].relative for pair in pairs), default=0.0)

    def _keep(self, kept: Kept) -> None:
        """All random feeds, which are small; of the user's the one that shows most."""
        if kept.source == "data":
            others = [item for item in self.kept if item.source == "data"]
            if others and others[0].power >= kept.power:
                return
            self.kept = [item for item in self.kept if item.source != "data"]
        self.kept.append(kept)

    def _unsteady(self, item: Ran) -> str:
        """The distance of the original from itself when it runs again, as a sentence; "" where it repeats itself."""
        names = _judged(item.before, "exact", self.models.tolerance)
        name, off = worst(self.session("original").run(item.feed), item.before, names)
        if off.relative <= self.models.tolerance.exact:
            return ""
        return (
            f"the original is not deterministic: its outputs differ each time it runs on the same inputs ({name}"
            f" differs by {off.relative:.1e} of its scale), so nothing can be compared with it"
        )

    def as_deployed(self) -> None:
        """Pruned against masked with ONNX Runtime's optimizations and defaults (TF32 on CUDA).

        Where activations are quantized, only the feed that shows most is judged: optimized kernels round to other
        values, and the tolerance is for one such flip.
        """
        models, exact = self.models, False
        both = (models.masked, models.pruned)
        if any(saturates_here(model, deployed=True) for model in both):
            # Which products make a saturating pair depends on how many there are: a right cut would look wrong.
            both = (unsaturated(models.masked), unsaturated(models.pruned))
            exact = all(map(fuses_int8, both))
            self.notes.append(SATURATES)
        if models.tolerance.is_low and not survives_optimization(both, models.provider):
            self.notes.append(
                "ONNX Runtime crashes when it optimizes this model, so deployment is not checked"
            )
            return
        best = max(self.kept, key=lambda item: item.power)
        feeds = [best] if models.tolerance.has_levels else self.kept
        try:
            name = "the masked reference, optimized by ONNX Runtime,"
            masked = models.session(both[0], name, deployed=True, exact_products=exact)
            expected = [narrowed(masked.run(item.feed), models.planning.io) for item in feeds]
        except InferenceError as error:
            self.notes.append(f"with optimizations not even the masked reference runs: {error}")
            return
        try:
            name = "the pruned model, optimized by ONNX Runtime,"
            pruned = models.session(both[1], name, deployed=True, exact_products=exact)
            after = [pruned.run(narrowed(item.feed, models.planning.io)) for item in feeds]
        except InferenceError as error:
            try:
                # A mask stands between nodes that ONNX Runtime would fuse: its reference may run where no other does.
                models.session(models.original, "the original", deployed=True).run(best.feed)
            except InferenceError:
                self.notes.append(
                    f"with optimizations not even the original runs, and the pruned model neither: {error}"
                )
            else:
                self.problems.append(str(error))
            return
        allowed = models.tolerance.when_deployed(tf32=models.rounds_to_tf32)
        for item, wanted, actual in zip(feeds, expected, after, strict=True):
            self._opinion(item, "deployed", allowed, wanted, actual)
        if self.doubtful:
            still = narrowed(self.session("masked").run(best.feed), models.planning.io)
            names = _judged(still, "deployed", models.tolerance)
            self.moved = worst(expected[feeds.index(best)], still, names)[1].relative

    def second_opinion(self) -> None:
        """The same equality on the CPU, where the provider is another one.

        Two wrongs of one provider can look equal. The CPU's kernels are others, so here too pruned must equal masked,
        and the provider's pruned model must agree with the CPU's as far as other kernels allow.
        """
        models = self.models
        best = max(self.kept, key=lambda item: item.power)
        feed = narrowed(best.feed, models.planning.io)
        cpu = Provider(CPU, "a second opinion")
        try:
            masked = models.session(models.masked, "the masked reference on the CPU", provider=cpu)
            expected = narrowed(masked.run(best.feed), models.planning.io)
            after = models.session(models.pruned, "the pruned model on the CPU", provider=cpu).run(feed)
        except InferenceError as error:
            self.notes.append(f"the comparison on the CPU was not possible: {error}")
            return
        self._opinion(best, "on the CPU", models.tolerance.exact, expected, after)
        there = self.session("pruned").run(feed)
        self._opinion(best, "against the CPU", models.tolerance.deployed, after, there)

    def _opinion(
        self, kept: Kept, settings: Settings, allowed: float, expected: Outputs, actual: Outputs
    ) -> None:
        case = self._case(kept.source, settings, kept.feed, kept.power)
        case = replace(case, tolerance=self._allowed(allowed, kept.power), finite=not has_nan(expected))
        found = worst(actual, expected, _judged(expected, settings, self.models.tolerance))
        self.cases.append(_measured(case, *found))

    @property
    def doubtful(self) -> list[CaseResult]:
        """Cases in which an unplanned graph with quantized activations differs by no more than these may differ."""
        if self.models.is_planned or self.models.tolerance.precision != QUANTIZED.precision:
            return []
        return [case for case in self.cases if not case.passed and case.max_rel_error <= MOST]

    def findings(self, placement: Mapping[str, int]) -> Findings:
        measured = self.meter.result()
        bare = self.bare.result().drift
        self.notes += measured.notes
        steady = any(case.is_exact for case in self.cases)
        obstacle = self.unsteady[0] if self.unsteady and not steady else ""
        if self.unsteady and steady:
            self.notes.append(
                f"on {len(self.unsteady)} other inputs the original is not deterministic, so nothing was compared"
            )
        wrong = [*too_far(self.cases)]
        if self.doubtful and len(self.doubtful) == len(wrong) and self.moved > self.models.tolerance.exact:
            obstacle = (
                f"{wrong[0]}, and another rounding of its quantized activations alone moves the masked reference by"
                f" {self.moved:.1e}: numbers cannot tell, and the graph is not the planned one"
            )
            wrong = []
        refit = (
            None
            if bare is None or measured.drift is None
            else RefitDrift(self.measured, measured.drift, bare)
        )
        return Findings(
            tuple(self.cases),
            tuple(dict.fromkeys((*self.problems, *wrong))),
            tuple(dict.fromkeys(self.notes)),
            measured.drift,
            measured.accuracy,
            placement,
            measured.metric,
            refit,
            obstacle,
            self.compared,
        )


def _rounds(ran: Iterable[Ran]) -> Iterator[list[Ran]]:
    """Feeds in order, as many at a time as their outputs leave room for, at least one."""
    held: list[Ran] = []
    size = 0
    for item in ran:
        held.append(item)
        size += sum(value.nbytes for value in item.before.values())
        if size >= ROUND_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _given(outputs: Outputs | InferenceError) -> Outputs:
    if isinstance(outputs, InferenceError):
        raise without_frames(outputs)
    return outputs


def _shapes(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in feed.items()}


def _measured(case: CaseResult, name: str, off: Gap) -> CaseResult:
    return replace(case, max_abs_error=off.absolute, max_rel_error=off.relative, worst_output=name)


def _judged(outputs: Outputs, settings: Settings, tolerance: Tolerance) -> tuple[str, ...]:
    """Integer outputs (an ArgMax) flip on ties, so where rounding is coarse only floats are judged."""
    floats = tuple(name for name, value in outputs.items() if value.dtype.kind not in "biuOSU")
    coarse = settings in ("deployed", "against the CPU") or tolerance.is_low
    return floats if coarse and floats else tuple(outputs)
