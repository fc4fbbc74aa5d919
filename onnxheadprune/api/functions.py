"""The commands as functions that never print."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Unpack

from onnxheadprune.api.keywords import Call, keywords_of
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.display.facts import Facts
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.storage.claims import Making, check_makings, replacing
from onnxheadprune.settings.calls import (
    BenchCall,
    FolderCall,
    InspectCall,
    PruneCall,
    QuantizeCall,
    RecoverCall,
    ScoreCall,
    SelectCall,
    SweepCall,
    TimedPruneCall,
    ValidateCall,
)
from onnxheadprune.settings.cutting import UNITS
from onnxheadprune.settings.inputs import Samples
from onnxheadprune.settings.setting import declared
from onnxheadprune.settings.words import errors_spelled_by, keyword

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxheadprune.api.typed import (
        BenchKeywords,
        InspectKeywords,
        PlanPruningKeywords,
        PruneFolderKeywords,
        PruneKeywords,
        QuantizeKeywords,
        RecoverKeywords,
        ScoreKeywords,
        SelectHeadsKeywords,
        SweepKeywords,
        ValidateKeywords,
    )
    from onnxheadprune.benchmarking.result import Benchmark
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.choosing.space import SearchSpace, Selection
    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.edit.plan import PrunePlan
    from onnxheadprune.runtime.progress import Progress
    from onnxheadprune.validation.result import Validation
    from onnxheadprune.workflow.curve import Curve
    from onnxheadprune.workflow.quantize import QuantizeResult
    from onnxheadprune.workflow.result import PruneResult

PRUNE = Call("prune", TimedPruneCall, without="output runtime exclude", replaces=True)
PRUNE_FOLDER = Call("prune_folder", FolderCall, without="exit")
RECOVER = Call("recover", RecoverCall, without="output", replaces=True)
QUANTIZE = Call("quantize", QuantizeCall, without="output", replaces=True)
SCORE = Call("score", ScoreCall, replaces=True)
SWEEP = Call("sweep", SweepCall)
SELECT = Call(
    "select_heads",
    SelectCall,
    only="ratio keep scores method protect min_heads multiple_of uniform drift provider seed"
    f" data data_format {' '.join(declared(Samples))}",
)
PLAN = Call("plan_pruning", PruneCall, only=f"{UNITS} exit cache allow_io_change")
VALIDATE = Call("validate", ValidateCall)
BENCH = Call("bench", BenchCall)
INSPECT = Call("inspect", InspectCall)
CALLS = (PRUNE, PRUNE_FOLDER, RECOVER, QUANTIZE, SCORE, SWEEP, SELECT, PLAN, VALIDATE, BENCH, INSPECT)
MOST_WRITTEN = 500
"""Characters of an argument that a model card repeats."""


Output: TypeAlias = str | os.PathLike[str] | None
Shown: TypeAlias = "Progress | bool | None"


def heard(progress: Shown) -> Progress:
    """The progress of a call, which its decorator has opened."""
    assert callable(progress)
    return progress


@dataclass(frozen=True)
class InspectedSites(Sites):
    """The sites of a loaded model.

    Attributes:
        loaded: the model, of which printing shows more: layers, exits, vocabularies.
    """

    loaded: LoadedModel | None = field(default=None, compare=False, repr=False)

    def facts(self) -> Facts:
        """The tables that the command prints."""
        from onnxheadprune.attention.sites.find import analysis_of
        from onnxheadprune.workflow.inspection import Inspection

        if self.loaded is None:
            return super().facts()
        return Inspection.of(self.loaded, analysis_of(self.loaded)).facts()

    __repr__ = Sites.__repr__


@keywords_of(INSPECT)
def inspect(model: ModelLike, **settings: Unpack[InspectKeywords]) -> Sites:
    """Return the attention sites of a model and its feed-forward blocks, and which units can be removed.

        print(ohp.inspect("model.onnx"))
        heads = [site.num_heads for site in ohp.inspect("model.onnx")]

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`; it is never changed.
        {settings}

    Returns:
        The sites with head counts, groups and sizes, and the near misses with their reasons; `print` shows the table of
        the command.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if the file cannot be read as an ONNX model.
    """
    from onnxheadprune.attention.sites.find import inspect_loaded

    given = INSPECT.read(settings)
    loaded = open_structure(model, follow_links=given.follow_links)
    sites = inspect_loaded(loaded)
    return InspectedSites(**{item.name: getattr(sites, item.name) for item in fields(sites)}, loaded=loaded)


@keywords_of(SCORE)
def score(
    model: ModelLike, output: Output = None, *, progress: Shown = None, **settings: Unpack[ScoreKeywords]
) -> HeadScores:
    """Score heads, neurons and experts by importance: on data, or by the weights alone. Larger is more important.

        scores = ohp.score("model.onnx", data="sentences.txt")
        scores = ohp.score("model.onnx", "scores.csv", method="ablation", data="sentences.txt")

    Args:
        model: see `prune`.
        output: where to write the scores: a name that ends with .csv as a table, else JSON; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if there is no data where the method needs it, the data does not fit, or units have no scores.
        RefusedError: if the model has no sites, or a site that this method cannot see into.
    """
    from onnxheadprune.choosing.scoring.scores import store_scores
    from onnxheadprune.workflow.score import run_score

    given = SCORE.read(settings, output=output)
    files = () if output is None else (Making("the output", Path(output), os.fspath(output)),)
    scores = run_score(model, given, heard(progress), beside=files)
    if output is not None:
        store_scores(scores, output)
    return scores


def write_scores(scores: HeadScores, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a table where the file is called `.csv`, else JSON; an older file is kept until all is written.

    A table has no information on the data.

    Args:
        force: replace a file that this tool has not written, too.

    Raises:
        UsageError: if the file cannot be written, or there is one that this tool has not written.
    """
    from onnxheadprune.choosing.scoring.scores import store_scores

    with errors_spelled_by(keyword), replacing(force):
        check_makings([Making("the scores", Path(path))], list)
    store_scores(scores, path)


@keywords_of(SELECT)
def select_heads(
    model: ModelLike, *, progress: Shown = None, **settings: Unpack[SelectHeadsKeywords]
) -> Selection:
    """Return the heads whose removal should cost least.

        heads = ohp.select_heads("model.onnx", ratio=0.25, data="sentences.txt").heads
        heads = ohp.select_heads("model.onnx", keep=6, scores="scores.csv").heads

    Args:
        model: see `prune`.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: unless exactly one target is given, or if the data or the scores do not fit.
        RefusedError: if the target cannot be met.
    """
    from onnxheadprune.attention.main_graph_copy import main_graph_copy
    from onnxheadprune.attention.sites.find import analysis_of
    from onnxheadprune.choosing.select import search_space
    from onnxheadprune.data.calibration import calibration_data
    from onnxheadprune.data.drift import Evidence
    from onnxheadprune.data.sources import read_data
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.workflow.requests import measure_of

    given = SELECT.read(settings)
    if (given.ratio is None) == (given.keep is None):
        raise UsageError("give a ratio, or the number of heads that every site keeps")
    loaded, data = open_structure(model), read_data(model, given)
    if data is not None:
        loaded = main_graph_copy(loaded) or loaded
    analysis, evidence = analysis_of(loaded), None
    if data is not None:
        provider = resolve_provider(given.provider)
        evidence = Evidence(calibration_data(data, analysis.view), provider, measure_of(given.drift))

    def asked(space: SearchSpace) -> Selection:
        return space.ratio(given.ratio) if given.ratio is not None else space.keeping(given.keep or 0)

    return asked(search_space(analysis, given, evidence, heard(progress), asked))


@keywords_of(PRUNE)
def prune(
    model: ModelLike, output: Output = None, *, progress: Shown = None, **settings: Unpack[PruneKeywords]
) -> PruneResult:
    """Remove heads, neurons, experts or layers, prove the result exact, then write it.

        result = ohp.prune("model.onnx", "pruned.onnx", heads="0:1,3 5:0-3")
        result = ohp.prune("model.onnx", "pruned.onnx", ratio=0.25, data="sentences.txt", recover="5m")

    Name the units to remove (`heads`, `neurons`, `experts`, `layers`, `exit`, `vocab`), or how much (`ratio`, `keep`,
    `target_size`, `target_speedup`, `max_drift`): which ones is then measured on `data`. `fuse` alone removes nothing.

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
    from onnxheadprune.workflow.pipeline import run_prune

    given = PRUNE.read(settings, output=output)
    if isinstance(model, (str, os.PathLike)) and Path(model).is_dir():
        raise UsageError(f"{model} is a folder; prune_folder() removes units from all of its models")
    return run_prune(model, given, heard(progress))


@keywords_of(PLAN)
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
    from onnxheadprune.attention.planning import plan_of
    from onnxheadprune.workflow.requests import Request

    given = PLAN.read(settings)
    request = Request.of(given)
    return plan_of(model, {} if request.heads is None else request.heads, request.contract, given.exit)


def apply_plan(plan: PrunePlan, model: ModelLike) -> ModelProto:
    """A copy of `model` after the plan was applied; everything outside the plan is bit-identical.

    Raises:
        RefusedError: if the plan was made for a model of another structure, or of other exits.
        ModelError: if the model cannot be read.
    """
    from onnxheadprune.attention.planning import planned_on
    from onnxheadprune.edit import apply
    from onnxheadprune.model.storage.reading import hydrated
    from onnxheadprune.workflow.pipeline import seal_refits

    loaded = planned_on(plan, open_structure(model))
    pruned = loaded.changed(apply.apply_plan(plan, loaded.proto))
    seal_refits(pruned, plan)
    return hydrated(pruned.proto, pruned.sources)


@keywords_of(PRUNE_FOLDER)
def prune_folder(
    folder: str | os.PathLike[str],
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[PruneFolderKeywords],
) -> FolderResult:
    """Remove the same units from every model of an exported folder, prove each, then write the new folder.

        result = ohp.prune_folder("exported", "pruned", heads="0:1,3 5:0-3")
        result = ohp.prune_folder("exported", "pruned", ratio=0.25, data="sentences.txt", runtime="optimum")

    Args:
        folder: as exporters write it; sites have the numbers that `inspect FOLDER` lists.
        output: the new folder, which appears at once or not at all; None looks ahead and writes nothing.
        {settings}
        progress: see `prune`.

    Returns:
        What became of each file, which sites belong together, and the configuration that was updated.

    Raises:
        HeadPruneError: as `prune` does, and where files disagree or the runtime cannot express the cut. Nothing is
            written then.
    """
    from onnxheadprune.deploying.folders import prune as folders

    given = PRUNE_FOLDER.read(settings, output=output)
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder; prune takes a single model")
    command = _call("prune_folder", folder, output, settings)
    call = PruneCall(**vars(given), output=None if output is None else Path(output))
    return folders.prune_folder(Path(folder), call, heard(progress), command=command)


def _call(name: str, folder: Output, output: Output, settings: Mapping[str, object]) -> str:
    """A call as Python takes it; arrays and functions are "..."."""
    given = [_written(folder), *(() if output is None else (_written(output),))]
    given += [f"{key}={_written(value)}" for key, value in settings.items() if value is not None]
    return f"onnxheadprune.{name}({', '.join(given)})"


def _written(value: object) -> str:
    """A value as Python takes it, where that is a short text."""
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    plain = isinstance(value, (str, int, float, range, type(None)))
    parts = (*value, *value.values()) if isinstance(value, Mapping) else value
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        plain = all(_written(item) != "..." for item in parts)  # type: ignore[attr-defined]
    return text if plain and len(text := repr(value)) <= MOST_WRITTEN else "..."


@keywords_of(RECOVER)
def recover(
    model: ModelLike,
    pruned: ModelLike,
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[RecoverKeywords],
) -> PruneResult:
    """Train the remaining weights of a pruned model to match the original's outputs, prove and write the result.

        result = ohp.recover("model.onnx", "pruned.onnx", "recovered.onnx", data="sentences.txt", budget=10)
        result = ohp.recover("model.onnx", "pruned.onnx", "recovered.onnx", data="feeds.npz", time="5m")

    A twentieth of the samples is set aside to judge by.

    Args:
        model: the original.
        pruned: what `prune` made of it.
        output: where to write; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if the models do not belong together, or the data is no good for it.
        RefusedError: if no gradient reaches a weight.
        ValidationFailedError: if `pruned` is no exact cut of `model`, or the result is not shown to be one.
    """
    from onnxheadprune.workflow.recover import run_recovery

    given = RECOVER.read(settings, output=output)
    return run_recovery(model, pruned, given, heard(progress))


@keywords_of(QUANTIZE)
def quantize(
    model: ModelLike,
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[QuantizeKeywords],
) -> QuantizeResult:
    """Quantize a model with ONNX Runtime's own quantizer, try the result, then write it.

        result = ohp.quantize("model.onnx", "int8.onnx", to="int8-dynamic")
        result = ohp.quantize("model.onnx", "qdq.onnx", to="int8-qdq", data="sentences.txt")

    Args:
        model: the model, in floats.
        output: where to write; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if a keyword, a path or the data is wrong.
        ModelError: if the model cannot be read.
        RefusedError: if ONNX Runtime cannot quantize it, or it is quantized already.
    """
    from onnxheadprune.workflow.quantize import run_quantize

    given = QUANTIZE.read(settings, output=output)
    return run_quantize(model, given, heard(progress))


@keywords_of(VALIDATE)
def validate(original: ModelLike, pruned: ModelLike, **settings: Unpack[ValidateKeywords]) -> Validation:
    """Compare a pruned model with the original whose removed heads are silenced, and measure the drift.

        verdict = ohp.validate("model.onnx", "pruned.onnx")
        verdict = ohp.validate("model.onnx", "pruned.onnx", data="held_out.npz", max_drift=0.02)

    The masked reference is built from the *original*, for the heads that the pruned model's metadata lists. Both run on
    random inputs of several sizes, and on `data`. The verdict is "passed" only if silencing the heads moves the outputs
    enough for a wrong cut to show. Where its graph is not the planned one, `exact` is "tried": equal on all inputs that
    were run, and no more is known. `passed` is True if the verdict is "passed" and all limits are kept; `gates` has a
    sentence on each limit.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        {settings}

    Raises:
        UsageError: if the models do not belong together, nothing was removed, or the data or metric does not fit.
        ModelError: if a model cannot be read, or the original itself does not load in ONNX Runtime.
        RefusedError: if the heads cannot be removed from the original.
        ProviderError: if the named provider does not run here.
    """
    from onnxheadprune.workflow.validate import run_validation

    return run_validation(original, pruned, VALIDATE.read(settings))


@keywords_of(BENCH)
def bench(
    model: ModelLike,
    *others: ModelLike,
    progress: Shown = None,
    **settings: Unpack[BenchKeywords],
) -> Benchmark:
    """Measure the latency of models side by side, in one process.

        result = ohp.bench("model.onnx", "pruned.onnx", batch=[1, 8], seq=128)
        result = ohp.bench("model.onnx", "pruned.onnx", provider="cuda", time_budget=30)

    Args:
        model: the reference.
        others: what to compare with it, usually pruned versions.
        {settings}
        progress: see `prune`.

    Returns:
        Latencies, ratios with their intervals, verdicts, operations and bounds; `passed` is False where a model does
        not reach `min_speedup`.

    Raises:
        UsageError: if a size does not fit the model, or a keyword makes no sense.
        ModelError: if a model cannot be read or does not run.
        ProviderError: if the named provider does not run here, or not one node runs on it.
    """
    from onnxheadprune.benchmarking.runner import run_benchmark

    given = BENCH.read(settings)
    models = [open_structure(item, follow_links=given.follow_links) for item in (model, *others)]
    return run_benchmark(models, given, lambda what: heard(progress)(what, 0, 0))


@keywords_of(SWEEP)
def sweep(
    model: ModelLike,
    ratios: str | Sequence[float],
    *,
    progress: Shown = None,
    **settings: Unpack[SweepKeywords],
) -> Curve:
    """Measure cuts of many sizes, each with its own selection and refit: drift, accuracy, size and measured speed.

        curve = ohp.sweep("model.onnx", "0:0.7:0.1", data="sentences.txt")
        curve = ohp.sweep("model.onnx", [0, 0.25, 0.5], data="sentences.txt", units="heads,neurons", recover="2m")

    Args:
        model: see `prune`.
        ratios: shares of all heads, as numbers or as "0:0.7:0.1"; with other `units` of the operations of all blocks.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if the ratios or the data are wrong.
        RefusedError: if nothing can be removed.
        ProviderError: if the named provider does not run here.
    """
    from onnxheadprune.workflow.sweep import run_sweep

    return run_sweep(model, ratios, SWEEP.read(settings), heard(progress))
