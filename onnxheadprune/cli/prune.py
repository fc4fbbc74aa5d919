"""`onnxheadprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxheadprune.cli.options import FILE, fuse_option, json_option, run_options
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.writing import resolve_target, run_batch, writing_options


@click.command(short_help="Remove heads, prove the result exact, write it.")
@click.argument("model", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, help="Where to write the pruned model.")
@click.option(
    "--heads",
    metavar="H",
    help='Heads to remove: "0:1,3 5:0-3 *:7" (site index, name or *, then heads and ranges), or a JSON file'
    ' {"0": [1, 3]}.',
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
@json_option
def prune(
    model: Path | None, output: Path | None, heads: str | None, dry_run: bool, as_json: bool, **settings: Any
) -> int:
    """Remove heads from MODEL, prove the result exact, then write it to OUT."""
    if heads is None and settings["fuse"] == "none":
        raise click.UsageError(
            "name the heads to remove with --heads, or fuse with --fuse", click.get_current_context()
        )
    batch, jobs = settings.pop("batch"), settings.pop("jobs")
    if batch is not None and not dry_run:
        settings |= {"jobs": jobs, "validate": not settings.pop("no_validate")}
        return run_batch(batch, model, output, {} if heads is None else heads, settings, as_json=as_json)
    model, target = resolve_target(model, output, settings, dry_run=dry_run)
    if dry_run:
        return _dry_run(model, heads, as_json, settings)
    from onnxheadprune.api import prune as run_prune
    from onnxheadprune.report.console import err, out
    from onnxheadprune.report.plan import prune_report

    settings["validate"] = not settings.pop("no_validate")
    with err().status("pruning and validating" if settings["validate"] else "pruning"):
        result = run_prune(model, {} if heads is None else heads, target, **settings)
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*prune_report(result), sep="\n")
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
