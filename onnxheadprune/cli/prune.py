"""`onnxheadprune prune`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.belonging import PRUNE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, read_data
from onnxheadprune.cli.choosing import resume_option
from onnxheadprune.cli.cuts import Cut, cut_options, read_choice, request_of
from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deploying import Deploying, deploying_options, is_folder, subject_of
from onnxheadprune.cli.folders import prune_export
from onnxheadprune.cli.options import FILE, OUTPUT, dry_run_option, json_option, report_option
from onnxheadprune.cli.writing import Target, resolve_target, target_options

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True)
class PruneOptions:
    """What `prune` is given."""

    model: Path
    target: Target
    cut: Cut
    resume: bool
    samples: Samples
    deploying: Deploying
    dry_run: bool
    report: Path | None
    heatmap: Path | None
    as_json: bool


@click.command(
    cls=LawfulCommand,
    laws=PRUNE,
    in_sections=True,
    short_help="Remove heads and other units, prove it exact, write.",
)
@click.argument("model", type=FILE)
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
@json_option
@bundled(PruneOptions)
def prune(given: PruneOptions) -> int:
    """Remove heads, neurons or layers from MODEL, prove the result exact, then write it to OUT.

    MODEL may be a folder as exporters write it, and OUT is one then: the same units go from every file that holds them.

    Name what goes with --heads, --neurons, --layers and --exit, or say how many are to go with --ratio, --keep,
    --target-speedup or --max-drift; which ones is then measured on your data (--data, --text or --images), and what is
    left is refitted to make up for them. With --recover it is trained after that, for as long as you say.
    """
    context = click.get_current_context()
    showing = Showing(given.report, given.heatmap, given.as_json)
    if is_folder(given.model):
        return _of_folder(given, given.model, showing)
    if given.deploying.client is not None:
        raise click.UsageError("--for goes with a folder, whose configuration follows the cut", context)
    if given.deploying.per_layer_config:
        raise click.UsageError("--per-layer-config goes with a folder, whose config.json it changes", context)
    request = _request(given)
    resolve_target(given.model, given.target, dry_run=given.dry_run)
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
    data = given.samples, given.cut.running
    return prune_export(folder, request, given.deploying, data, showing, given.dry_run)


def _request(given: PruneOptions, *, in_folder: bool = False) -> Request:
    from onnxheadprune.workflow.requests import Writing

    choice = replace(read_choice(given.cut), resume=given.resume)
    if choice.heads is None and choice.wish is None and choice.exit is None:
        raise click.UsageError(
            "specify what to remove with --heads, --neurons, --layers or --exit, or how much with --ratio; to fuse"
            f" only, use onnxheadprune fuse MODEL --mode {given.cut.fuse}",
            click.get_current_context(),
        )
    data = None if in_folder else _data(given)
    place = given.model if given.target.in_place else given.target.output
    writing = Writing(place, given.target.external_data, given.target.backup, _data_name(given, place))
    return request_of(given.cut, choice, data, writing)


def _data(given: PruneOptions) -> DataSource | None:
    subject = subject_of(given.model, follow_links=given.deploying.follow_links)
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
