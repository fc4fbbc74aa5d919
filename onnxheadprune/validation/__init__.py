"""`validate`: is the pruned model equal to the original with silenced heads?"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto

from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning
from onnxheadprune.edit.extract import with_stored
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.fusion import fused_record
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, ModelLike, check_model, model_name, open_structure
from onnxheadprune.runtime import Array, Provider, versions
from onnxheadprune.runtime.feeds import DataSource, graph_inputs
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.runtime.tolerances import POWER, Tolerance, tolerance_for
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.compensation import record_of, restored
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.deployed import Models
from onnxheadprune.validation.likeness import Likeness, sentences
from onnxheadprune.validation.metric import Metric, MetricMeter, MetricResult
from onnxheadprune.validation.planned import find_likeness
from onnxheadprune.validation.refits import with_refits
from onnxheadprune.validation.result import Accuracy, CaseResult, Drift, Validation, Verdict
from onnxheadprune.validation.runs import Findings, run_all
from onnxheadprune.validation.weights import Weights
from onnxheadprune.validation.wide import Wide

__all__ = ["Accuracy", "CaseResult", "Drift", "MetricResult", "Validation", "validate"]


def validate(
    original: ModelLike,
    pruned: ModelLike,
    *,
    heads: HeadSpec | None = None,
    data: DataSource | None = None,
    provider: str | Provider = AUTO,
    seed: int = 0,
    metric: Metric | None = None,
    effect: Measure | None = None,
    unseen: bool = False,
) -> Validation:
    """Compares a pruned model with the masked reference, and measures what the cut costs.

    The masked reference is built from the *original*, for the heads that the pruned model's metadata
    says are gone. Both run on random inputs of several sizes, and on `data`. The verdict is "passed"
    only if silencing the heads moves the outputs enough for a wrong cut to show.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        heads: the removed heads, where the pruned model's metadata does not say.
        data: the user's inputs; see `feeds.load_data` for the forms.
        provider: "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved.
        seed: of the random inputs.
        metric: the user's own measure, a function or "module:function", called with (outputs, feed) per feed of `data`
            or once with (outputs, feeds); see `MetricMeter`.
        effect: the measure of drift: "kl", "cosine" or a function; None goes by the kind of output. See
            `calibration.drift.EffectMeter`.
        unseen: `data` is none that the weights were trained on, which the verdict then says.

    Raises:
        UsageError: if the models do not belong together, nothing was removed, or the data or metric does not fit.
        ModelError: if a model cannot be read, or the original itself does not load in ONNX Runtime.
        RefusedError: if the heads cannot be removed from the original.
        ProviderError: if the asked-for provider does not run here.
    """
    if metric is not None and data is None:
        raise UsageError("a metric is measured on your data; give it with --data")
    meter = None if metric is None else MetricMeter(metric)
    names = model_name(original), model_name(pruned)
    loaded, made = open_structure(original), open_structure(pruned)
    source, candidate = loaded.proto, made.proto
    where = provider if isinstance(provider, Provider) else resolve_provider(provider)
    planning, problems = read_claim(source, candidate, heads, names)
    fused = fused_record(candidate)
    invalid, notes = _checker_problems(source, candidate, names)
    problems += invalid
    refits, strange = _refits(loaded, made, planning)
    problems += strange
    # What was refitted is taken from the pruned model; all else is planned on the original and proven.
    subject = loaded.changed(with_stored(source, refits)) if refits else loaded
    planned, alike = find_likeness(subject, made, planning.plan, names[0])
    compared, more = _weight_problems(subject, made, planning.plan, names, alike)
    tolerance = tolerance_for(planning.view)
    found = Findings((), (), (), None, None, {})
    if not problems:
        bare = masked_reference(planning.view, planning.sites, planning.heads)
        # The masked reference refers to the original's weights where they lie.
        masked = loaded.changed(with_stored(bare, refits))
        models = Models(
            loaded,
            masked,
            made,
            planning,
            tolerance,
            where,
            _without_fused(loaded, planning, fused),
            subject if refits else None,
            loaded.changed(bare) if refits else None,
            refits,
            None if alike.identical else Wide(loaded, planned, made, planning.view, tolerance.exact),
        )
        found = run_all(models, data, seed, meter, effect)
    problems = [*problems, *more, *found.problems]
    verdict, reason = _judge(problems, found, tolerance, where, _words(planning, fused, bool(refits)))
    if verdict == "passed":
        record = record_of(candidate)
        verdict, reason = with_refits(reason, len(refits), found.refit, record.steps if record else 0, unseen)
        if not alike.identical:
            reason = f"{_by_numbers(alike, found, planning.view)}; {reason}"
    return Validation(
        names[0],
        names[1],
        verdict,
        reason,
        tuple(problems),
        (*notes, *sentences(alike), *found.notes),
        planning.plan.removed,
        tolerance,
        found.cases,
        found.drift,
        found.accuracy,
        found.metric,
        compared,
        where,
        found.placement,
        versions(),
        seed,
        alike,
        tuple(sorted(refits)),
        found.refit,
    )


def _refits(
    original: LoadedModel, pruned: LoadedModel, planning: Planning
) -> tuple[dict[str, Array], list[str]]:
    """Contents of refitted initializers in the original's shapes, and what is wrong with them."""
    record = record_of(pruned.proto)
    return ({}, []) if record is None else restored(original, pruned, planning, record)


def _without_fused(loaded: LoadedModel, planning: Planning, fused: tuple[int, ...]) -> LoadedModel | None:
    """The original without the attention that the pruned model has fused; None if it has none."""
    heads = {site.index: range(site.num_heads) for site in planning.sites if site.index in fused}
    if not heads:
        return None
    return loaded.changed(masked_reference(planning.view, planning.sites, heads))


def _words(planning: Planning, fused: tuple[int, ...], refits: bool) -> tuple[str, str, str]:
    """What the pruned model is compared with, what is silenced to see a mistake, and the mistake."""
    if not planning.plan.removed:
        return "the original", "the fused sites", "a wrong fusion"
    if refits:
        return "the refitted and masked original", "the heads", "a wrong cut"
    return "the masked reference", "the heads or the fused sites" if fused else "the heads", "a wrong cut"


def _judge(
    problems: Sequence[str],
    found: Findings,
    tolerance: Tolerance,
    provider: Provider,
    words: tuple[str, str, str],
) -> tuple[Verdict, str]:
    reference, silenced, mistake = words
    if problems:
        return "failed", problems[0]
    exact = [case for case in found.cases if case.usual]
    if not exact:
        reason = found.notes[0] if found.notes else "nothing could be run"
        return "inconclusive", f"{reason}; give real ones with --data"
    error = max(case.max_rel_error for case in exact)
    if not any(case.finite for case in exact):
        return (
            "inconclusive",
            "the outputs hold NaN or infinite values, so equality says nothing; give real inputs with --data",
        )
    power = max(case.power for case in exact if case.finite)
    if power < POWER * tolerance.exact:
        return "inconclusive", (
            f"silencing {silenced} moves the outputs by only {power:.1e} of their scale, less than"
            f" {POWER:.0f}x the tolerance {tolerance.exact:.0e}: {mistake} would not show; give real inputs"
            " with --data"
        )
    how = (
        f"to {error:.1e} of the output's scale ({tolerance.exact:.0e} allowed)"
        if error
        else "to the last bit"
    )
    return "passed", (
        f"equals {reference} {how} on {provider.label}; silencing {silenced} moves it by {power:.1e}"
    )


def _checker_problems(
    original: ModelProto, pruned: ModelProto, names: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """Problems and notes of `onnx.checker`; the pruned model must pass whatever the original passes."""
    for full in (True, False):
        obstacle = _checker_says(original, names[0], full)
        if obstacle is None:
            problem = _checker_says(pruned, names[1], full)
            return ([] if problem is None else [problem]), []
    return [], [f"{obstacle}; so only ONNX Runtime judges the pruned one"]


def _checker_says(model: ModelProto, name: str, full: bool) -> str | None:
    try:
        check_model(model, name, full=full)
    except ModelError as error:
        return str(error)
    return None


def _weight_problems(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, names: tuple[str, str], alike: Likeness
) -> tuple[int, list[str]]:
    compared, altered = altered_weights(original, pruned, plan, alike)
    if not altered:
        return compared, []
    listed = ", ".join(altered[:3]) + (", ..." if len(altered) > 3 else "")
    sentence = (
        f"{len(altered)} stored tensors of {names[1]} are neither those of {names[0]} nor the planned cut of"
        f" them: {listed}"
    )
    return compared, [sentence]


def altered_weights(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, alike: Likeness
) -> tuple[int, list[str]]:
    """How many stored tensors were compared bit by bit, and the names of those that are not as planned."""
    return Weights(original, pruned, plan).altered(alike.tensors)


def _by_numbers(alike: Likeness, found: Findings, view: GraphView) -> str:
    """What a verdict rests on where the graph is not the planned one."""
    longest = max(
        (
            case.shapes[item.name][axis]
            for case in found.cases
            for item in graph_inputs(view)
            for axis, dim in enumerate(item.dims)
            if axis and not isinstance(dim, int)
        ),
        default=0,
    )
    lengths = f", for sizes up to {longest}" if longest else ""
    return (
        f"its graph is not the planned one ({alike.same} of {alike.nodes} nodes are the same), so this rests on"
        f" numbers alone{lengths}"
    )
