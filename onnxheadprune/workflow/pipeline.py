"""One cut from end to end: read, check, choose, cut, fuse, prove, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from onnxheadprune.attention.planning import analyse, require_something
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.attention.specs import HeadSpec
from onnxheadprune.data.sources import read_data
from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import VALIDATION_KEY, drop_metadata, record_of, set_metadata
from onnxheadprune.errors import (
    InferenceError,
    ModelError,
    RefusedError,
    ValidationFailedError,
)
from onnxheadprune.model.load import (
    LoadedModel,
    ModelLike,
    check_model,
    file_bytes,
    open_structure,
    serialized,
)
from onnxheadprune.model.save import Outputs, stage_model, staged_model
from onnxheadprune.model.storage.claims import Making
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.settings.calls import PruneCall, ValidateCall
from onnxheadprune.workflow.requests import Request, ahead, placed, readings_of, require_for
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.attention.exits import Leaving
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.validation.result import Validation
    from onnxheadprune.workflow.choice.chosen import Chosen
    from onnxheadprune.workflow.vocabulary.keep import Trimmed


NOT_VALIDATED = "skipped (--no-validate)"
Ready: TypeAlias = Callable[[PruneResult], None]


def _proven(
    original: LoadedModel,
    candidate: LoadedModel,
    request: Request,
    provider: Provider | None,
    data: DataSource | None,
) -> Validation | None:
    """The verdict on a model, if it allows writing; None where no proof is requested.

    Args:
        original: the model before any change.
        provider: where both run, None without a proof.
        data: the user's inputs, None for random ones only.
    """
    if provider is None or not request.call.validate:
        return None
    from onnxheadprune.validation.proof import prove

    given = ValidateCall(seed=request.call.seed, drift=request.call.drift)
    verdict = prove(original, candidate, given, data, provider, renumbered=request.tokens is not None)
    if verdict.verdict == "failed":
        raise ValidationFailedError(f"validation failed, so nothing is written: {verdict.reason}", verdict)
    if verdict.verdict == "inconclusive" and not request.call.accept_inconclusive:
        raise ValidationFailedError(
            f"validation is inconclusive, so nothing is written: {verdict.reason};"
            f" `accept_inconclusive=True` writes the file all the same",
            verdict,
        )
    return verdict


def _validation_note(verdict: Validation | None) -> tuple[str, str]:
    """The metadata entry that records a proof, or its absence."""
    return VALIDATION_KEY, NOT_VALIDATED if verdict is None else verdict.stamp()


def run_prune(
    model: ModelLike,
    call: PruneCall,
    progress: Progress = silent,
    ready: Ready = lambda _: None,
    *,
    beside: Iterable[Making] = (),
    dry_run: bool = False,
    in_folder: bool = False,
) -> PruneResult:
    """Run `prune` for a call.

    Args:
        ready: called with the result before files get their names; nothing is written if it raises.
        beside: reports, which the caller writes.
        dry_run: check where the call would write; write, prove and time nothing.
        in_folder: the model is one of several, some of which may use only a part of the data.
    """
    progress("reading the model", 0, 0)
    original = open_structure(model, follow_links=call.follow_links)
    require_for(call, original.name, is_folder=False)
    call = placed(call, original.path)
    places = claimed(call, original, beside=beside)
    would_write = None
    if dry_run:
        (call, would_write), places = ahead(call), Outputs(None)
    # Whatever is wrong in the settings is known before data is read.
    request = Request.of(call)
    request = replace(request, data=read_data(original, call, in_folder=in_folder))
    return cut_as_requested(original, request, places, progress, ready, would_write)


def cut_as_requested(
    original: LoadedModel,
    request: Request,
    places: Outputs,
    progress: Progress,
    ready: Ready = lambda _: None,
    would_write: str | None = None,
) -> PruneResult:
    """Cut a model as a request asks for, into files that were claimed."""
    # Before anything is written: the output may take the original's place.
    bytes_before, kept = file_bytes(original), places.kept
    provider = _provider_of(request)
    _require_sound(original)

    left: Leaving | None = None
    trimmed: Trimmed | None = None
    subject = original
    if request.call.exit is not None:
        from onnxheadprune.attention.exits import leaving

        left = leaving(original, (request.call.exit,))
        subject = left.model
    if request.tokens is not None:
        from onnxheadprune.workflow.vocabulary.keep import Trimmed

        trimmed = Trimmed.of(subject, request)
        subject, request = trimmed.model, trimmed.request
    chosen, data = _chosen(subject, request, provider, progress, original)
    plan, cut = _cut(subject, request, chosen)
    plan = plan if trimmed is None else trimmed.on(plan)
    plan = plan if left is None else left.on(plan)
    if left is not None and left.drops_inputs:
        # What was read for the choice lacks what the original still asks for.
        data = request.data
    fusion: Fusion | None = None
    if request.call.fuse != "none":
        from onnxheadprune.workflow.fuse import fused

        cut, fusion = fused(subject, cut, request.call, provider, data)
        if not fusion.made and not plan.cuts_something:
            raise RefusedError(f"there is nothing to fuse in {subject.name}: {fusion}")
    pruned = cut.changed(cut.proto, "the pruned model")
    drop_metadata(pruned.proto, VALIDATION_KEY)

    unloadable = None
    if not request.call.validate:
        from onnxheadprune.runtime.loading import why_not_loaded

        unloadable = why_not_loaded(original)

    def proven(candidate: LoadedModel) -> Validation | None:
        return _proven(original, candidate, request, provider, data)

    if request.call.validate or places.model is not None:
        progress("validating" if request.call.validate else "writing", 0, 0)

    def sizes(bytes_after: int | None) -> tuple[int, int]:
        """Bytes of the original's files and of the cut's, of those that there are not what they would take."""
        before = serialized(original) if bytes_before is None else bytes_before
        saved = serialized(original) - serialized(pruned)
        return before, before - saved if bytes_after is None else bytes_after

    def result(verdict: Validation | None, bytes_after: int | None) -> PruneResult:
        set_metadata(pruned.proto, *_validation_note(verdict))
        budget, trained = request.budget, None if chosen is None else chosen.recovery
        return PruneResult(
            pruned=pruned.readable(),
            plan=plan,
            validation=verdict,
            output=None if places.model is None else str(places.model),
            before=stored_size(original.as_stored),
            after=stored_size(pruned.proto),
            fusion=fusion,
            chosen=chosen,
            file_bytes=None if bytes_before is None or bytes_after is None else (bytes_before, bytes_after),
            original=original,
            gates=() if chosen is None else chosen.limits(request.call, sizes(bytes_after)),
            spelling=None if trimmed is None else trimmed.spelling,
            does_not_load=unloadable,
            backup=kept,
            would_write=would_write,
            shortest=None if budget is None else budget.shortest(0.0 if trained is None else trained.seconds),
        )

    if places.model is not None:
        return _written(pruned, places, request, proven, result, ready)
    found = result(proven(pruned.readable()), None)
    ready(found)
    return found


def _chosen(
    subject: LoadedModel,
    request: Request,
    provider: Provider | None,
    progress: Progress,
    original: LoadedModel,
) -> tuple[Chosen | None, DataSource | None]:
    """Return the selection of `chosen_for`, if there is anything to select or refit, and the data to validate on."""
    if request.decided is not None:
        return request.decided, request.data
    if not request.chooses:
        return None, request.data
    from onnxheadprune.workflow.choosing import chosen_for

    return chosen_for(subject, request, provider, progress, original)


def _cut(subject: LoadedModel, request: Request, chosen: Chosen | None) -> tuple[PrunePlan, LoadedModel]:
    """The plan, and the model after it was applied: refitted weights may lie in other files than the original's."""
    spec: HeadSpec
    if chosen is None:
        spec = {} if request.heads is None else request.heads
    else:
        subject, spec = chosen.renumbered(subject), chosen.selection.spec

    plan = None if chosen is None else chosen.plan
    if plan is None:
        plan = analyse(subject.proto, spec, subject.name, request.contract).plan
    if request.call.fuse == "none" and request.call.exit is None and request.tokens is None:
        require_something(plan)
    cut = subject.changed(apply.apply_plan(plan, subject.proto))
    seal_refits(cut, plan)
    _require_found_again(cut, plan)
    return plan, cut


def _require_found_again(cut: LoadedModel, plan: PrunePlan) -> None:
    """Raise a RefusedError if no later call could find the heads that are left."""
    left = [item.called for item in plan.cuts if item.removed and item.left]
    if not left:
        return
    try:
        analysis_of(cut.readable())
    except ModelError as error:
        raise RefusedError(
            f"what is left of {', '.join(left)} would not be found in the pruned model ({error}); remove other heads,"
            " or all of them"
        ) from None


def seal_refits(cut: LoadedModel, plan: PrunePlan) -> None:
    """Write the digests of refitted tensors into the record of a pruned model, if it has one."""
    if record_of(cut.proto).refit is not None:
        from onnxheadprune.choosing.compensation.record import sealed

        sealed(cut, plan)


def _written(
    pruned: LoadedModel,
    places: Outputs,
    request: Request,
    proven: Callable[[LoadedModel], Validation | None],
    result: Callable[[Validation | None, int], PruneResult],
    ready: Ready,
) -> PruneResult:
    """Write a model whose files get their names only after the proof, which reads them back from the disk."""
    assert places.model is not None
    with stage_model(pruned, places.model, request.call, request.call.data_name) as stage:
        verdict = proven(staged_model(stage)) if request.call.validate else None
        found = result(verdict, stage.seal(_validation_note(verdict)))
        ready(found)
        stage.commit(places.backup)
    trained = None if found.chosen is None else found.chosen.recovery
    if request.budget is not None and not (trained is not None and trained.is_interrupted):
        from onnxheadprune.training.checkpoint import beside

        beside(places.model).unlink(missing_ok=True)
    return found


def claimed(call: PruneCall, *models: LoadedModel, beside: Iterable[Making] = ()) -> Outputs:
    """The files that a call writes, which are free, and none of those that it reads."""
    files = [*beside]
    if call.output is not None and (call.recover is not None or call.time is not None):
        from onnxheadprune.training.checkpoint import beside as beside_output
        from onnxheadprune.training.checkpoint import making_of

        files.append(making_of(beside_output(Path(call.output))))
    outputs = Outputs.of(call.output, call.backup, call.data_name, tuple(files))
    return outputs.claim(*models, others=readings_of(call))


def _provider_of(request: Request) -> Provider | None:
    """Return the provider for proofs and for measuring fused forms; None where neither is done.

    A provider requested by name must run here even if it turns out not to be needed.
    """
    asked = request.call.provider
    if request.call.validate or request.call.fuse == "auto" or asked.lower() != AUTO:
        return resolve_provider(asked)
    return None


def _require_sound(model: LoadedModel) -> None:
    """Check that the original model is valid.

    ONNX Runtime's optimizer writes models that `onnx.checker` rejects and ONNX Runtime runs; only
    models that fail both are refused.
    """
    try:
        check_model(model.proto, model.name)
    except ModelError as error:
        try:
            Session(model, Provider(CPU, "check"), name=model.name)
        except InferenceError:
            raise error from None
