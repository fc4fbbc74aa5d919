"""`onnxheadprune combine`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import COMBINE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, read_data
from onnxheadprune.cli.choosing import drift_option, read_effect
from onnxheadprune.cli.measuring import Timing, measuring_options, read_measuring
from onnxheadprune.cli.options import (
    FILE,
    OUTPUT,
    Beside,
    Running,
    external_data_option,
    json_option,
    report_option,
    run_options,
)
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.quantizing import Rounding, quantizing_options, read_quantizing
from onnxheadprune.cli.repeating import run_record


@dataclass(frozen=True)
class CombineOptions:
    """What `combine` is given."""

    model: Path
    pruned: Path
    output: Path | None
    rounding: Rounding
    drift: str | None
    metric: str | None
    running: Running
    samples: Samples
    timing: Timing
    external_data: Beside
    markdown: Path | None
    report: Path | None
    as_json: bool


@click.command(cls=LawfulCommand, laws=COMBINE, short_help="Pruned and quantized: measure both orders.")
@click.argument("model", type=FILE)
@click.argument("pruned", type=FILE)
@click.option(
    "-o", "--output", type=OUTPUT, metavar="OUT", help="Where to write the better of both orders, if at all."
)
@quantizing_options
@drift_option
@click.option(
    "--metric",
    metavar="M:F",
    help="Your own measure of quality on --data: module:function, called with (outputs, feed) per feed or once with"
    " (outputs, feeds).",
)
@run_options
@calibration_options
@measuring_options
@external_data_option
@click.option(
    "--export-markdown", "markdown", type=OUTPUT, metavar="FILE", help="Also write the table as Markdown."
)
@report_option
@json_option
@bundled(CombineOptions)
def combine(given: CombineOptions) -> int:
    """Compare MODEL, PRUNED, MODEL quantized, and both changes together in either order; recommend an order.

    PRUNED is what prune made of MODEL. A fifth of the data is held out: drift, accuracy and metric are of it, ranges of
    activations and refits of the rest.
    """
    from onnxheadprune.cli.report.combination import combine_report, write_combination
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.cli.report.page import save_page
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.workflow.apart import Looking
    from onnxheadprune.workflow.combine import Combination, CombineRequest, combined_through
    from onnxheadprune.workflow.requests import Run, Writing

    data = read_data(given.model, given.samples, given.running)
    request = CombineRequest(
        read_quantizing(given.rounding),
        Run(given.running.provider, given.running.seed, data),
        Looking(read_effect(given.drift), given.metric),
        read_measuring(given.timing),
        Writing(given.output, given.external_data),
    )
    presentation = Presentation()

    def ready(result: Combination) -> None:
        document = {**result.to_dict(), "run": run_record()}
        with presentation.prepared():
            if given.markdown is not None:
                write_combination(result, given.markdown)
            if given.report is not None:
                save_page(given.report, document)
        if given.as_json:
            presentation.json(document)
        else:
            presentation.rows(*combine_report(result))

    with progress_on(err()) as progress:
        result = combined_through(given.model, given.pruned, request, progress, ready)
    return presentation.deliver(result.output)
