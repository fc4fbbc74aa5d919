"""What `prune` can do besides one model into one new file: in place with a backup, and a folder of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxheadprune.cli.options import FILE, OUTPUT, stacked
from onnxheadprune.cli.outcome import emit_json

if TYPE_CHECKING:
    from onnxheadprune.attention.heads import HeadSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def writing_options(function: Function) -> Function:
    """`--in-place`, `--backup`, `--batch` and `--jobs`."""
    options = (
        click.option("--in-place", is_flag=True, help="Replace MODEL itself; only together with --backup."),
        click.option(
            "--backup", type=OUTPUT, help="Where --in-place keeps the original; must not exist yet."
        ),
        click.option(
            "--batch",
            type=FILE,
            metavar="DIR",
            help="Prune every .onnx below DIR into the folder OUT; what is done and proven is skipped.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Models that --batch works on at once.",
        ),
    )
    return stacked(function, options)


def resolve_target(
    model: Path | None, output: Path | None, settings: dict[str, Any], *, dry_run: bool
) -> tuple[Path, Path | None]:
    """The model and where it goes. Takes `in_place` out of the settings; `backup` stays if it is used.

    Raises:
        click.UsageError: if options contradict each other.
    """
    context = click.get_current_context()
    in_place, backup = settings.pop("in_place"), settings.pop("backup")
    if model is None:
        raise click.UsageError("name the MODEL, or a folder of models with --batch DIR", context)
    if in_place != (backup is not None):
        missing = "--backup FILE, where the original is kept" if in_place else "--in-place"
        raise click.UsageError(f"{'--in-place' if in_place else '--backup'} needs {missing}", context)
    if in_place:
        if output is not None:
            raise click.UsageError("--in-place writes to MODEL itself, so there is no -o OUT", context)
        settings["backup"] = backup
        return model, model
    if output is None and not dry_run:
        raise click.UsageError("name the output with -o OUT, or look first with --dry-run", context)
    return model, output


def run_batch(
    folder: Path,
    model: Path | None,
    output: Path | None,
    heads: HeadSpec,
    settings: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """`prune --batch`.

    Raises:
        click.UsageError: if options contradict each other.
    """
    from onnxheadprune.cli.report.batch import batch_report, item_line
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.workflow.batch import prune_batch

    context = click.get_current_context()
    if model is not None:
        raise click.UsageError("--batch DIR takes the place of MODEL", context)
    if output is None:
        raise click.UsageError("name the folder for the pruned models with -o OUTDIR", context)
    if settings.pop("in_place") or settings.pop("backup") is not None:
        raise click.UsageError("--batch never replaces models; --in-place is for a single one", context)
    console = err()
    result = prune_batch(
        folder, heads, output, progress=lambda item: console.print(item_line(item)), **settings
    )
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*batch_report(result), sep="\n")
    return result.exit_code
