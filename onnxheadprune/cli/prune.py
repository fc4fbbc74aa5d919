"""`onnxheadprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data, subject_of
from onnxheadprune.settings.cutting import AMOUNT, Cut, Recover, Resume, Time
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.setting import Setting, requires
from onnxheadprune.settings.writing import Checking, Deploying, DryRun, Json, Model, Report, Target

if TYPE_CHECKING:
    from onnxheadprune.workflow.requests import Choice

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
    target: Target,
    cut: Cut,
    running: Running,
    checking: Checking,
    deploying: Deploying,
    recover: Recover = None,
    time: Time = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    report: Report = None,
    heatmap: Heatmap = None,
    as_json: Json = False,
) -> int:
    """Remove heads, neurons, experts or layers from MODEL, prove the result exact, then write it to OUT.

    MODEL may be a folder as exporters write it, and OUT is one then: the same units are removed from every file that
    holds them.

    Name the units to remove with --heads, --neurons, --experts, --layers and --exit, the tokens to keep with --vocab or
    --vocab-size, or specify how many units with --ratio, --keep, --target-speedup or --max-drift; which ones is then
    measured on your data (--data), and the remaining weights are adjusted to match the original's outputs. With
    --recover, or --time for the whole call, they are trained after that.
    """
    from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

    context, showing, in_folder = (
        click.get_current_context(),
        Showing(report, heatmap, as_json),
        model.is_dir(),
    )
    if in_folder:
        _require_folder_settings(target, cut, heatmap, resume)
    elif deploying.runtime is not None or deploying.per_layer_config:
        flag = "--per-layer-config" if deploying.runtime is None else "--runtime"
        raise click.UsageError(f"{flag} requires a folder, whose configuration it updates", context)
    choice = Choice.of(cut, recover=recover, time=time, resume=resume)
    _require_removal(choice, cut.fuse)
    place = model if target.in_place else target.output
    subject = subject_of(model, follow_links=deploying.follow_links and not in_folder)
    request = Request.of(
        cut,
        choice,
        Run(running.provider, running.seed, None if in_folder else read_data(subject, running)),
        Proving(checking.validate, checking.accept_inconclusive),
        Writing(place, target.external_data, target.backup, _data_name(deploying.data_name, place)),
    )
    if in_folder:
        from onnxheadprune.cli.folders import prune_export

        return prune_export(model, request, deploying, running, showing, dry_run)
    return carry_out(subject, request, showing, dry_run=dry_run)


def _require_folder_settings(target: Target, cut: Cut, heatmap: Path | None, resume: bool) -> None:
    refused = {
        "--in-place": (target.in_place, "a folder is never replaced; specify -o OUT"),
        "--heatmap": (heatmap is not None, "score one of the files"),
        "--exit": (cut.exit is not None, "make the exit of each file permanent"),
        "--resume": (resume, "a folder appears at once, so there is nothing to resume"),
    }
    for flag, (given, instead) in refused.items():
        if given:
            raise click.UsageError(
                f"{flag} is for single models, and MODEL is a folder: {instead}", click.get_current_context()
            )


def _require_removal(choice: Choice, fuse: str) -> None:
    if all(item is None for item in (choice.heads, choice.wish, choice.exit, choice.tokens)):
        alone = "" if fuse == "none" else f"; to fuse only, use onnxheadprune fuse MODEL --mode {fuse}"
        raise click.UsageError(
            "specify what to remove with --heads, --neurons, --experts, --layers, --exit or --vocab, or how much with"
            f" --ratio{alone}",
            click.get_current_context(),
        )


def _data_name(pattern: str | None, place: Path | None) -> str | None:
    """The name of the file with weights beside one model."""
    if pattern is None or place is None:
        return None
    from onnxheadprune.model.storage.names import named_data

    return named_data(place, pattern)
