"""`onnxheadprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data, subject_of
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS
from onnxheadprune.settings.setting import Setting, part_of, requires
from onnxheadprune.settings.writing import DryRun, Json, Model, Report, Storing

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
    With --recover, or --time for the whole call, they are trained after that.
    """
    from onnxheadprune.workflow.requests import Request, Writing

    context, showing, in_folder = (
        click.get_current_context(),
        Showing(report, heatmap, as_json),
        model.is_dir(),
    )
    if in_folder:
        _require_folder_settings(given, heatmap)
    elif given.exclude:
        raise click.UsageError("--exclude requires a folder, of which it leaves models out", context)
    elif given.runtime is not None or given.per_layer_config:
        flag = "--per-layer-config" if given.runtime is None else "--runtime"
        raise click.UsageError(f"{flag} requires a folder, whose configuration it updates", context)
    _require_removal(given)
    place = model if given.in_place else given.output
    subject = subject_of(model, follow_links=given.follow_links and not in_folder)
    writing = Writing(place, part_of(Storing, given), given.backup, _data_name(given.data_name, place))
    request = Request.of(given, writing, resume=given.resume)
    if not in_folder:
        request = request.on(read_data(subject, given))
    if in_folder:
        from onnxheadprune.cli.folders import prune_export

        return prune_export(model, request, given, showing, dry_run)
    return carry_out(subject, request, showing, dry_run=dry_run)


def _require_folder_settings(given: PruneCall, heatmap: Path | None) -> None:
    refused = {
        "--heatmap": (heatmap is not None, "score one of the files"),
        "--exit": (given.exit is not None, "make the exit of each file permanent"),
        "--resume": (given.resume, "a folder appears at once, so there is nothing to resume"),
    }
    for flag, (is_given, instead) in refused.items():
        if is_given:
            raise click.UsageError(
                f"{flag} is for single models, and MODEL is a folder: {instead}", click.get_current_context()
            )


def _require_removal(given: PruneCall) -> None:
    if all(getattr(given, name) is None for name in f"{UNITS} {AMOUNT} {TOKENS} exit".split()):
        alone = (
            ""
            if given.fuse == "none"
            else f"; to fuse only, use onnxheadprune fuse MODEL --mode {given.fuse}"
        )
        raise click.UsageError(
            "specify what to remove with --heads, --neurons, --experts, --layers, --exit or --vocab, or how much with"
            f" --ratio{alone}",
            click.get_current_context(),
        )


def _data_name(pattern: str | None, place: Path | None) -> str | None:
    """The name of the file with weights beside one model."""
    if pattern is None or place is None:
        return None
    from onnxheadprune.model.storage.writing import named_data

    return named_data(place, pattern)
