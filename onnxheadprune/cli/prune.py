"""`onnxheadprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxheadprune.cli.belonging import PRUNE, LawfulCommand
from onnxheadprune.cli.calibrating import calibration_options, parallel_options, read_data
from onnxheadprune.cli.choosing import choosing_options, read_effect, read_wish
from onnxheadprune.cli.options import FILE, OUTPUT, fuse_option, json_option, run_options
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.writing import resolve_target, run_batch, writing_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.workflow.prune import PruneResult


@click.command(cls=LawfulCommand, laws=PRUNE, short_help="Remove heads, prove the result exact, write it.")
@click.argument("model", type=FILE, required=False)
@click.option("-o", "--output", type=OUTPUT, help="Where to write the pruned model.")
@click.option(
    "--heads",
    metavar="H",
    help='Heads to remove: "0:1,3 5:0-3 *:7" (site index, name or *, then heads and ranges), or a JSON file'
    ' {"0": [1, 3]}.',
)
@choosing_options
@click.option(
    "--sweep",
    metavar="A:B:STEP",
    help="Write the curve of drift, accuracy and speed over ratios (0:0.7:0.05) to OUT, JSON or a picture.",
)
@click.option(
    "--heatmap",
    type=OUTPUT,
    metavar="FILE",
    help="A picture of what heads are worth and which go: .png or .svg.",
)
@click.option(
    "--report", type=OUTPUT, metavar="FILE.html", help="What was done and proven, as one HTML page."
)
@click.option("--dry-run", is_flag=True, help="Show what would change; write no model.")
@click.option(
    "--no-validate", is_flag=True, help="Do not compare with the masked reference (noted in the metadata)."
)
@click.option(
    "--accept-inconclusive",
    is_flag=True,
    help="Write even if the heads matter too little for a wrong cut to show.",
)
@run_options
@calibration_options
@click.option(
    "--keep-cache-shape", is_flag=True, help="Keep the shapes of past and present inputs and outputs."
)
@click.option(
    "--allow-io-change",
    is_flag=True,
    help="Also narrow inputs and outputs that are no cache, where they carry heads.",
)
@click.option(
    "--external-data",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Keep weights in a file beside OUT: as MODEL does, always or never.",
)
@fuse_option
@writing_options
@parallel_options
@json_option
def prune(
    model: Path | None, output: Path | None, heads: str | None, dry_run: bool, as_json: bool, **settings: Any
) -> int:
    """Remove heads from MODEL, prove the result exact, then write it to OUT.

    Name the heads with --heads, or say how many are to go with --ratio, --keep, --target-speedup or --max-drift; which
    ones is then measured on your data (--data, --text or --images), and what is left is refitted to make up for them.
    """
    batch, jobs = settings.pop("batch"), settings.pop("jobs")
    sweep, dask, heatmap = settings.pop("sweep"), settings.pop("dask"), settings.pop("heatmap")
    report = settings.pop("report")
    if sweep is not None:
        from onnxheadprune.cli.sweep import run_sweep

        return run_sweep(sweep, model, output, heads, settings, jobs=jobs, dask=dask, as_json=as_json)
    wish, settings["effect"] = read_wish(settings), read_effect(settings)
    if heads is not None and wish is not None:
        raise click.UsageError(
            "name the heads, or say how many are to go, not both", click.get_current_context()
        )
    if heads is None and wish is None and settings["fuse"] == "none":
        raise click.UsageError(
            "name the heads to remove with --heads, say how many are to go with --ratio, or fuse with --fuse",
            click.get_current_context(),
        )
    settings["wish"] = wish
    settings["data"] = read_data(model, settings)
    if batch is not None:
        settings |= {"jobs": jobs, "validate": not settings.pop("no_validate")}
        return run_batch(batch, model, output, {} if heads is None else heads, settings, as_json=as_json)
    model, target = resolve_target(model, output, settings, dry_run=dry_run)
    ahead = target if dry_run else None
    if dry_run:
        _look_ahead(model, target, settings)
        target, settings["no_validate"] = None, True
    if dry_run and wish is None and not settings["compensate"]:
        return _dry_run(model, heads, settings, ahead=ahead, report=report, as_json=as_json)
    from onnxheadprune.cli.report.choice import heat_of
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.cli.report.figure import check_picture
    from onnxheadprune.cli.report.heatmap import save_heatmap
    from onnxheadprune.cli.report.page import save_page
    from onnxheadprune.cli.report.plan import planned_output, prune_report
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.workflow.prune import prune as run_prune

    if heatmap is not None:
        check_picture(heatmap)
    settings["validate"] = not settings.pop("no_validate")
    what = "pruning and validating" if settings["validate"] else "pruning"
    with progress_on(err()) as progress:
        progress(what, 0, 0)
        result = run_prune(model, heads, target, progress=progress, **settings)
    if heatmap is not None and result.chosen is not None:
        scores, removed = heat_of(result.chosen, result.plan)
        save_heatmap(scores, heatmap, title=model.name, removed=removed)
    rows = list(prune_report(result)) if not dry_run else _rows_ahead(result)
    rows += planned_output(ahead)
    if report is not None:
        heat = None if result.chosen is None else heat_of(result.chosen, result.plan)
        save_page(report, f"onnxheadprune: {model.name}", rows, heat)
    if as_json:
        emit_json(result.to_dict() | _would_write(ahead))
    else:
        out().print(*rows, sep="\n")
    return 0


def _rows_ahead(result: PruneResult) -> list[RenderableType]:
    """The report of a run that wrote nothing."""
    from onnxheadprune.cli.report.fusion import fusion_rows
    from onnxheadprune.cli.report.plan import plan_report

    sizes = result.before, result.after
    return [*plan_report(result.plan, result.chosen, sizes), *fusion_rows(result.fusion)]


def _look_ahead(model: Path, target: Path | None, settings: dict[str, Any]) -> None:
    """Whether the run that --dry-run looks at could write and run where it is told to.

    Raises:
        UsageError: if the output or the backup cannot be written.
        ProviderError: if the provider does not run here.
    """
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.model.save import check_backup, check_target
    from onnxheadprune.runtime.providers import AUTO, resolve_provider

    backup = settings.pop("backup", None)
    if target is not None:
        loaded = open_structure(model)
        check_target(target, loaded, in_place=backup is not None)
        if backup is not None:
            check_backup(backup, target, loaded)
    if settings["provider"].lower() != AUTO:
        resolve_provider(settings["provider"])


def _would_write(ahead: Path | None) -> dict[str, Any]:
    return {} if ahead is None else {"would_write": str(ahead)}


def _dry_run(
    model: Path,
    heads: str | None,
    settings: dict[str, Any],
    *,
    ahead: Path | None,
    report: Path | None,
    as_json: bool,
) -> int:
    from onnxheadprune.attention.planning import plan_pruning, require_something
    from onnxheadprune.cli.report.console import out
    from onnxheadprune.cli.report.fusion import fusion_rows
    from onnxheadprune.cli.report.page import save_page
    from onnxheadprune.cli.report.plan import plan_report, planned_output
    from onnxheadprune.workflow.fuse import planned_fusion
    from onnxheadprune.workflow.prune import planned_size, size_warnings

    flags = {name: settings[name] for name in ("keep_cache_shape", "allow_io_change")}
    plan = plan_pruning(model, {} if heads is None else heads, **flags)
    fusion = None
    if settings["fuse"] == "none":
        require_something(plan)
    else:
        fusion = planned_fusion(plan, model, settings["fuse"])
    sizes = planned_size(plan, model) if plan.removed else None
    rows = [*plan_report(plan, None, sizes), *fusion_rows(fusion), *planned_output(ahead)]
    if report is not None:
        save_page(report, f"onnxheadprune: {model.name}", rows)
    if as_json:
        told: dict[str, Any] = {} if fusion is None else {"fusion": fusion.to_dict()}
        if sizes is not None:
            told |= {"before": sizes[0].to_dict(), "after": sizes[1].to_dict()}
        told["warnings"] = [] if sizes is None else list(size_warnings(*sizes))
        emit_json(plan.to_dict() | told | _would_write(ahead))
    else:
        out().print(*rows, sep="\n")
    return 0
