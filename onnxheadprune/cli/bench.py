"""`onnxheadprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.pairs import joined, pairs_of
from onnxheadprune.cli.presenting import Presentation, run_record
from onnxheadprune.settings.calls import BenchCall
from onnxheadprune.settings.setting import Setting
from onnxheadprune.settings.writing import Json, Model

SLOWER = 1
"""Exit code where a wanted speed-up was not reached."""


@command()
def bench(
    model: Model,
    given: BenchCall,
    pruned: Annotated[tuple[Path, ...], Setting("Models to compare with it.", argument=True)] = (),
    csv_path: Annotated[
        Path | None,
        Setting("Also write the numbers as CSV.", metavar="FILE", flags="--csv", creates=".csv"),
    ] = None,
    markdown: Annotated[
        Path | None,
        Setting(
            "Also write the latencies as a Markdown table.",
            metavar="FILE",
            flags="--export-markdown",
            creates=".md .markdown",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        Setting(
            "Also plot latency against sizes (.png, .svg, .pdf).", metavar="FILE", creates=".png .svg .pdf"
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure MODEL and each PRUNED in turn, and say whether they differ: faster, no measurable difference, slower.

    A second session of MODEL runs along as the noise floor. Sizes that are not named are chosen so that the
    model runs. Of folders as exporters write them the file of each network is measured that heads are chosen on.
    """
    from onnxheadprune.benchmarking.measure import BenchRequest
    from onnxheadprune.benchmarking.runner import run_benchmark
    from onnxheadprune.benchmarking.summary import bench_facts
    from onnxheadprune.reporting.benchmark import write_files
    from onnxheadprune.reporting.console import err, is_asked, out, rows_of
    from onnxheadprune.reporting.pictures import check_picture, save_figure
    from onnxheadprune.reporting.validation import provider_rows

    if plot is not None:
        check_picture(plot)
    request = BenchRequest.of(given)
    pairs = pairs_of(model, pruned, follow_links=given.follow_links, leaders=True)
    if len(pairs) > 1 and any(path is not None for path in (csv_path, markdown, plot)):
        raise click.UsageError(
            f"{model} holds {len(pairs)} networks; for a table or picture name the files of one",
            click.get_current_context(),
        )
    documents, passed, presentation = [], True, Presentation()
    # The part of attention is a detail, for which its sites have to be found.
    attention = as_json or csv_path is not None or markdown is not None or is_asked("verbose")
    for pair in pairs:
        with err().status("looking at the models") as status:
            result = run_benchmark((pair.model, *pair.others), request, status.update, attention)
        passed = passed and result.passed
        documents.append(result.to_dict() | {"run": run_record()})
        if not as_json:
            out().print(*provider_rows(result.provider), *rows_of(bench_facts(documents[-1])), sep="\n")
        with presentation.prepared():
            write_files(result, csv_path, markdown)
            if plot is not None:
                # Matplotlib takes longer to load than many a model.
                from onnxheadprune.reporting.pictures.latency import plot_latency

                save_figure(plot_latency(result), plot)
    if as_json:
        presentation.json(joined(pairs, documents))
    lost = presentation.deliver()
    return lost if passed else SLOWER
