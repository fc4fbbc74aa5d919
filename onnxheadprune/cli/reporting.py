"""`onnxheadprune report`: a page from results that were saved with --json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.settings.setting import Setting
from onnxheadprune.settings.writing import Json


@command()
def report(
    results: Annotated[tuple[Path, ...], Setting("Documents that were saved with --json.", argument=True)],
    output: Annotated[
        Path,
        Setting("Where to write the page.", metavar="OUT.html", flags="-o --output", creates=".html .htm"),
    ],
    as_json: Json = False,
) -> int:
    """Make one HTML page of RESULTS: what prune, fuse, sweep, validate or bench print with --json.

    One cut is told in full, with the speed that bench measured and the curve of a sweep if they are there too. Several
    cuts are shown side by side.
    """
    from onnxheadprune.model.storage.writing import write_text
    from onnxheadprune.reporting.console import out, row
    from onnxheadprune.reporting.page import page_of, read_documents

    documents = read_documents(results)
    page = page_of(documents)
    write_text(output, page)
    if as_json:
        counts = documents.counts()
        emit_json({"output": str(output), "bytes": len(page.encode()), "results": counts})
    else:
        out().print(row("report", str(output)))
    return 0
