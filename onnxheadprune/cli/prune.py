"""`onnxheadprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxheadprune.cli.calibrating import calibration_options, parallel_options, read_data
from onnxheadprune.cli.choosing import choosing_options, read_effect, read_wish
from onnxheadprune.cli.options import FILE, OUTPUT, fuse_option, json_option, run_options
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.writing import resolve_target, run_batch, writing_options


@click.command(short_help="Remove heads, prove the result exact, write it.")
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
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
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
    silent = dry_run or settings["no_validate"]
    if settings["effect"] is not None and wish is None and not settings["compensate"] and silent:
        raise click.UsageError(
            "--drift and --effect say how drift is measured, and nothing is measured here",
            click.get_current_context(),
        )
    settings["wish"] = wish
    settings["data"] = read_data(model, settings)
    if batch is not None and not dry_run:
        settings |= {"jobs": jobs, "validate": not settings.pop("no_validate")}
        return run_batch(batch, model, output, {} if heads is None else heads, settings, as_json=as_json)
    model, target = resolve_target(model, output, settings, dry_run=dry_run)
    if dry_run and (wish is not None or settings["compensate"]):
        target, settings["no_validate"] = None, True
    elif dry_run:
        return _dry_run(model, heads, as_json, settings)
    from onnxheadprune.api import prune as run_prune
    from onnxheadprune.report.choice import heat_of
    from onnxheadprune.report.console import err, out
    from onnxheadprune.report.figure import check_picture
    from onnxheadprune.report.heatmap import save_heatmap
    from onnxheadprune.report.page import save_page
    from onnxheadprune.report.plan import plan_report, prune_report
    from onnxheadprune.report.progress import progress_on

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
    rows = list(prune_report(result) if target is not None else plan_report(result.plan, result.chosen))
    if report is not None:
        heat = None if result.chosen is None else heat_of(result.chosen, result.plan)
        save_page(report, f"onnxheadprune: {model.name}", rows, heat)
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*rows, sep="\n")
    return 0


def _dry_run(model: Path, heads: str | None, as_json: bool, settings: dict[str, Any]) -> int:
    from onnxheadprune.fusing import planned_fusion
    from onnxheadprune.pruning import plan_pruning, require_something
    from onnxheadprune.report.console import out
    from onnxheadprune.report.fusion import fusion_rows
    from onnxheadprune.report.plan import plan_report

    flags = {name: settings[name] for name in ("keep_cache_shape", "allow_io_change")}
    plan = plan_pruning(model, {} if heads is None else heads, **flags)
    fusion = None
    if settings["fuse"] == "none":
        require_something(plan)
    else:
        fusion = planned_fusion(plan, model, settings["fuse"])
    if as_json:
        emit_json(plan.to_dict() | ({} if fusion is None else {"fusion": fusion.to_dict()}))
    else:
        out().print(*plan_report(plan), *fusion_rows(fusion), sep="\n")
    return 0
