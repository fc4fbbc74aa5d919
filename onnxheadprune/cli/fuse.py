"""`onnxheadprune fuse`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import FUSE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.options import (
    FILE,
    Checking,
    Fusing,
    Running,
    checking_options,
    dry_run_option,
    json_option,
    report_option,
    run_options,
)
from onnxheadprune.cli.writing import Target, resolve_target, target_options


@dataclass(frozen=True)
class FuseOptions:
    """What `fuse` is given."""

    model: Path
    mode: Fusing
    target: Target
    running: Running
    checking: Checking
    dry_run: bool
    report: Path | None
    as_json: bool


@click.command(
    cls=LawfulCommand, laws=FUSE, in_sections=True, short_help="Write attention as fused operators."
)
@click.argument("model", type=FILE)
@target_options
@click.option(
    "--mode",
    type=click.Choice(["contrib", "onnx", "auto"]),
    default="contrib",
    show_default=True,
    help="ONNX Runtime's own operators (contrib), the standard Attention (onnx), or what is measured fastest"
    " here (auto).",
)
@run_options
@checking_options
@dry_run_option
@report_option
@json_option
@bundled(FuseOptions)
def fuse(given: FuseOptions) -> int:
    """Write the attention of every site of MODEL as one fused operator, prove the result equal, then write it to OUT.

    No head goes. Sites that cannot be fused exactly stay as they are, with the reason.
    """
    from onnxheadprune.workflow.requests import Proving, Request, Run, Writing

    place = resolve_target(given.model, given.target, dry_run=given.dry_run)
    request = Request(
        fuse=given.mode,
        run=Run(given.running.provider, given.running.seed, given.running.data),
        proving=Proving(not given.checking.no_validate, given.checking.accept_inconclusive),
        writing=Writing(place, given.target.external_data, given.target.backup),
    )
    showing = Showing(given.report, None, given.as_json)
    return carry_out(given.model, request, showing, dry_run=given.dry_run)
