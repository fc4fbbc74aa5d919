"""`onnxheadprune batch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.belonging import BATCH, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import dask_option
from onnxheadprune.cli.cuts import Cut, cut_options, read_choice, request_of
from onnxheadprune.cli.options import FILE, OUTPUT, Beside, external_data_option, json_option
from onnxheadprune.cli.outcome import emit_json

if TYPE_CHECKING:
    from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True)
class BatchOptions:
    """What `batch` is given."""

    folder: Path
    output: Path
    cut: Cut
    external_data: Beside
    jobs: int
    dask: str | None
    as_json: bool


@click.command(cls=LawfulCommand, laws=BATCH, in_sections=True, short_help="Prune a folder of models.")
@click.argument("folder", type=FILE, metavar="DIR")
@click.option(
    "-o", "--output", type=OUTPUT, required=True, metavar="OUTDIR", help="The folder for the pruned models."
)
@cut_options
@external_data_option
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Models worked on at once."
)
@dask_option
@json_option
@bundled(BatchOptions)
def batch(given: BatchOptions) -> int:
    """Prune every .onnx below DIR into the folder OUTDIR, each on its own, whatever happens to the others.

    What an earlier run did and proved, and is still as it was, is skipped.
    """
    from onnxheadprune.workflow.requests import Writing

    writing = Writing(external_data=given.external_data)
    request = request_of(given.cut, read_choice(given.cut), given.cut.running.data, writing)
    return run_batch(
        given.folder, request, given.output, jobs=given.jobs, dask=given.dask, as_json=given.as_json
    )


def run_batch(
    folder: Path, request: Request, output: Path, *, jobs: int, as_json: bool, dask: str | None = None
) -> int:
    """Prunes a folder of models and says what became of each.

    Args:
        folder: with the models.
        request: what to do with each.
        output: the folder for the pruned models.
        jobs: how many are worked on at once.
        as_json: print one document.
        dask: the address of a Dask scheduler to work on, or "local"; None works in processes here.

    Returns:
        The exit code.
    """
    from onnxheadprune.cli.report.batch import batch_report, item_line
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.selection.scoring.executors import open_executor
    from onnxheadprune.workflow.batch import prune_batch

    console = err()
    with open_executor(jobs if dask is not None else 1, dask) as executor:
        result = prune_batch(
            folder,
            request,
            output,
            jobs=jobs,
            executor=executor,
            progress=lambda item: console.print(item_line(item)),
        )
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*batch_report(result), sep="\n")
    return result.exit_code
