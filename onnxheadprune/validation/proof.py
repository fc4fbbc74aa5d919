"""The proof, from two files to a verdict: what is claimed, what is stored, what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from onnx import ModelProto

from onnxheadprune.attention.io_changes import lost_content
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning
from onnxheadprune.display.spelling import first_few, many
from onnxheadprune.edit.records import RefitRecord, record_of
from onnxheadprune.edit.submodel import Restored
from onnxheadprune.errors import HeadPruneError, InferenceError, ModelError
from onnxheadprune.model.analysis_errors import explaining_failures, foreign_in
from onnxheadprune.model.load import (
    LoadedModel,
    ModelLike,
    check_model,
    model_name,
    open_structure,
)
from onnxheadprune.runtime import Provider, versions
from onnxheadprune.runtime.feeds.data import USERS_DATA, Basis, DataSource
from onnxheadprune.runtime.loading import why_not_loaded
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.runtime.tolerances import tolerance_for
from onnxheadprune.settings.calls import ValidateCall
from onnxheadprune.settings.units import KINDS
from onnxheadprune.validation.claim import Claim, read_claim
from onnxheadprune.validation.declarations import shadowed
from onnxheadprune.validation.graph import compared, undocumented
from onnxheadprune.validation.measure import MetricMeter
from onnxheadprune.validation.reference import Reference, prepared
from onnxheadprune.validation.result import Likeness, RefitDrift, Validation, Verdict
from onnxheadprune.validation.runs import Findings, Models, run_all
from onnxheadprune.validation.verdict import judge, tried_on, words_for

WORSE = 2.0
"""A refit that takes the outputs this many times as far from the original as none at all did no good."""
NOTHING = 1e-6
"""Drift below this is no drift."""


def _with_refits(
    reason: str, count: int, refit: RefitDrift | None, record: RefitRecord | None, unseen: bool = False
) -> tuple[Verdict, str]:
    """A passed verdict and its reason, with what the refitted tensors are worth.

    That the pruned model is a cut of the refitted original is proven; that the refitted numbers are good ones only data
    can show.

    Args:
        record: what the pruned model says of them, None where it says nothing.
        unseen: whether what it was measured on is data that they were not learned from.
    """
    if not count or record is None:
        return "passed", reason
    trained = f", trained in {record.steps} steps," if record.steps else ""
    one = count == 1
    their, them = ("its", "it") if one else ("their", "them")
    taken = f"{many(count, 'tensor')}{trained} {'is' if one else 'are'} taken from the file"
    if refit is None or refit.source != "data":
        return (
            "passed",
            f"{taken}, and {their} effect is not proven without `data`; {reason}",
        )
    after, before = (max(0.0, 1 - item.cosine) for item in (refit.refitted, refit.bare))
    drift = (
        f"{taken}: with {them} the cosine distance of the outputs from the original's on data"
        f"{' that no step has seen' if unseen else ''} is {after:.1e}, without {them} {before:.1e}"
    )
    if after > max(WORSE * before, NOTHING):
        return "inconclusive", f"{drift}, so {'it does' if one else 'they do'} harm, though all else {reason}"
    return "passed", f"{drift}; {reason}"


def prove(
    original: ModelLike,
    pruned: ModelLike,
    given: ValidateCall = ValidateCall(),
    data: DataSource | None = None,
    provider: Provider | None = None,
    *,
    renumbered: bool = False,
) -> Validation:
    """Validate a pruned model; limits of the call are judged by its caller.

    Args:
        data: the user's inputs.
        provider: where to run; None goes by the call.
        renumbered: whether the data has the token ids of the pruned model, where these are not the original's.
    """
    before, after = _opened(original), _opened(pruned)
    named = ((before.proto, model_name(original)), (after.proto, model_name(pruned)))
    with _saying_if_invalid(before, model_name(original)), explaining_failures(*named):
        names = model_name(original), model_name(pruned)
        return _proven(before, after, names, given, data, provider, renumbered=renumbered)


@contextlib.contextmanager
def _saying_if_invalid(original: LoadedModel, name: str) -> Iterator[None]:
    """Add to a refusal that the original itself is not valid, where that is so."""
    try:
        yield
    except InferenceError:
        raise
    except HeadPruneError as error:
        obstacle = _says(original.proto, name, full=False)
        if obstacle is None and foreign_in(original.proto) is not None:
            # Operators that onnx cannot check.
            why = why_not_loaded(original)
            obstacle = why and f"it does not load in ONNX Runtime: {why}"
        if obstacle is not None and obstacle not in str(error):
            error.args = (f"{error}; the original itself is not valid: {obstacle}", *error.args[1:])
        raise


def _proven(
    before: LoadedModel,
    after: LoadedModel,
    names: tuple[str, str],
    given: ValidateCall,
    data: DataSource | None,
    provider: Provider | None,
    *,
    renumbered: bool,
) -> Validation:
    meter = None if given.metric is None else MetricMeter(given.metric)
    # With a permanent exit or fewer tokens, everything is planned and compared as from the original with these; but
    # what comes out is compared with the original itself, whose decision is forced and whose tokens are translated.
    ready = prepared(before, after)
    if data is not None and ready.trimmed is not None and not renumbered:
        from onnxheadprune.data.respelled import renumbered as respelled

        # What is measured is measured on the same texts.
        data = respelled(data, before, ready.trimmed)
    before = ready.model
    provider = provider or resolve_provider(given.provider)

    claim = read_claim(before, after.proto, given.heads, names, left=ready.is_changed)
    planning, plan = claim.planning, claim.planning.plan
    invalid, notes = _checker_problems(before.proto, after.proto, names)
    refits, strange = _refits(before, after, claim)
    anew = ", ".join(shadowed(before.as_stored, after.as_stored))
    if anew:
        strange = [
            *strange,
            f"{names[1]} defines {anew} itself, which ONNX Runtime computes by its own kernel",
        ]
    problems = [*claim.problems, *invalid, *strange]
    # What was refitted is taken from the pruned model; all else is planned on the original and proven.
    subject = refits.into(before) if refits.tensors else before
    planned, alike = compared(subject, after, plan, names[0], bool(claim.fused))
    problems += [
        f"{node} of {names[1]} outputs random numbers, and {names[0]} has no such node there"
        for node in alike.random
    ]
    problems += [
        f"output {output} of {names[1]} does not depend on input {name}, and in {names[0]} it does"
        for output, name in lost_content(planning.view, after.proto, planning.silent)
    ]
    tolerance = tolerance_for(planning.view)
    strange, numbered = _record_problems(planned, after.proto, names[1], alike)
    problems += strange
    notes += [*numbered, *alike.notes]
    # Nothing that runs reads it, and while models run there should be as few in memory as can be.
    del planned

    found = Findings()
    if not problems:
        bare = masked_reference(planning.view, planning.touched, planning.heads)
        # The masked reference refers to the original's weights where they lie.
        masked = refits.into(before, bare)
        changed = ready.reference(planning, refits)
        reference = changed or Reference(before, planning.view, masked)
        models = Models(
            original=reference.original,
            masked=reference.masked,
            pruned=after,
            planning=planning,
            tolerance=tolerance,
            provider=provider,
            silenced=_without_fused(before, planning, claim.fused),
            alive=subject if refits.tensors or changed is not None else None,
            aside=reference.aside,
            asked=reference.asked,
            unrefitted=before.changed(bare) if refits.tensors else None,
            is_planned=alike.identical,
            fixed=alike.fixed,
        )
        found = run_all(models, given, data, meter)

    problems += [*_altered(alike, names), *found.problems]
    trimmed = ready.tokens is not None
    words = words_for(plan.kinds, bool(claim.fused), bool(refits.tensors), ready.exits, trimmed)
    verdict, reason = judge(problems, found, tolerance, provider, words, planning.view)
    role, unseen = _seen(data)
    if verdict == "passed":
        verdict, reason = _with_refits(reason, len(refits.tensors), found.refit, claim.refit, unseen)
    tried = None
    if verdict == "passed" and not alike.identical:
        tried = tried_on(alike, found, planning.view)
        reason = f"{tried.sentence}; {reason}"
    return Validation(
        original=names[0],
        pruned=names[1],
        verdict=verdict,
        reason=reason,
        problems=tuple(problems),
        notes=(*notes, *found.notes),
        heads=plan.removed,
        tolerance=tolerance,
        cases=found.cases,
        drift=found.drift,
        accuracy=found.accuracy,
        metric=found.metric,
        weights_compared=alike.tensors,
        provider=provider,
        placement=found.placement,
        versions=versions(),
        seed=given.seed,
        likeness=alike,
        refitted=tuple(sorted(refits.tensors)),
        refit=found.refit,
        exits=ready.exits,
        tokens=ready.tokens,
        tried=tried,
        units={key: tuple(units) for key, units in plan.spec.items()},
        without=(*planning.parts, *ready.without),
    ).on(role)


def _altered(alike: Likeness, names: tuple[str, str]) -> Iterator[str]:
    """Yield a sentence if tensors keep their name and not their bytes."""
    if alike.altered:
        yield (
            f"{len(alike.altered)} stored tensors of {names[1]} are neither those of {names[0]} nor the planned cut of"
            f" them: {first_few(alike.altered, 3)}"
        )


def _record_problems(
    planned: ModelProto, pruned: ModelProto, name: str, alike: Likeness
) -> tuple[list[str], list[str]]:
    """Return problems and notes where the pruned model's records, which later cuts rely on, differ from the plan.

    A version that did not find some sites numbered the others otherwise.
    """
    problems: list[str] = []
    notes: list[str] = []
    theirs, ours = record_of(pruned), record_of(planned)
    if {site.index for site in theirs.fused} != {site.index for site in ours.fused}:
        told = problems if alike.identical else notes
        told.append(f"the record of {name} lists other sites as fused than its graph shows")
    for kind in KINDS:
        for entry in theirs.of(kind.units):
            by_number = sorted(ours.of(kind.units), key=lambda item: item.number != entry.number)
            found = next((item for item in by_number if item.projections == entry.projections), None)
            what = f"the record of {name} on {kind.called(entry.number)} ({entry.name})"
            if found is None:
                problems.append(f"{what} names projections or a site that the cut does not have")
            elif replace(entry, number=found.number, projections=found.projections) != found:
                problems.append(f"{what} is not that of the cut")
            elif entry.number != found.number:
                notes.append(f"{what} is that of {kind.called(found.number)}")
    return problems, notes


def _opened(source: ModelLike) -> LoadedModel:
    """The structure of a model, without what would be copied with each model that is made of it."""
    loaded = open_structure(source)
    bare = undocumented(loaded.proto)
    return loaded if bare is loaded.proto else loaded.changed(bare)


def _seen(data: DataSource | None) -> tuple[Basis, bool]:
    """The role of the data in a verdict, and whether trained weights have not seen it."""
    if data is None:
        return USERS_DATA, False
    from onnxheadprune.data.calibration import Calibration

    return (data.role or USERS_DATA, data.unseen) if isinstance(data, Calibration) else (USERS_DATA, False)


def _refits(original: LoadedModel, pruned: LoadedModel, claim: Claim) -> tuple[Restored, list[str]]:
    """Refitted tensors in the original's shapes, and what is wrong with them."""
    if claim.refit is None:
        return Restored(), []
    from onnxheadprune.choosing.compensation.record import restored

    return restored(original, pruned, claim.planning, claim.refit)


def _without_fused(loaded: LoadedModel, planning: Planning, fused: tuple[int, ...]) -> LoadedModel | None:
    """The original without the attention that the pruned model has fused; None if it has none."""
    heads = {site.index: range(site.num_heads) for site in planning.sites if site.index in fused}
    if not heads:
        return None
    return loaded.changed(masked_reference(planning.view, planning.sites, heads))


def _checker_problems(
    original: ModelProto, pruned: ModelProto, names: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """Problems and notes; the pruned model must pass whatever the original passes."""
    obstacle = None
    for full in (True, False):
        obstacle = _says(original, names[0], full)
        if obstacle is None:
            problem = _says(pruned, names[1], full)
            return ([] if problem is None else [problem]), []
    return [], [f"{obstacle}; so only ONNX Runtime judges the pruned one"]


def _says(model: ModelProto, name: str, full: bool) -> str | None:
    try:
        check_model(model, name, full=full)
    except ModelError as error:
        return str(error)
    return None
