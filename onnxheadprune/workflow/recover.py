"""Training what is left of a model that was pruned before, from end to end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from onnxheadprune.choosing.compensation.record import Compensation, restored
from onnxheadprune.data.sources import read_data
from onnxheadprune.edit.records import record_of
from onnxheadprune.errors import UsageError, ValidationFailedError
from onnxheadprune.fusion.result import FuseMode
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.storage.claims import Making
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.calls import RecoverCall, ValidateCall
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.proof import prove
from onnxheadprune.validation.reference import prepared
from onnxheadprune.workflow.pipeline import Ready, claimed, cut_as_requested
from onnxheadprune.workflow.requests import Request, Tokens
from onnxheadprune.workflow.result import PruneResult


def run_recovery(
    model: ModelLike,
    pruned: ModelLike,
    call: RecoverCall,
    progress: Progress = silent,
    ready: Ready = lambda _: None,
    *,
    beside: Iterable[Making] = (),
) -> PruneResult:
    """Make the cut of a pruned model again, and train what is left as a call asks for."""
    progress("reading the models", 0, 0)
    original, made, wanted = open_structure(model), open_structure(pruned), call.as_prune
    places = claimed(wanted, original, made, beside=beside)
    request = Request.of(wanted)
    request = replace(request, data=read_data(original, wanted))
    progress("validating", 0, 0)
    return cut_as_requested(original, _request_like(original, made, request), places, progress, ready)


def _request_like(original: LoadedModel, made: LoadedModel, request: Request) -> Request:
    """Return the request by which `prune` would make a pruned model and train it."""
    names = original.name, made.name
    provider = resolve_provider(request.call.provider)
    found = prove(original, made, ValidateCall(seed=request.call.seed), provider=provider)
    if found.verdict == "failed":
        raise ValidationFailedError(
            f"{names[1]} is not shown to be a cut of {names[0]}: {found.reason}", found
        )
    if not found.likeness.identical:
        raise UsageError(
            f"{names[1]} was changed after it was pruned, and a recovery makes the cut anew; recover it before other"
            " tools work on it"
        )
    ready = prepared(original, made)
    exits = ready.exits
    if len(exits) > 1:
        raise UsageError(
            f"exits {', '.join(map(str, exits))} of {names[0]} are permanent in {names[1]}, and a recovery takes one;"
            " name what was written with the exits alone as the MODEL"
        )
    subject = ready.model
    claim = read_claim(subject, made.proto, None, names, left=ready.is_changed)
    plan = claim.planning.plan
    if not plan.cuts_something:
        raise UsageError(f"{names[1]} lacks no head of {names[0]}, so there is nothing to recover")
    compensation, refit = None, claim.refit
    if refit is not None:
        before, _ = restored(subject, made, claim.planning, refit)
        compensation = Compensation(refit.data, refit.samples, before.arrays(), steps=refit.steps)
    call = replace(
        request.call.naming(plan.spec),
        refit=False,
        exit=exits[0] if exits else None,
        fuse=_fused(made),
    )
    tokens = None
    if ready.trimmed is not None:
        kept = ready.trimmed.cut.tokens
        tokens = Tokens(kept.kept, inputs=kept.inputs, rows=kept.rows)
    return replace(request, call=call, agreed=claim.contract, compensation=compensation, tokens=tokens)


def _fused(made: LoadedModel) -> FuseMode:
    """The kind of fused operators that this tool gave a model."""
    if not record_of(made.proto).fused:
        return "none"
    own = any("microsoft" in node.domain for node in made.proto.graph.node)
    return "contrib" if own else "onnx"
