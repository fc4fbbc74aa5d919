"""Beyond the exact settings: as a deployment runs it, and on the CPU as a second opinion."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from onnxheadprune.attention.planning import Planning
from onnxheadprune.edit.submodel import Restored
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, CUDA, Provider, Session, saturates_here, survives_optimization
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, narrowed
from onnxheadprune.runtime.int8_saturation import fuses_int8, unsaturated
from onnxheadprune.runtime.memory_turns import Turns
from onnxheadprune.runtime.tolerances import Tolerance
from onnxheadprune.validation.compare import has_nan, worst
from onnxheadprune.validation.result import CaseResult, Settings
from onnxheadprune.validation.rounding_sensitivity import Sensitivity

if TYPE_CHECKING:
    from onnxheadprune.validation.extra_inputs import Wide

SPARED = 2**23
"""Bytes of a model that stays in memory while others run."""
LOW_PRECISION = ("float16", "bfloat16")
SATURATES = (
    "this processor saturates products of uint8 by int8, so results here differ from those on other processors,"
    " before the cut and after it; deployment is compared without that, and weights that were quantized with"
    " reduce_range are free of it, as are sessions with session.x64quantprecision = 1"
)


@dataclass(frozen=True)
class Models:
    """The three models that are compared, with the planning that links them.

    Feeds are made for the inputs of `asked`, the original's view. Where the pruned model has fused attention,
    `silenced` is the original without any of those sites. Where it was compensated, `unrefitted` is the masked original
    without the refitted weights, and `refits` are these. Where it has an exit for good, `aside` is the original whose
    decision is forced the other way. In both cases `alive` is what the pruned model was cut from, all heads alive.
    `wide` holds the feeds for a pruned model whose graph is not the planned one, `fixed` the sizes of outputs that only
    that declares. Large models take `turns` in memory.
    """

    original: LoadedModel
    masked: LoadedModel
    pruned: LoadedModel
    planning: Planning
    tolerance: Tolerance
    provider: Provider
    asked: GraphView
    silenced: LoadedModel | None = None
    alive: LoadedModel | None = None
    aside: LoadedModel | None = None
    unrefitted: LoadedModel | None = None
    refits: Restored = field(default_factory=Restored)
    wide: Wide | None = None
    fixed: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
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
        where = provider or self.provider
        tf32 = deployed and self.rounds_to_tf32
        self.turns.rest()
        made = Session(
            model,
            where,
            name=name,
            optimize=deployed,
            tf32=tf32,
            deterministic=not deployed,
            exact_products=exact_products,
        )
        return made.taking(self.turns)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """The distance that rounding alone moves the masked reference."""
        models = weakref.proxy(self)  # a cycle would keep the sessions alive after the call
        return Sensitivity(
            self.masked, self.planning, self.tolerance, lambda model, name: models.session(model, name)
        )

    @property
    def rounds_to_tf32(self) -> bool:
        """True if a deployment rounds float32 products to TF32."""
        return self.provider.name == CUDA


@dataclass(frozen=True)
class KeptFeed:
    """A feed on which all outputs were numbers or infinite by design, and how far silencing the heads moved them."""

    power: float
    source: str
    feed: Feed


@dataclass
class Opinion:
    """The result of one way of running."""

    cases: list[CaseResult] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def as_deployed(models: Models, kept: Sequence[KeptFeed]) -> Opinion:
    """Pruned against masked with ONNX Runtime's optimizations and defaults (TF32 on CUDA).

    Args:
        kept: the feeds. Where activations are quantized, only the one that shows most is judged: optimized kernels
            round to other levels, and the tolerance is for one such flip.
    """
    found = Opinion()
    both = (models.masked, models.pruned)
    exact = False
    if any(saturates_here(model, deployed=True) for model in both):
        # Which products make a saturating pair depends on how many there are: a right cut would look wrong.
        both = (unsaturated(models.masked), unsaturated(models.pruned))
        exact = all(map(fuses_int8, both))
        found.notes.append(SATURATES)
    if models.tolerance.precision in LOW_PRECISION and not survives_optimization(both, models.provider):
        found.notes.append("ONNX Runtime crashes when it optimizes this model, so deployment is not checked")
        return found
    best = max(kept, key=lambda item: item.power)
    feeds = [best] if models.tolerance.has_levels else kept
    try:
        name = "the masked reference, optimized by ONNX Runtime,"
        masked = models.session(both[0], name, deployed=True, exact_products=exact)
        expected = [narrowed(masked.run(item.feed), models.planning.io) for item in feeds]
    except InferenceError as error:
        found.notes.append(f"with optimizations not even the masked reference runs: {error}")
        return found
    try:
        name = "the pruned model, optimized by ONNX Runtime,"
        pruned = models.session(both[1], name, deployed=True, exact_products=exact)
        after = [pruned.run(narrowed(item.feed, models.planning.io)) for item in feeds]
    except InferenceError as error:
        try:
            # A mask stands between nodes that ONNX Runtime would fuse, so its reference may run where no other does.
            models.session(models.original, "the original", deployed=True).run(best.feed)
        except InferenceError:
            found.notes.append(
                f"with optimizations not even the original runs, and the pruned model neither: {error}"
            )
        else:
            found.problems.append(str(error))
        return found
    allowed = models.tolerance.when_deployed(tf32=models.rounds_to_tf32)
    for item, wanted, actual in zip(feeds, expected, after, strict=True):
        found.cases.append(_case(models, item, "deployed", allowed, wanted, actual))
    return found


def second_opinion(models: Models, kept: Sequence[KeptFeed]) -> Opinion:
    """The same equality on the CPU, where the provider is another one.

    Two wrongs of one provider can look equal. The CPU's kernels are others, so here too pruned must equal masked, and
    the provider's pruned model must agree with the CPU's as far as other kernels allow.
    """
    found = Opinion()
    best = max(kept, key=lambda item: item.power)
    feed = narrowed(best.feed, models.planning.io)
    cpu = Provider(CPU, "a second opinion")
    try:
        masked = models.session(models.masked, "the masked reference on the CPU", provider=cpu)
        pruned = models.session(models.pruned, "the pruned model on the CPU", provider=cpu)
        expected, after = narrowed(masked.run(best.feed), models.planning.io), pruned.run(feed)
    except InferenceError as error:
        found.notes.append(f"the comparison on the CPU was not possible: {error}")
        return found
    found.cases.append(_case(models, best, "on the CPU", models.tolerance.exact, expected, after))
    there = models.session(models.pruned, "the pruned model").run(feed)
    allowed = models.tolerance.deployed
    found.cases.append(_case(models, best, "against the CPU", allowed, after, there))
    return found


def _case(
    models: Models,
    kept: KeptFeed,
    settings: Settings,
    allowed: float,
    expected: Outputs,
    actual: Outputs,
) -> CaseResult:
    names = judged(expected, settings, models.tolerance)
    output, off = worst(actual, expected, names)
    shapes = {name: value.shape for name, value in kept.feed.items()}
    return CaseResult(
        source=kept.source,
        settings=settings,
        feeds=1,
        shapes=shapes,
        tolerance=models.sensitivity.allowed(allowed, off.relative, kept.feed, actual, names),
        max_abs_error=off.absolute,
        max_rel_error=off.relative,
        worst_output=output,
        power=kept.power,
        epsilon=models.tolerance.epsilon,
        finite=not has_nan(expected),
    )


def judged(outputs: Outputs, settings: Settings, tolerance: Tolerance) -> tuple[str, ...]:
    """Integer outputs (an ArgMax) flip on ties, so where rounding is coarse only floats are judged."""
    floats = tuple(name for name, value in outputs.items() if value.dtype.kind not in "biuOSU")
    coarse = settings in ("deployed", "against the CPU") or tolerance.precision in LOW_PRECISION
    return floats if coarse and floats else tuple(outputs)
