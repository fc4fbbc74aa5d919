"""The Python API: everything the commands do, as functions that never print.

Models are given as a path, a `ModelProto` or a `gs.Graph`; they are never changed.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.planning import analyse, plan_pruning, require_something
from onnxheadprune.attention.sites.find import find_sites
from onnxheadprune.edit import apply
from onnxheadprune.edit.functions import carried_out
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.records import VALIDATION_KEY
from onnxheadprune.errors import InferenceError, ModelError, UsageError, ValidationFailedError
from onnxheadprune.fusion import FuseMode, Fusion
from onnxheadprune.model.load import LoadedModel, ModelLike, check_model, load_model, open_structure
from onnxheadprune.model.save import check_backup, check_target, commit, stage_model, staged_model
from onnxheadprune.model.storage.claims import named_files
from onnxheadprune.model.storage.layout import ExternalData
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.model.storage.tensors import StoredSize, stored_size
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.chooser import Chooser, Trying, named, renumbered
from onnxheadprune.selection.compensation import sealed
from onnxheadprune.selection.recovery import Budget, Recovering, beside
from onnxheadprune.selection.wishes import Chosen, Wish
from onnxheadprune.validation import Validation, validate
from onnxheadprune.workflow.differences import Difference, differences
from onnxheadprune.workflow.fuse import Setting, fused
from onnxheadprune.workflow.notebook import cut_html
from onnxheadprune.workflow.operations import Operations, operations
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

NOT_VALIDATED = "skipped (--no-validate)"
SAMPLES_TO_VALIDATE = 128
"""Samples of calibration data that a compensated model is proven on, beside the random feeds."""

__all__ = ["PruneResult", "StoredSize", "apply_plan", "find_sites", "plan_pruning", "prune", "validate"]


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned model and how it came about.

    Attributes:
        pruned: the pruned model; weights that were not in memory are still where the original has them.
        plan: what was changed.
        validation: the verdict, None if validation was skipped.
        output: where the model was written, None if it was not.
        before: what the original's stored tensors hold, Constants included.
        after: what the pruned model's stored tensors hold.
        fusion: what became of each site, None if no fusion was asked for.
        chosen: how the heads were chosen and what was refitted, None for plain named heads.
        file_bytes: what the original's and the written model's files take, weights beside them included; None if
            there are not both.
        original: the model as it was; large weights are where its files have them.
    """

    pruned: LoadedModel
    plan: PrunePlan
    validation: Validation | None
    output: str | None
    before: StoredSize
    after: StoredSize
    fusion: Fusion | None = None
    chosen: Chosen | None = None
    file_bytes: tuple[int, int] | None = None
    original: LoadedModel | None = None

    def _repr_html_(self) -> str:
        return cut_html(self.plan, (self.before, self.after), self.validation, self.chosen, self.warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know although the result is exact, one sentence each."""
        found = size_warnings(self.before, self.after) if self.plan.removed else ()
        files = self.file_bytes
        if files is not None and self.plan.removed and files[1] > files[0] and not found:
            found += (
                f"the file grows by {files[1] - files[0]:,} bytes: what the cut adds to the graph outweighs it",
            )
        return found

    @functools.cached_property
    def model(self) -> ModelProto:
        """The pruned model with its weights in memory, which are read now if they were not before.

        Raises:
            ModelError: if its files were changed or removed since.
        """
        if self.output is not None and self.pruned.sources:
            return load_model(self.output)
        return hydrated(self.pruned.proto, self.pruned.sources)

    @functools.cached_property
    def differences(self) -> tuple[Difference, ...]:
        """What tells the pruned model from the original, name by name."""
        if self.original is None:
            return ()
        compensation = None if self.chosen is None else self.chosen.compensation
        refits = () if compensation is None else tuple(compensation.stored)
        return differences(self.original.proto, self.pruned.proto, self.plan, refits)

    @functools.cached_property
    def operations(self) -> Operations | None:
        """Operations of one run, before and after; None where validation ran nothing."""
        if self.original is None or self.validation is None or not self.validation.cases:
            return None
        return operations(self.original.proto, self.pruned.proto, self.validation.cases[0].shapes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the model itself."""
        return {
            "model": self.plan.model,
            "output": self.output,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "plan": self.plan.to_dict(),
            "validation": None if self.validation is None else self.validation.to_dict(),
            "fusion": None if self.fusion is None else self.fusion.to_dict(),
            "choice": None if self.chosen is None else self.chosen.to_dict(),
            "file_bytes": None
            if self.file_bytes is None
            else dict(zip(("before", "after"), self.file_bytes, strict=True)),
            "warnings": list(self.warnings),
            "operations": None if self.operations is None else self.operations.to_dict(),
            "differences": [item.to_dict() for item in self.differences],
        }


def planned_size(plan: PrunePlan, model: ModelLike) -> tuple[StoredSize, StoredSize]:
    """What a model's stored tensors hold before and after a plan; nothing is written.

    Raises:
        RefusedError: if the plan was made for a model of another structure.
        ModelError: if the model cannot be read.
    """
    loaded = open_structure(model)
    return _size_before(loaded), stored_size(carried_out(plan, loaded))


def size_warnings(before: StoredSize, after: StoredSize) -> tuple[str, ...]:
    """A sentence if the tensors of a pruned model take more bytes than before."""
    if after.bytes <= before.bytes:
        return ()
    grown = after.bytes - before.bytes
    sentence = (
        f"the weights grow by {grown:,} bytes: new indices or copies of shared weights outweigh what is cut"
    )
    return (sentence,)


def _file_bytes(loaded: LoadedModel) -> int:
    assert loaded.path is not None
    return sum(file.stat().st_size for file in (loaded.path, *loaded.data_files) if file.is_file())


def _size_before(loaded: LoadedModel) -> StoredSize:
    """As the file holds it: functions are counted once, not once per call."""
    return stored_size(loaded.proto if loaded.stored is None else loaded.stored)


def apply_plan(plan: PrunePlan, model: ModelLike) -> ModelProto:
    """A copy of `model` with the plan carried out; everything outside the plan is bit-identical.

    Raises:
        RefusedError: if the plan was made for a model of another structure.
        ModelError: if the model cannot be read.
    """
    loaded = open_structure(model)
    pruned = loaded.changed(carried_out(plan, loaded))
    sealed(pruned, plan)
    return hydrated(pruned.proto, pruned.sources)


def prune(
    model: ModelLike,
    heads: HeadSpec | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    validate: bool = True,
    data: DataSource | None = None,
    provider: str = AUTO,
    seed: int = 0,
    keep_cache_shape: bool = False,
    allow_io_change: bool = False,
    accept_inconclusive: bool = False,
    external_data: ExternalData = "auto",
    backup: str | os.PathLike[str] | None = None,
    fuse: FuseMode = "none",
    wish: Wish | None = None,
    compensate: bool | None = None,
    effect: Measure | None = None,
    recover: Budget | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> PruneResult:
    """Removes heads, proves the result equal to the original with silenced heads, then writes it.

    Args:
        model: the model to prune.
        heads: a head spec ("0:1,3 5:0-3"), a mapping `{0: [1, 3]}` or the path of a JSON file; None with a
            `wish`, or to fuse only.
        output: where to write; None writes nothing.
        validate: compare with the masked reference first; False is noted in the model's metadata.
        data: the user's inputs for the validation; see `feeds.load_data` for the forms.
        provider: where to validate: "auto", "cpu", "cuda" or another execution provider's name.
        seed: of the random inputs.
        keep_cache_shape: keep the shapes of past/present inputs and outputs, at the price of an edge gather.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.
        accept_inconclusive: write even if the heads matter too little for a wrong cut to show.
        external_data: keep weights beside the output: as the input does, always or never.
        backup: allows `output` to be the model itself, whose file is kept under this name.
        fuse: rewrite attention into fused operators: ONNX Runtime's ("contrib"), the standard one ("onnx"),
            or whatever is fastest here ("auto"). With no heads to remove, this alone is done.
        wish: how many heads are to go, in place of `heads`; which ones is then chosen here.
        compensate: refit what is left to the original's activations on `data`. None does so for a `wish` with
            data; heads that are named are removed as they are.
        effect: the measure of drift, of a `wish` and of the validation: "kl", "cosine" or your own function; None goes
            by the kind of output.
        recover: how long what is left is trained on `data` to give what the original gives, after the refit; a
            twentieth of the data is set aside for that.
        resume: go on with a training that was interrupted, from the file beside `output`.
        progress: told what is being done, how much of it is done, and of how much (0: unknown).

    Raises:
        UsageError: if a path, the spec or the data is wrong. Nothing is written.
        ModelError: if the model cannot be read, or is not valid.
        RefusedError: if the heads cannot be removed exactly.
        ProviderError: if the asked-for provider does not run here.
        ValidationFailedError: if the pruned model is not shown to be exact. Nothing is written.
    """
    request = Request(
        Choice(heads, wish, compensate, effect, recover, resume),
        Contract(keep_cache_shape, allow_io_change),
        fuse,
        Run(provider, seed, data),
        Proving(validate, accept_inconclusive),
        Writing(output, external_data, backup),
    )
    return carried_through(model, request, progress)


def carried_through(model: ModelLike, request: Request, progress: Progress = silent) -> PruneResult:
    """What `prune` does, for a request.

    Args:
        model: the model to prune.
        request: what is asked for.
        progress: told what is being done; see `prune`.

    Raises:
        HeadPruneError: as `prune` does.
    """
    choice, run, writing = request.choice, request.run, request.writing
    loaded = open_structure(model)
    if writing.external_data not in ("auto", "always", "never"):
        raise UsageError(f"external data is auto, always or never, not {writing.external_data!r}")
    taken = None if loaded.path is None else _file_bytes(loaded)
    target, kept = _places(loaded, request)
    # A provider that is asked for by name must be usable, also where only the choice of a fusion would run on it.
    named_provider = request.proving.validate or run.provider.lower() != AUTO
    where = resolve_provider(run.provider) if named_provider else None
    require_sound(loaded)
    chosen, proof_data = _chosen(loaded, request, where, progress)
    subject: LoadedModel = loaded
    spec: HeadSpec = {} if choice.heads is None else choice.heads
    if chosen is not None:
        spec = chosen.selection.spec
        subject = renumbered(loaded, chosen)

    def planned(proto: ModelProto) -> PrunePlan:
        return analyse(proto, spec, loaded.name, request.contract).plan

    plan = planned(subject.proto) if chosen is None or chosen.plan is None else chosen.plan
    if request.fuse == "none":
        require_something(plan)
        cut = carried_out(plan, subject, planned)
    else:
        cut = apply.apply_plan(plan, subject.proto)
    sealed(subject.changed(cut), plan)
    setting = Setting(where or _provider(run.provider, request.fuse), proof_data, run.seed)
    made, fusion = fused(loaded, cut, request.fuse, bool(plan.removed), setting)
    pruned = loaded.changed(made, "the pruned model")
    apply.drop_metadata(pruned.proto, VALIDATION_KEY)

    def proven(candidate: LoadedModel) -> Validation | None:
        if where is None or not request.proving.validate:
            return None
        return _validated(loaded, candidate, request, where, proof_data)

    if target is None:
        verdict = proven(pruned)
    else:
        # What is proven is what was written, read back from the disk.
        with stage_model(pruned, target, writing.external_data, writing.data_name) as stage:
            verdict = proven(staged_model(stage)) if request.proving.validate else None
            commit(stage, (VALIDATION_KEY, _stamp(verdict)), kept)
        if choice.recover is not None:
            beside(target).unlink(missing_ok=True)
    apply.set_metadata(pruned.proto, VALIDATION_KEY, _stamp(verdict))
    written = None if target is None else str(target)
    sizes = _size_before(loaded), stored_size(pruned.proto)
    files = None if taken is None or written is None else (taken, _file_bytes(open_structure(written)))
    return PruneResult(pruned, plan, verdict, written, *sizes, fusion, chosen, files, loaded)


def _places(loaded: LoadedModel, request: Request) -> tuple[Path | None, Path | None]:
    """Where the result and the backup go, free to be written.

    Raises:
        UsageError: if one is not.
    """
    writing = request.writing
    in_place = writing.backup is not None
    others = [
        *named_files("the data", request.run.data),
        *named_files("the heads", request.choice.heads),
    ]
    target = (
        None
        if writing.output is None
        else check_target(writing.output, loaded, in_place=in_place, others=others)
    )
    kept = None if writing.backup is None else check_backup(writing.backup, target, loaded)
    return target, kept


def _chosen(
    loaded: LoadedModel, request: Request, provider: Provider | None, progress: Progress
) -> tuple[Chosen | None, DataSource | None]:
    """Heads for a wish and refitted weights, if either is asked for; and what is left of the data to validate on.

    Raises:
        UsageError: if heads are named and wished for.
    """
    choice, data = request.choice, request.run.data
    if choice.decided is not None:
        return choice.decided, data
    if choice.heads and choice.wish is not None:
        raise UsageError("name the heads, or say how many are to go, not both")
    if choice.wish is None and not choice.compensate and choice.recover is None:
        return None, data
    where = resolve_provider(request.run.provider) if provider is None else provider
    recovering = _recovering(request)
    trying = Trying(
        choice.compensate, choice.effect, request.contract, request.fuse, recovering, choice.given
    )
    chooser = Chooser(loaded, data, where, trying, progress)
    chosen = named(chooser, choice.heads or {}) if choice.wish is None else chooser.choose(choice.wish)
    # Exactness shows on few samples; more would only take time.
    return chosen, None if chooser.held is None else chooser.held.subset(SAMPLES_TO_VALIDATE)


def _recovering(request: Request) -> Recovering | None:
    """How a training is made; its state is kept where it is the only one."""
    choice, output = request.choice, request.writing.output
    if choice.recover is None:
        return None
    many = choice.wish is not None and choice.wish.max_drift is not None
    kept = None if output is None or many else beside(output)
    return Recovering(choice.recover, request.run.seed, kept, choice.resume)


def _provider(asked: str, fuse: FuseMode) -> Provider | None:
    """Where fused forms are measured although nothing is validated."""
    return resolve_provider(asked) if fuse == "auto" else None


def _stamp(verdict: Validation | None) -> str:
    return NOT_VALIDATED if verdict is None else verdict.stamp()


def _validated(
    original: LoadedModel,
    candidate: LoadedModel,
    request: Request,
    provider: Provider,
    data: DataSource | None,
) -> Validation:
    """The verdict, if the model may be written with it.

    Raises:
        ValidationFailedError: if it may not.
    """
    verdict = validate(
        original,
        candidate,
        data=data,
        provider=provider,
        seed=request.run.seed,
        effect=request.choice.effect,
        unseen=request.choice.recover is not None,
    )
    if verdict.verdict == "failed":
        raise ValidationFailedError(f"validation failed, so nothing is written: {verdict.reason}", verdict)
    if verdict.verdict == "inconclusive" and not request.proving.accept_inconclusive:
        raise ValidationFailedError(
            f"validation is inconclusive, so nothing is written: {verdict.reason}", verdict
        )
    return verdict


def require_sound(loaded: LoadedModel) -> None:
    """Whether a model is good enough to start from.

    ONNX Runtime's optimizer writes models that `onnx.checker` does not know and ONNX Runtime runs; only
    what fails both is turned away.

    Raises:
        ModelError: with the checker's reason.
    """
    try:
        check_model(loaded.proto, loaded.name)
    except ModelError as error:
        try:
            Session(loaded, Provider(CPU, "check"), name=loaded.name)
        except InferenceError:
            raise error from None
