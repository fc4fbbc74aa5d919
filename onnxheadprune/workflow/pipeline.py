"""One cut from end to end: read, choose, cut, fuse, prove, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnx import ModelProto

from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.planning import analyse, require_something
from onnxheadprune.edit import apply
from onnxheadprune.edit.functions import carried_out
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import VALIDATION_KEY, refit_record
from onnxheadprune.errors import ValidationFailedError
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.save import commit, sealed_bytes, stage_model, staged_model
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.model.storage.written import one_call
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.workflow.checks import Places, free_places, provider_of, require_sound
from onnxheadprune.workflow.requests import Request
from onnxheadprune.workflow.result import PruneResult, file_bytes

if TYPE_CHECKING:
    from onnxheadprune.attention.exits.leave import Leaving
    from onnxheadprune.benchmarking.gate import Gate
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.runtime import Provider
    from onnxheadprune.runtime.feeds.samples import DataSource
    from onnxheadprune.validation.result import Validation
    from onnxheadprune.workflow.choice.chosen import Chosen
    from onnxheadprune.workflow.vocabulary.keep import Trimmed


NOT_VALIDATED = "skipped (--no-validate)"


@dataclass(frozen=True)
class _Proof:
    """The original that candidates are compared with, where, and on which inputs.

    Attributes:
        original: the model before any change.
        request: what was asked for.
        provider: where both run, None without a proof.
        data: the user's inputs, None for random ones only.
    """

    original: LoadedModel
    request: Request
    provider: Provider | None
    data: DataSource | None

    def of(self, candidate: LoadedModel) -> Validation | None:
        """The verdict on a model, if it may be written with it; None where no proof is asked for.

        Raises:
            ValidationFailedError: if it may not.
        """
        request = self.request
        if self.provider is None or not request.proving.validate:
            return None
        from onnxheadprune.validation.proof import prove
        from onnxheadprune.validation.request import ValidationRequest

        asked = ValidationRequest(
            data=self.data,
            provider=self.provider,
            seed=request.run.seed,
            effect=request.choice.effect,
            renumbered=request.choice.tokens is not None,
            unseen=self.data is not None and _is_unseen(self.data),
        )
        verdict = prove(self.original, candidate, asked)
        if verdict.verdict == "failed":
            raise ValidationFailedError(
                f"validation failed, so nothing is written: {verdict.reason}", verdict
            )
        if verdict.verdict == "inconclusive" and not request.proving.accept_inconclusive:
            raise ValidationFailedError(
                f"validation is inconclusive, so nothing is written: {verdict.reason};"
                f" {request.proving.acceptance} writes the file all the same",
                verdict,
            )
        return verdict


def _is_unseen(data: DataSource) -> bool:
    """Return whether it is data that no training has seen."""
    from onnxheadprune.data.calibration import Calibration

    return isinstance(data, Calibration) and data.unseen


def _validation_note(verdict: Validation | None) -> tuple[str, str]:
    """The metadata entry that tells of a proof, and that there was none."""
    return VALIDATION_KEY, NOT_VALIDATED if verdict is None else verdict.stamp()


Ready: TypeAlias = Callable[[PruneResult], None]


@one_call()
def carried_through(
    model: ModelLike, request: Request, progress: Progress = silent, ready: Ready = lambda _: None
) -> PruneResult:
    """Return what `prune` does, for a request.

    Args:
        model: the model to prune.
        request: what is asked for.
        progress: told what is being done; see `prune`.
        ready: called with the whole result before a file has its name; nothing is written if it raises.

    Raises:
        HeadPruneError: as `prune` does.
    """
    original = open_structure(model)
    # Before anything is written: the output may take the original's place.
    bytes_before = file_bytes(original)
    places = free_places(original, request)
    provider = provider_of(request)
    require_sound(original)

    left = _left(original, request)
    subject = original if left is None else left.model
    trimmed = _trimmed(subject, request)
    if trimmed is not None:
        subject, request = trimmed.model, trimmed.request
    chosen, data = _chosen(subject, request, provider, progress)
    plan, cut = _cut(subject, request, chosen)
    plan = plan if trimmed is None else trimmed.on(plan)
    plan = plan if left is None else left.on(plan)
    if left is not None and left.drops_inputs:
        # What was read for the choice lacks what the original still asks for.
        data = request.run.data
    made, fusion = _fused(subject, cut, request, plan.cuts_something, provider, data)
    pruned = made.changed(made.proto, "the pruned model")
    apply.drop_metadata(pruned.proto, VALIDATION_KEY)

    proof = _Proof(original, request, provider, data)
    progress("validating" if request.proving.validate else "writing", 0, 0)

    def result(verdict: Validation | None, bytes_after: int | None) -> PruneResult:
        apply.set_metadata(pruned.proto, *_validation_note(verdict))
        return PruneResult(
            pruned=pruned.readable(),
            plan=plan,
            validation=verdict,
            output=None if places.output is None else str(places.output),
            before=stored_size(original.as_stored),
            after=stored_size(pruned.proto),
            fusion=fusion,
            chosen=chosen,
            file_bytes=None if bytes_before is None or bytes_after is None else (bytes_before, bytes_after),
            original=original,
            gates=_kept_limits(request, chosen),
            spelling=None if trimmed is None else trimmed.spelling,
        )

    if places.output is not None:
        return _written(pruned, places, request, proof, result, ready)
    found = result(proof.of(pruned.readable()), None)
    ready(found)
    return found


def _left(original: LoadedModel, request: Request) -> Leaving | None:
    """The model in which the asked-for exit is for good, None where none was asked for.

    Raises:
        RefusedError: if there is no such exit.
    """
    if request.choice.exit is None:
        return None
    from onnxheadprune.attention.exits.leave import leaving

    return leaving(original, (request.choice.exit,))


def _trimmed(subject: LoadedModel, request: Request) -> Trimmed | None:
    """The model with the tokens that are kept, None where all are.

    Raises:
        HeadPruneError: if they cannot be.
    """
    if request.choice.tokens is None:
        return None
    from onnxheadprune.workflow.vocabulary.keep import trimmed

    return trimmed(subject, request)


def _chosen(
    subject: LoadedModel, request: Request, provider: Provider | None, progress: Progress
) -> tuple[Chosen | None, DataSource | None]:
    """Return what `chosen_for` chooses, where anything is left to choose or to refit, and the data to validate on."""
    choice, data = request.choice, request.run.data
    if choice.decided is not None:
        return choice.decided, data
    if choice.wish is None and not choice.refit and choice.recover is None:
        return None, data
    from onnxheadprune.workflow.choosing import chosen_for

    return chosen_for(subject, request, provider, progress)


def _kept_limits(request: Request, chosen: Chosen | None) -> tuple[Gate, ...]:
    """The limits that a wish sets, with what the choice reaches."""
    if request.choice.wish is None or chosen is None:
        return ()
    from onnxheadprune.workflow.choosing import kept_limits

    return kept_limits(request.choice.wish, chosen)


def _fused(
    subject: LoadedModel,
    cut: LoadedModel,
    request: Request,
    changed: bool,
    provider: Provider | None,
    data: DataSource | None,
) -> tuple[LoadedModel, Fusion | None]:
    """Return what `fused` makes of a cut; the cut itself where no fused operators are asked for."""
    if request.fuse == "none":
        return cut, None
    from onnxheadprune.workflow.fuse import Setting, fused

    return fused(subject, cut, request.fuse, changed, Setting(provider, data, request.run.seed))


def _cut(subject: LoadedModel, request: Request, chosen: Chosen | None) -> tuple[PrunePlan, LoadedModel]:
    """The plan, and the model with the plan carried out: refitted weights may lie in other files than the original's.

    Raises:
        RefusedError: if the heads cannot be removed exactly, or there is nothing to do.
    """
    spec: HeadSpec
    if chosen is None:
        spec = {} if request.choice.heads is None else request.choice.heads
    else:
        from onnxheadprune.workflow.choice.cutting import renumbered

        subject, spec = renumbered(subject, chosen), chosen.selection.spec

    def planned(proto: ModelProto) -> PrunePlan:
        return analyse(proto, spec, subject.name, request.contract).plan

    plan = planned(subject.proto) if chosen is None or chosen.plan is None else chosen.plan
    if request.fuse == "none":
        if request.choice.exit is None and request.choice.tokens is None:
            require_something(plan)
        cut = subject.changed(carried_out(plan, subject, planned))
    else:
        cut = subject.changed(apply.apply_plan(plan, subject.proto))
    seal_refits(cut, plan)
    return plan, cut


def seal_refits(cut: LoadedModel, plan: PrunePlan) -> None:
    """Write the digests of refitted tensors into the record of a pruned model, if it has one."""
    if refit_record(cut.proto) is not None:
        from onnxheadprune.choosing.compensation.record import sealed

        sealed(cut, plan)


def _written(
    pruned: LoadedModel,
    places: Places,
    request: Request,
    proof: _Proof,
    result: Callable[[Validation | None, int], PruneResult],
    ready: Ready,
) -> PruneResult:
    """Writes a model whose files get their names only after its proof: what is proven is read back from the disk.

    Raises:
        ValidationFailedError: if it is not shown to be exact. Nothing is written.
    """
    assert places.output is not None
    writing = request.writing
    with stage_model(pruned, places.output, writing.external_data, writing.data_name) as stage:
        verdict = proof.of(staged_model(stage)) if request.proving.validate else None
        found = result(verdict, sealed_bytes(stage, _validation_note(verdict)))
        ready(found)
        commit(stage, places.backup)
    if request.choice.recover is not None:
        from onnxheadprune.training.checkpoint import beside

        beside(places.output).unlink(missing_ok=True)
    return found
