"""Where a model is written: to a new file, or in place with a backup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from onnxheadprune.cli.options import OUTPUT, Beside, external_data_option, stacked

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Target:
    """Where the result goes: `-o`, `--in-place`, `--backup`, `--external-data`."""

    output: Path | None
    in_place: bool
    backup: Path | None
    external_data: Beside


def target_options(function: Function) -> Function:
    """The options of `Target`."""
    options = (
        click.option("-o", "--output", type=OUTPUT, metavar="OUT", help="Where to write the model."),
        click.option("--in-place", is_flag=True, help="Replace MODEL itself; only together with --backup."),
        click.option(
            "--backup",
            type=OUTPUT,
            metavar="FILE",
            help="Where --in-place keeps the original; a file there must be the model, byte for byte.",
        ),
        external_data_option,
    )
    return stacked(function, options)


def resolve_target(model: Path, target: Target, *, dry_run: bool) -> Path | None:
    """The file that is written, None if a look ahead was not told.

    Raises:
        click.UsageError: if options contradict each other.
    """
    context = click.get_current_context()
    if target.in_place and target.backup is None:
        raise click.UsageError("--in-place needs --backup FILE, where the original is kept", context)
    if target.backup is not None and not target.in_place:
        raise click.UsageError("--backup needs --in-place", context)
    if target.in_place:
        if target.output is not None:
            raise click.UsageError("--in-place writes to MODEL itself, so there is no -o OUT", context)
        return model
    if target.output is None and not dry_run:
        raise click.UsageError("name the output with -o OUT, or look first with --dry-run", context)
    return target.output
