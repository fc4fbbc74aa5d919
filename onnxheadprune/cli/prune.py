"""`onnxheadprune prune`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from onnxheadprune.cli.batch import run_batch
from onnxheadprune.cli.belonging import PRUNE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, parallel_options, read_data
from onnxheadprune.cli.choosing import resume_option
from onnxheadprune.cli.cuts import Cut, cut_options, read_choice, request_of
from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deploying import Deploying, deploying_options, is_folder, subject_of
from onnxheadprune.cli.folders import prune_export
from onnxheadprune.cli.options import FILE, OUTPUT, dry_run_option, json_option, report_option, stacked
from onnxheadprune.cli.outcome import moved
from onnxheadprune.cli.sweep import SweepOptions, run_sweep
from onnxheadprune.cli.writing import Target, resolve_target, target_options

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.workflow.requests import Request

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Superseded:
    """What has become commands of its own."""

    sweep: str | None
    batch: Path | None
    jobs: int
    dask: str | None


def superseded_options(function: Function) -> Function:
    """The options of `Superseded`: they work, and `--help` is silent about them."""
    options = (
        click.option("--sweep", metavar="A:B:STEP", hidden=True, help="Now the command sweep."),
        click.option("--batch", type=FILE, metavar="DIR", hidden=True, help="Now the command batch."),
        click.option("--jobs", type=click.IntRange(min=1), default=1, hidden=True, help="Of these two."),
        parallel_options(hidden=True),
    )
    return stacked(function, options)


@dataclass(frozen=True)
class PruneOptions:
    """What `prune` is given."""

    model: Path | None
    target: Target
    cut: Cut
    resume: bool
    samples: Samples
    deploying: Deploying
    dry_run: bool
    report: Path | None
    heatmap: Path | None
    superseded: Superseded
    as_json: bool


@click.command(
    cls=LawfulCommand,
    laws=PRUNE,
    in_sections=True,
    short_help="Remove heads and other units, prove it exact, write.",
)
@click.argument("model", type=FILE, required=False)
@target_options
@cut_options
@resume_option
@calibration_options
@deploying_options
@dry_run_option
@report_option
@click.option(
    "--heatmap",
    type=OUTPUT,
    metavar="FILE",
    help="A picture of what heads are worth and which go: .png or .svg.",
)
@superseded_options
@json_option
@bundled(PruneOptions)
def prune(given: PruneOptions) -> int:
    """Remove heads, neurons or layers from MODEL, prove the result exact, then write it to OUT.

    MODEL may be a folder as exporters write it, and OUT is one then: the same units go from every file that holds them.

    Name what goes with --heads, --neurons, --layers and --exit, or say how many are to go with --ratio, --keep,
    --target-speedup or --max-drift; which ones is then measured on your data (--data, --text or --images), and what is
    left is refitted to make up for them. With --recover it is trained after that, for as long as you say.
    """
    if given.superseded.sweep is not None:
        return _swept(given, given.superseded.sweep)
    context = click.get_current_context()
    if given.superseded.batch is not None:
        return _batched(given, _request(given), given.superseded.batch)
    if given.model is None:
        raise click.UsageError("name the MODEL, or a folder of models with --batch DIR", context)
    showing = Showing(given.report, given.heatmap, given.as_json)
    if is_folder(given.model):
        return _of_folder(given, given.model, showing)
    if given.deploying.client is not None:
        raise click.UsageError("--for goes with a folder, whose configuration follows the cut", context)
    if given.deploying.per_layer_config:
        raise click.UsageError("--per-layer-config goes with a folder, whose config.json it changes", context)
    request = _request(given)
    resolve_target(given.model, given.target, dry_run=given.dry_run)
    if request.choice.heads is None and request.choice.wish is None and request.choice.exit is None:
        moved("fuse MODEL", f"--mode {given.cut.fuse}", as_json=given.as_json)
    subject = subject_of(given.model, follow_links=given.deploying.follow_links)
    return carry_out(subject, request, showing, dry_run=given.dry_run)


def _of_folder(given: PruneOptions, folder: Path, showing: Showing) -> int:
    """`prune` of a folder.

    Raises:
        click.UsageError: if options are for single models.
    """
    context = click.get_current_context()
    if given.target.in_place or given.target.backup is not None:
        raise click.UsageError(
            "a folder is never replaced, so --in-place is for single models; name -o OUT", context
        )
    if given.heatmap is not None:
        raise click.UsageError("--heatmap is the picture of a single model; score one of the files", context)
    if given.cut.exit is not None:
        raise click.UsageError("--exit is for single models; take the exit of each file", context)
    if given.resume:
        raise click.UsageError("a folder appears at once, so there is nothing to --resume", context)
    resolve_target(folder, given.target, dry_run=given.dry_run)
    request = _request(given, in_folder=True)
    if request.choice.heads is None and request.choice.wish is None:
        raise click.UsageError(
            "name what goes with --heads, --neurons or --layers, or say how much is to go; fuse takes one model",
            context,
        )
    data = given.samples, given.cut.running
    return prune_export(folder, request, given.deploying, data, showing, given.dry_run)


def _request(given: PruneOptions, *, in_folder: bool = False) -> Request:
    from onnxheadprune.workflow.requests import Writing

    choice = replace(read_choice(given.cut), resume=given.resume)
    data = None if in_folder else _data(given)
    place = given.model if given.target.in_place else given.target.output
    writing = Writing(place, given.target.external_data, given.target.backup, _data_name(given, place))
    return request_of(given.cut, choice, data, writing)


def _data(given: PruneOptions) -> DataSource | None:
    links = given.deploying.follow_links
    subject = None if given.model is None else subject_of(given.model, follow_links=links)
    return read_data(subject, given.samples, given.cut.running)


def _data_name(given: PruneOptions, place: Path | None) -> str | None:
    """The name of the file with weights beside one model.

    Raises:
        UsageError: if it is none.
    """
    if given.deploying.data_name is None or place is None:
        return None
    from onnxheadprune.model.storage.names import named_data

    return named_data(place, given.deploying.data_name)


def _swept(given: PruneOptions, ratios: str) -> int:
    """`prune --sweep`, which is `sweep` now.

    Raises:
        click.UsageError: if heads are named or wished for.
    """
    cut = given.cut
    named = any(spec is not None for spec in (cut.heads, cut.neurons, cut.layers))
    if given.model is None or named or cut.amount.ways:
        raise click.UsageError(
            "--sweep takes one MODEL and chooses heads itself, by ratios", click.get_current_context()
        )
    moved("sweep MODEL", ratios, as_json=given.as_json)
    return run_sweep(
        SweepOptions(
            given.model,
            ratios,
            given.target.output,
            given.cut.respecting,
            given.cut.refitting,
            given.cut.running,
            given.samples,
            given.superseded.jobs,
            given.superseded.dask,
            given.as_json,
        )
    )


def _batched(given: PruneOptions, request: Request, folder: Path) -> int:
    """`prune --batch`, which is `batch` now.

    Raises:
        click.UsageError: if options contradict each other.
    """
    context = click.get_current_context()
    if given.model is not None:
        raise click.UsageError("--batch DIR takes the place of MODEL", context)
    if given.target.output is None:
        raise click.UsageError("name the folder for the pruned models with -o OUTDIR", context)
    if given.target.in_place or given.target.backup is not None:
        raise click.UsageError("--batch never replaces models; --in-place is for a single one", context)
    moved("batch DIR", "-o OUTDIR", as_json=given.as_json)
    # The record of a batch knows a request again; places are not a part of it.
    request = replace(request, writing=replace(request.writing, output=None))
    how = given.superseded
    return run_batch(
        folder, request, given.target.output, jobs=how.jobs, as_json=given.as_json, dask=how.dask
    )
