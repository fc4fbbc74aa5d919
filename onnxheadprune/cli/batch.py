"""`onnxheadprune batch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.belonging import BATCH, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.choosing import (
    Amount,
    Refitting,
    Respecting,
    amount_options,
    read_effect,
    read_recover,
    read_wish,
    refitting_options,
    require_one_way,
    respecting_options,
)
from onnxheadprune.cli.options import (
    FILE,
    OUTPUT,
    Beside,
    Checking,
    Fusing,
    Running,
    Shaping,
    checking_options,
    external_data_option,
    fuse_option,
    heads_option,
    json_option,
    run_options,
    shaping_options,
)
from onnxheadprune.cli.outcome import emit_json

if TYPE_CHECKING:
    from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True)
class BatchOptions:
    """What `batch` is given."""

    folder: Path
    output: Path
    heads: str | None
    amount: Amount
    respecting: Respecting
    refitting: Refitting
    running: Running
    fuse: Fusing
    shaping: Shaping
    checking: Checking
    external_data: Beside
    jobs: int
    as_json: bool


@click.command(cls=LawfulCommand, laws=BATCH, in_sections=True, short_help="Prune a folder of models.")
@click.argument("folder", type=FILE, metavar="DIR")
@click.option(
    "-o", "--output", type=OUTPUT, required=True, metavar="OUTDIR", help="The folder for the pruned models."
)
@heads_option
@amount_options
@respecting_options
@refitting_options
@run_options
@fuse_option
@shaping_options
@checking_options
@external_data_option
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Models worked on at once."
)
@json_option
@bundled(BatchOptions)
def batch(given: BatchOptions) -> int:
    """Prune every .onnx below DIR into the folder OUTDIR, each on its own, whatever happens to the others.

    What an earlier run did and proved, and is still as it was, is skipped.
    """
    from onnxheadprune.attention.contract import Contract
    from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

    wish = read_wish(given.amount, given.respecting)
    effect = read_effect(given.refitting.drift, given.refitting.effect)
    require_one_way(given.heads, wish, given.fuse)
    request = Request(
        Choice(given.heads, wish, given.refitting.compensate, effect, read_recover(given.refitting.recover)),
        Contract(given.shaping.keep_cache_shape, given.shaping.allow_io_change),
        given.fuse,
        Run(given.running.provider, given.running.seed, given.running.data),
        Proving(not given.checking.no_validate, given.checking.accept_inconclusive),
        Writing(external_data=given.external_data),
    )
    return run_batch(given.folder, request, given.output, jobs=given.jobs, as_json=given.as_json)


def run_batch(folder: Path, request: Request, output: Path, *, jobs: int, as_json: bool) -> int:
    """Prunes a folder of models and says what became of each.

    Args:
        folder: with the models.
        request: what to do with each.
        output: the folder for the pruned models.
        jobs: how many are worked on at once.
        as_json: print one document.

    Returns:
        The exit code.
    """
    from onnxheadprune.cli.report.batch import batch_report, item_line
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.workflow.batch import prune_batch

    console = err()
    result = prune_batch(
        folder, request, output, jobs=jobs, progress=lambda item: console.print(item_line(item))
    )
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*batch_report(result), sep="\n")
    return result.exit_code
