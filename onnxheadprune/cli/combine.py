"""`onnxheadprune combine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.presenting import Presentation, run_record
from onnxheadprune.settings.cutting import Drift
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.measuring import Metric, Rounding, Timing
from onnxheadprune.settings.setting import OUTPUT, Setting, requires
from onnxheadprune.settings.writing import Json, Model, Pruned, Report, Storing


@command(rules={"external_data": requires("output")})
def combine(
    model: Model,
    pruned: Pruned,
    rounding: Rounding,
    running: Running,
    timing: Timing,
    output: Annotated[
        Path | None,
        Setting(
            "Where to write the better of both orders, if at all.",
            metavar="OUT",
            flags="-o --output",
            creates=".onnx",
            section=OUTPUT,
        ),
    ] = None,
    drift: Drift = None,
    metric: Metric = None,
    storing: Storing = Storing(),
    markdown: Annotated[
        Path | None,
        Setting(
            "Also write the table as Markdown.",
            metavar="FILE",
            flags="--export-markdown",
            creates=".md .markdown",
        ),
    ] = None,
    report: Report = None,
    as_json: Json = False,
) -> int:
    """Compare MODEL, PRUNED, MODEL quantized, and both changes together in either order; recommend an order.

    PRUNED is what prune made of MODEL. A fifth of the data is held out: drift, accuracy and metric are of it, ranges of
    activations and refits of the rest.
    """
    from onnxheadprune.model.markdown import markdown_of
    from onnxheadprune.model.storage.writing import write_markdown
    from onnxheadprune.reporting.console import err, rows_of
    from onnxheadprune.reporting.page import save_page
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.workflow.apart import Looking
    from onnxheadprune.workflow.combine import Combination, CombineRequest, combined_through
    from onnxheadprune.workflow.requests import Run, Writing, measure_of

    data = read_data(model, running)
    request = CombineRequest(
        rounding,
        Run(running.provider, running.seed, data),
        Looking(measure_of(drift), metric),
        timing,
        Writing(output, storing),
    )
    presentation = Presentation()

    def ready(result: Combination) -> None:
        document = {**result.to_dict(), "run": run_record()}
        with presentation.prepared():
            if markdown is not None:
                write_markdown(markdown, markdown_of(result.facts()))
            if report is not None:
                save_page(report, document)
        if as_json:
            presentation.json(document)
        else:
            presentation.rows(*rows_of(result.facts()))

    with progress_on(err()) as progress:
        result = combined_through(model, pruned, request, progress, ready)
    return presentation.deliver(result.output)
