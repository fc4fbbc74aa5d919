"""The commands: options to calls, and results to rows, documents and exit codes.

Heavy modules are imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from onnxheadprune.cli.options import command
from onnxheadprune.cli.outcome import emit_json, warn_if_random
from onnxheadprune.cli.presenting import Presentation, command_line, document_of, run_record
from onnxheadprune.settings.calls import (
    BenchCall,
    InspectCall,
    PruneCall,
    Pruning,
    QuantizeCall,
    RecoverCall,
    ScoreCall,
    SweepCall,
    ValidateCall,
)
from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS
from onnxheadprune.settings.inputs import Dask, Jobs
from onnxheadprune.settings.setting import OUTPUT, Setting, excludes, requires
from onnxheadprune.settings.units import DEFAULT_UNITS
from onnxheadprune.settings.writing import DryRun, Json, Model, Pruned, Report, Storing

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.deploying.jobs.reading import Job
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.result import PruneResult

SLOWER = 1
"""Exit code where a wanted speed-up was not reached."""


@command()
def inspect(model: Model, given: InspectCall, as_json: Json = False) -> int:
    """Show the attention sites and feed-forward blocks of MODEL, and which units can be removed.

    The vocabulary and early exits are listed, too. MODEL may be a folder as exporters write it: its sites are numbered
    as `prune` takes them.
    """
    from onnxheadprune.data.vocabulary import has_tokenizer
    from onnxheadprune.reporting.console import err, out, print_error, rows_of
    from onnxheadprune.reporting.plan import first_call

    if model.is_dir():
        from onnxheadprune.deploying.folders.inspection import FolderInspection

        folder = FolderInspection.of(model, follow_links=given.follow_links)
        has_text = any(item.vocabularies for item in folder.found.values()) and has_tokenizer(model)
        if as_json:
            emit_json(folder.document())
        else:
            call = first_call(folder.sites, "smaller", has_text=has_text)
            out().print(*rows_of(folder.facts()), "", *call, sep="\n")
        return 0
    from onnxheadprune.attention.sites.find import analysis_of
    from onnxheadprune.errors import RefusedError
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.workflow.inspection import Inspection

    loaded = open_structure(model, follow_links=given.follow_links)
    found = Inspection.of(loaded, analysis_of(loaded))
    facts, sites = found.facts(), found.sites
    if as_json:
        emit_json(found.document())
    elif found.finds_something:
        has_text = bool(found.vocabularies) and has_tokenizer(model.parent)
        call = first_call(sites, "smaller.onnx", has_text=has_text)
        out().print(*rows_of(facts), "", *call, sep="\n")
    elif facts.parts:
        err().print(*rows_of(facts), sep="\n")
    if found.finds_something:
        return 0
    hint = "; see above for what came close" if sites.near_misses or sites.no_heads or sites.hidden else ""
    hint = "; see above for what could not be analysed" if found.failed else hint
    print_error(
        f"{model} has no attention site, for no contraction with weights sums over the heads of a product of two"
        f" activations, and no feed-forward block{hint}"
    )
    return RefusedError.exit_code


@command()
def score(
    model: Model,
    given: ScoreCall,
    output: Annotated[
        Path | None,
        Setting(
            "Where to write the scores: FILE.csv as a table, FILE.json with what they were measured on.",
            metavar="FILE",
            flags="-o --output",
            creates=".json .csv",
            section=OUTPUT,
        ),
    ] = None,
    heatmap: Annotated[
        Path | None,
        Setting("Plot of sites and heads: FILE.png or FILE.svg.", metavar="FILE", creates=".png .svg .pdf"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Score the heads of MODEL, its neurons and experts: on your data, or by the weights alone.

    Of a folder as exporters write it the most precise file is scored.
    """
    from onnxheadprune.choosing.scoring.scores import store_scores
    from onnxheadprune.cli.cutting import reports
    from onnxheadprune.data.sources import with_own_tokenizer
    from onnxheadprune.reporting.console import err, rows_of
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.workflow.score import run_score

    if heatmap is not None and not set(given.units) >= DEFAULT_UNITS:
        raise click.UsageError("--heatmap is a plot of heads; score them too", click.get_current_context())
    in_folder, files = model.is_dir(), reports(output=output, heatmap=heatmap)
    with progress_on(err()) as progress:
        subject = _leader_of(model, given.follow_links) if in_folder else model
        call = with_own_tokenizer(model, given) if in_folder else given
        scores = run_score(subject, call, progress, beside=files)
    presentation = Presentation()
    with presentation.prepared():
        if output is not None:
            store_scores(scores, output)
        if heatmap is not None:
            from onnxheadprune.reporting.pictures import save_figure
            from onnxheadprune.reporting.pictures.draw import plot_heads

            save_figure(plot_heads(scores), heatmap)
    if as_json:
        presentation.json(scores.to_dict())
    else:
        presentation.rows(*rows_of(scores.facts()))
    return presentation.deliver()


def _leader_of(folder: Path, follow_links: bool) -> LoadedModel:
    """The file of a folder that heads are chosen on."""
    from onnxheadprune.deploying.folders.matching import opened
    from onnxheadprune.errors import UsageError

    _, match = opened(folder, follow_links=follow_links)
    if len(match.networks) > 1:
        names = ", ".join(network.leader.name for network in match.networks)
        raise UsageError(f"{folder} holds {len(match.networks)} networks; name the file of one: {names}")
    return match.networks[0].leader.loaded


@command()
def doctor(
    wanted: Annotated[
        tuple[str, ...],
        Setting(
            "End with exit code 4 unless this execution provider runs; can be repeated.",
            metavar="P",
            flags="--provider",
            offers="cpu cuda",
        ),
    ] = (),
    as_json: Json = False,
) -> int:
    """Show versions, GPUs and libraries, and try every execution provider of this ONNX Runtime on a small model."""
    from onnxheadprune.errors import ProviderError
    from onnxheadprune.reporting.console import err, out, print_error, rows_of
    from onnxheadprune.runtime.providers import AUTO, diagnose

    named = [name for name in wanted if name.lower() != AUTO]
    with err().status("trying the execution providers"):
        found = diagnose(*named)
    if as_json:
        emit_json(found.document())
    else:
        out().print(*rows_of(found.facts()), sep="\n")
    missing = [check for check in (found.check(name) for name in named) if not check.runs]
    for check in missing:
        print_error(f"{check.name} does not run here: {check.obstacle}; {check.advice}")
    return ProviderError.exit_code if missing else 0


Heatmap = Annotated[
    Path | None,
    Setting(
        "Plot of the scores of heads, and which are removed: .png or .svg.",
        metavar="FILE",
        creates=".png .svg .pdf",
        rules=(requires(AMOUNT),),
    ),
]


@command(makes=("pruned", "model"))
def prune(
    model: Model,
    given: PruneCall,
    dry_run: DryRun = False,
    report: Report = None,
    heatmap: Heatmap = None,
    as_json: Json = False,
) -> int:
    """Remove heads, neurons, experts or layers from MODEL, prove the result exact, then write it to OUT.

    MODEL may be a folder as exporters write it, and OUT is one then: the same units are removed from every file that
    holds them.

    Name the units to remove with --heads, --neurons, --experts, --layers and --exit, the tokens to keep with --vocab or
    --vocab-size, or specify how many units with --ratio, --keep, --target-size, --target-speedup or --max-drift; which
    ones is then measured on your data (--data), and the remaining weights are adjusted to match the original's outputs.
    With --recover, or --time for the whole call, they are trained after that. --fuse alone removes nothing.
    """
    from onnxheadprune.cli.cutting import carry_out
    from onnxheadprune.workflow.pipeline import run_prune

    cut: Callable[..., PruneResult | FolderResult] = partial(run_prune, model, given)
    if model.is_dir():
        from onnxheadprune.deploying.folders.prune import prune_folder

        if heatmap is not None:
            raise click.UsageError(
                "--heatmap is for single models, and MODEL is a folder: score one of the files",
                click.get_current_context(),
            )
        cut = partial(prune_folder, model, given, command=command_line())
    _require_something(given)
    return carry_out(partial(cut, dry_run=dry_run), report=report, heatmap=heatmap, as_json=as_json)


def _require_something(given: Pruning) -> None:
    named = (getattr(given, name) for name in f"{UNITS} {AMOUNT} {TOKENS} exit".split())
    if all(item is None for item in named) and given.fuse == "none":
        raise click.UsageError(
            "specify what to remove with --heads, --neurons, --experts, --layers, --exit or --vocab, how much with"
            " --ratio, or fuse with --fuse",
            click.get_current_context(),
        )


@command(makes=("recovered", "pruned"))
def recover(
    model: Model, pruned: Pruned, given: RecoverCall, report: Report = None, as_json: Json = False
) -> int:
    """Train the remaining weights of PRUNED to match the outputs of MODEL on your data, prove and write the result.

    PRUNED is what prune made of MODEL, and OUT is again a cut of MODEL with other weights. A twentieth of the data is
    set aside, and the weights that do best on it are taken.
    """
    from onnxheadprune.cli.cutting import carry_out
    from onnxheadprune.workflow.recover import run_recovery

    return carry_out(partial(run_recovery, model, pruned, given), report=report, as_json=as_json)


@command(makes=("quantized", "model"))
def quantize(
    model: Model,
    given: QuantizeCall,
    as_json: Json = False,
) -> int:
    """Quantize MODEL with ONNX Runtime's own quantizer, try the result, then write it to OUT.

    With data the drift is reported, as a deployment runs both.
    """
    from onnxheadprune.reporting.console import err, next_call, rows_of
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.workflow.quantize import QuantizeResult, run_quantize

    presentation = Presentation()

    def ready(result: QuantizeResult) -> None:
        if as_json:
            presentation.json(document_of(result))
        else:
            call = shlex.join(("onnxheadprune", "bench", str(model), str(given.output)))
            presentation.rows(*rows_of(result.facts()), "", next_call(call))

    with progress_on(err()) as progress:
        run_quantize(model, given, progress, ready)
    return presentation.deliver(str(given.output))


@command()
def validate(model: Model, pruned: Pruned, given: ValidateCall, as_json: Json = False) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift.

    The exit code is 1 where it is rejected. The sizes, repeats and threads are those of --min-speedup. Of folders as
    exporters write them every model is checked against its like, and whether all of them lost the same heads.
    """
    from onnxheadprune.deploying.pairs import joined, paired, to_validate
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.reporting.console import err, out, provider_rows, row, rows_of

    pairs = paired(model, (pruned,), follow_links=given.follow_links, note=err().print)
    if given.heads is not None and pairs[0].file is not None:
        raise click.UsageError(
            "--heads is for two models; the files of a folder say themselves what they lost",
            click.get_current_context(),
        )
    asked, same = to_validate(model, pairs, given)
    pairs = [pair for pair, _ in asked]
    documents = []
    for pair, call in asked:
        with err().status("validating") as status:
            result = pair.validated(call, status.update)
        facts = result.facts()
        if pair.file is not None:
            facts = replace(facts, title=str(pruned / pair.file))
        documents.append({**document_of(result), "facts": facts.to_dict()})
        if not as_json:
            out().print(*provider_rows(result.provider), *rows_of(facts), sep="\n")
    accepted = all(document["accepted"] for document in documents)
    if as_json:
        emit_json(joined(pairs, documents) | ({"same": same} if same else {}) | {"accepted": accepted})
    elif same:
        out().print(row("the same", f"to the last byte, as nothing was cut there: {', '.join(same)}"))
    return 0 if accepted else ValidationFailedError.exit_code


@command()
def bench(
    model: Model,
    given: BenchCall,
    pruned: Annotated[tuple[Path, ...], Setting("Models to compare with it.", argument=True)] = (),
    csv_path: Annotated[
        Path | None,
        Setting("Also write the numbers as CSV.", metavar="FILE", flags="--csv", creates=".csv"),
    ] = None,
    markdown: Annotated[
        Path | None,
        Setting(
            "Also write the latencies as a Markdown table.",
            metavar="FILE",
            flags="--export-markdown",
            creates=".md .markdown",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        Setting(
            "Also plot latency against sizes (.png, .svg, .pdf).", metavar="FILE", creates=".png .svg .pdf"
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure MODEL and each PRUNED in turn, and say whether they differ: faster, no measurable difference, slower.

    Sizes that are not named are chosen so that the model runs. Of folders as exporters write them the file of each
    network is measured that heads are chosen on.
    """
    from onnxheadprune.benchmarking.runner import run_benchmark
    from onnxheadprune.cli.cutting import reports
    from onnxheadprune.deploying.pairs import joined, paired
    from onnxheadprune.model.save import Outputs
    from onnxheadprune.reporting.benchmark import write_files
    from onnxheadprune.reporting.console import err, is_asked, out, provider_rows, rows_of
    from onnxheadprune.reporting.pictures import save_figure

    files = reports(csv=csv_path, export_markdown=markdown, plot=plot)
    pairs = paired(model, pruned, follow_links=given.follow_links, leaders=True, note=err().print)
    if len(pairs) > 1 and any(path is not None for path in (csv_path, markdown, plot)):
        raise click.UsageError(
            f"{model} holds {len(pairs)} networks; for a table or picture name the files of one",
            click.get_current_context(),
        )
    if files:
        Outputs(None, beside=tuple(files)).claim(
            *(item for pair in pairs for item in (pair.model, *pair.others))
        )
    documents, passed, presentation = [], True, Presentation()
    # The part of attention is a detail, for which its sites have to be found.
    attention = as_json or csv_path is not None or markdown is not None or is_asked("verbose")
    for pair in pairs:
        with err().status("looking at the models") as status:
            result = run_benchmark((pair.model, *pair.others), given, status.update, attention)
        passed = passed and result.passed
        documents.append(document_of(result))
        if not as_json:
            out().print(*provider_rows(result.provider), *rows_of(result.facts()), sep="\n")
        with presentation.prepared():
            write_files(result, csv_path, markdown)
            if plot is not None:
                # Matplotlib takes longer to load than many a model.
                from onnxheadprune.reporting.pictures.draw import plot_latency

                save_figure(plot_latency(result), plot)
    if as_json:
        presentation.json(joined(pairs, documents))
    lost = presentation.deliver()
    return lost if passed else SLOWER


@command()
def sweep(
    model: Model,
    ratios: Annotated[str, Setting("The ratios to remove.", metavar="A:B:STEP", argument=True)],
    given: SweepCall,
    output: Annotated[
        Path | None,
        Setting(
            "Where to write the curve: a plot (.png, .svg) with the JSON beside it, or the reverse.",
            metavar="OUT",
            flags="-o --output",
            creates=".png .svg .pdf .json",
            section=OUTPUT,
        ),
    ] = None,
    x: Annotated[
        Literal["heads", "operations", "bytes", "parameters", "speedup"] | None,
        Setting(
            "The horizontal axis of the plot: heads or operations removed, parameters left, or measured speed [default:"
            " what the ratios are of: heads, with other {units} operations].",
            rules=(requires("output"),),
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure cuts of MODEL of many sizes on your data: drift, accuracy and speed over the ratio that is removed.

    A:B:STEP are the ratios, as in 0:0.7:0.05: of all heads, with other --units of the operations of all blocks. For
    each, units are selected, and the remaining weights are adjusted, and trained with --recover or --time, as in one
    cut.
    """
    from onnxheadprune.cli.cutting import reports
    from onnxheadprune.reporting.console import err, rows_of
    from onnxheadprune.reporting.pictures import PICTURE_MARK, beside_curve, curve_files, save_figure
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.workflow.sweep import run_sweep

    document, picture = (None, None) if output is None else curve_files(Path(output))
    files = reports(output=output)
    files += [] if output is None else [beside_curve(Path(output))]
    with progress_on(err()) as progress:
        curve = run_sweep(model, ratios, given, progress, beside=files)
    presentation = Presentation()
    with presentation.prepared():
        if document is not None and picture is not None:
            curve.write(document, run_record())
            # Matplotlib takes longer to load than many a model.
            from onnxheadprune.reporting.pictures.draw import plot_curve

            save_figure(plot_curve(curve, x), picture, PICTURE_MARK)
    if as_json:
        presentation.json(document_of(curve))
    else:
        presentation.rows(*rows_of(curve.facts()))
    return presentation.deliver()


@command()
def report(
    results: Annotated[tuple[Path, ...], Setting("Documents that were saved with --json.", argument=True)],
    output: Annotated[
        Path,
        Setting("Where to write the page.", metavar="OUT.html", flags="-o --output", creates=".html .htm"),
    ],
    as_json: Json = False,
) -> int:
    """Make one HTML page of RESULTS: what commands print with --json, with the plots drawn.

    Results are shown one below the other, with a list of their answers first.
    """
    from onnxheadprune.cli.cutting import reports
    from onnxheadprune.model.storage.claims import Reading, check_makings
    from onnxheadprune.model.storage.writing import write_text
    from onnxheadprune.reporting.console import out, row
    from onnxheadprune.reporting.page import page_of, results_in

    check_makings(reports(output=output), lambda: [Reading("the result", path) for path in results])
    found = [result for path in results for result in results_in(path)]
    page = page_of(found)
    write_text(output, page)
    if as_json:
        emit_json({"output": str(output), "bytes": len(page.encode()), "results": len(found)})
    else:
        out().print(row("report", str(output)))
    return 0


@command()
def run(
    job: Annotated[Path | None, Setting("A YAML file.", argument=True, rules=(excludes("schema"),))] = None,
    settings: Annotated[
        tuple[str, ...],
        Setting(
            "Set a key of the job, like prune.ratio=0.3; null removes it. Can be repeated.",
            metavar="KEY=VALUE",
            flags="--set",
            rules=(excludes("schema"),),
        ),
    ] = (),
    junit: Annotated[
        Path | None,
        Setting(
            "Also write steps and limits as JUnit XML.",
            metavar="FILE",
            creates=".xml",
            rules=(excludes("schema"),),
        ),
    ] = None,
    schema: Annotated[bool, Setting("Print the JSON schema of a job, and do nothing else.")] = False,
    as_json: Annotated[
        bool, Setting("Print one JSON document on stdout.", flags="--json", rules=(excludes("schema"),))
    ] = False,
) -> int:
    """Do what the YAML file JOB asks for: score, prune, recover, quantize, validate, bench, gate.

    What an earlier run did, and is as it was, is not done again; a job that was interrupted goes on. Ends with exit
    code 1 if a limit is broken.
    """
    if schema:
        from onnxheadprune.deploying.jobs.keys import schema as schema_of

        sys.stdout.write(json.dumps(schema_of(), indent=2, sort_keys=True) + "\n")
        return 0
    if job is None:
        raise click.UsageError("name the JOB, a YAML file", click.get_current_context())
    from onnxheadprune.errors import require_packages

    require_packages("run", "jobs", "yaml", "junitparser")
    from onnxheadprune.deploying.jobs.reading import as_key, read_job, require_effective
    from onnxheadprune.settings.words import errors_spelled_by

    with errors_spelled_by(as_key):
        read = read_job(job, settings)
        require_effective(read)
        return _run(read, junit, as_json)


def _run(job: Job, junit: Path | None, as_json: bool) -> int:
    from onnxheadprune.cli.cutting import reports
    from onnxheadprune.deploying.jobs.run import run_job
    from onnxheadprune.reporting.console import err, print_error, rows_of
    from onnxheadprune.reporting.job import save_junit, save_results
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.runtime.custom_ops import custom_operators

    record, library = run_record(), job.keys.custom_ops
    with custom_operators(None if library is None else job.at(library)), progress_on(err()) as progress:
        result = run_job(job, record, progress, reports(junit=junit))
    warn_if_random(None if job.keys.data is None else job.keys.data.path)
    presentation = Presentation()
    with presentation.prepared():
        save_results(result, record)
        if junit is not None:
            save_junit(result, junit)
    if as_json:
        presentation.json({**result.document(), "run": record})
    else:
        presentation.rows(*rows_of(result.facts()))
    lost = presentation.deliver(result.model)
    if result.error is not None:
        print_error(f"the step {result.failed} failed: {result.error}")
    return result.exit_code or lost


@command(makes=("pruned", "folder"))
def batch(
    folder: Annotated[Path, Setting("A folder of models.", metavar="DIR", argument=True)],
    given: Pruning,
    output: Annotated[
        Path | None,
        Setting(
            "The folder for the pruned models [default: DIR.pruned].",
            metavar="OUTDIR",
            flags="-o --output",
            creates="*",
            section=OUTPUT,
        ),
    ] = None,
    storing: Storing = Storing(),
    jobs: Jobs = 1,
    dask: Dask = None,
    as_json: Json = False,
) -> int:
    """Prune every .onnx below DIR into the folder OUTDIR, each on its own, whatever happens to the others.

    What an earlier run did and proved, and is still as it was, is skipped.
    """
    _require_something(given)
    assert output is not None
    from onnxheadprune.deploying.batch import prune_batch
    from onnxheadprune.reporting.console import err, out, rows_of
    from onnxheadprune.reporting.plan import item_line
    from onnxheadprune.workflow.executors import open_executor

    console = err()
    with open_executor(jobs if dask is not None else 1, dask) as executor:
        result = prune_batch(
            folder,
            PruneCall(**vars(given), **vars(storing)),
            output,
            jobs=jobs,
            executor=executor,
            progress=lambda item: console.print(item_line(item)),
        )
    if as_json:
        emit_json(result.document())
    else:
        out().print(*rows_of(result.facts()), sep="\n")
    return result.exit_code
