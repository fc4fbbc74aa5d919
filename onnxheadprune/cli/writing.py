"""The output of a model: a new file, or in place with a backup."""

from __future__ import annotations

from pathlib import Path

import click

from onnxheadprune.settings.writing import Target


def resolve_target(model: Path, target: Target, *, dry_run: bool) -> Path | None:
    """The file that is written, None for a dry run without one.

    Raises:
        click.UsageError: if there is none.
    """
    if target.in_place:
        return model
    if target.output is None and not dry_run:
        raise click.UsageError(
            "specify the output with -o OUT, or look first with --dry-run", click.get_current_context()
        )
    return target.output
