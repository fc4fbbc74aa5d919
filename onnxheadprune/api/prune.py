"""`prune`, `fuse` and `plan_pruning` as functions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, data_of, heard, subject_of
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import FuseKeywords, PlanPruningKeywords, PruneKeywords
from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.planning import plan_of
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel, ModelLike
from onnxheadprune.model.storage.claims import backup_path
from onnxheadprune.model.storage.writing import named_data
from onnxheadprune.settings.measuring import Timing
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.writing import Storing, Target
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.measure import BenchSettings


@keywords_of(calls.PRUNE)
def prune(
    model: ModelLike, output: Output = None, *, progress: Shown = None, **settings: Unpack[PruneKeywords]
) -> PruneResult:
    """Remove heads, neurons, experts or layers, prove the result exact, then write it.

        result = ohp.prune("model.onnx", "pruned.onnx", heads="0:1,3 5:0-3")
        result = ohp.prune("model.onnx", "pruned.onnx", ratio=0.25, data="sentences.txt", recover="5m")

    Name the units to remove (`heads`, `neurons`, `experts`, `layers`, `exit`, `vocab`), or how much (`ratio`, `keep`,
    `target_size`, `target_speedup`, `max_drift`): which ones is then measured on `data`.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`; it is never changed.
        output: where to write; None writes nothing.
        {settings}
        progress: True shows a bar on stderr; a function is called with the step, how much of it is done, and of how
            much (0: unknown).

    Returns:
        The pruned model, the plan, the verdict of the proof, sizes before and after.

    Raises:
        UsageError: if a keyword, a path or the data is wrong. Nothing is written.
        ModelError: if the model cannot be read, or is not valid.
        RefusedError: if the units cannot be removed exactly, or a target cannot be met.
        ProviderError: if the named provider does not run here.
        ValidationFailedError: if the pruned model is not shown to be exact. Nothing is written.
    """
    given = calls.PRUNE.read(settings, output=output)
    if isinstance(model, (str, os.PathLike)) and Path(model).is_dir():
        raise UsageError(f"{model} is a folder; prune_folder() removes units from all of its models")
    subject = subject_of(model, given.follow_links)
    place = _place(given, model)
    writing = replace(place, data_name=_data_name(given.data_name, place.output))
    request = Request.of(given, writing, resume=given.resume)
    request = request.on(data_of(subject, given))
    target = request.choice.target
    if target is not None:
        request = replace(
            request, choice=replace(request.choice, target=replace(target, sizes=_sizes(given)))
        )
    return run_prune(subject, request, heard(progress))


@keywords_of(calls.FUSE)
def fuse(
    model: ModelLike, output: Output = None, *, progress: Shown = None, **settings: Unpack[FuseKeywords]
) -> PruneResult:
    """Write the attention of every site as one fused operator, prove the result equal, then write it.

        result = ohp.fuse("model.onnx", "fused.onnx")
        result = ohp.fuse("model.onnx", "fused.onnx", mode="auto", data="sentences.txt")

    Args:
        model: see `prune`.
        output: where to write; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        HeadPruneError: as `prune` does.
    """
    given = calls.FUSE.read(settings, output=output)
    request = Request(
        fuse=given.mode,
        run=Run(given.provider, given.seed, data_of(model, given)),
        proving=Proving(given.validate, given.accept_inconclusive),
        writing=_place(given, model),
    )
    return run_prune(model, request, heard(progress))


@keywords_of(calls.PLAN)
def plan_pruning(model: ModelLike, **settings: Unpack[PlanPruningKeywords]) -> PrunePlan:
    """Plan the removal of units: return every edit of the graph, without changing the model.

        plan = ohp.plan_pruning("model.onnx", heads="0:1,3 5:0-3")
        plan = ohp.plan_pruning("model.onnx", neurons="0:0-511", layers="7")

    Args:
        model: see `prune`.
        {settings}

    Raises:
        UsageError: if a spec or the path is wrong.
        RefusedError: if the units cannot be removed exactly, or there is no such exit.
        ModelError: if the model cannot be read.
    """
    given = calls.PLAN.read(settings)
    spec, contract = Choice.of(given).heads, Contract(given.cache, given.allow_io_change)
    return plan_of(model, {} if spec is None else spec, contract, given.exit)


def _sizes(given: Timing) -> BenchSettings:
    """The sizes that a target for the speed-up is measured at, without defaults."""
    standard, timing = vars(Timing()), vars(part_of(Timing, given))
    return cast("BenchSettings", {name: value for name, value in timing.items() if value != standard[name]})


def _place(given: Target, model: ModelLike) -> Writing:
    """Output files of a prune."""
    if not given.in_place:
        return Writing(given.output, part_of(Storing, given))
    path = model.path if isinstance(model, LoadedModel) else model
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError("in_place=True replaces the file of the model, so give the model by its path")
    return Writing(path, part_of(Storing, given), given.backup or backup_path(Path(path)))


def _data_name(pattern: str | None, output: Output) -> str | None:
    return None if pattern is None or output is None else named_data(Path(output), pattern)
