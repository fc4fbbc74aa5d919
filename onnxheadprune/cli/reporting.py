"""`onnxheadprune report`: a page from results that were saved with --json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.options import FILE, OUTPUT, json_option
from onnxheadprune.cli.outcome import emit_json


@dataclass(frozen=True)
class ReportOptions:
    """What `report` is given."""

    results: tuple[Path, ...]
    output: Path
    as_json: bool


@click.command()
@click.argument("results", type=FILE, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=OUTPUT, metavar="OUT.html", required=True, help="Where to write the page."
)
@json_option
@bundled(ReportOptions)
def report(given: ReportOptions) -> int:
    """Make one HTML page of RESULTS: what prune, fuse, sweep, validate, bench or combine print with --json.

    One cut is told in full, with the speed that bench measured and the curve of a sweep if they are there too. Several
    cuts are shown side by side.
    """
    from onnxheadprune.cli.report.console import out
    from onnxheadprune.cli.report.layout import row
    from onnxheadprune.cli.report.page import page_of, read_documents
    from onnxheadprune.model.storage.folder import write_text

    documents = read_documents(given.results)
    page = page_of(documents)
    write_text(given.output, page)
    if given.as_json:
        counts = documents.counts()
        emit_json({"output": str(given.output), "bytes": len(page.encode()), "results": counts})
    else:
        out().print(row("report", str(given.output)))
    return 0
