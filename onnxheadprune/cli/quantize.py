"""`onnxheadprune quantize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import QUANTIZE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, read_data
from onnxheadprune.cli.choosing import drift_option, read_effect
from onnxheadprune.cli.options import (
    FILE,
    OUTPUT,
    Beside,
    Running,
    external_data_option,
    json_option,
    run_options,
)
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.quantizing import Rounding, quantizing_options, read_quantizing
from onnxheadprune.cli.repeating import run_record


@dataclass(frozen=True)
class QuantizeOptions:
    """What `quantize` is given."""

    model: Path
    output: Path
    rounding: Rounding
    drift: str | None
    running: Running
    samples: Samples
    external_data: Beside
    as_json: bool


@click.command(
    cls=LawfulCommand,
    laws=QUANTIZE,
    in_sections=True,
    short_help="Quantize with ONNX Runtime's own quantizer.",
)
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", type=OUTPUT, required=True, metavar="OUT", help="Where to write the quantized model."
)
@quantizing_options
@drift_option
@run_options
@calibration_options
@external_data_option
@json_option
@bundled(QuantizeOptions)
def quantize(given: QuantizeOptions) -> int:
    """Quantize MODEL with ONNX Runtime's own quantizer, try the result, then write it to OUT.

    With data the drift is told, as a deployment runs both. Use combine to see a pruned model quantized beside it.
    """
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.cli.report.quantization import quantize_report
    from onnxheadprune.workflow.quantize import QuantizeRequest, QuantizeResult, quantized_through
    from onnxheadprune.workflow.requests import Run, Writing

    request = QuantizeRequest(
        read_quantizing(given.rounding),
        Run(given.running.provider, given.running.seed, read_data(given.model, given.samples, given.running)),
        Writing(given.output, given.external_data),
        read_effect(given.drift),
    )
    presentation = Presentation()

    def ready(result: QuantizeResult) -> None:
        if given.as_json:
            presentation.json({**result.to_dict(), "run": run_record()})
        else:
            presentation.rows(*quantize_report(result))

    with progress_on(err()) as progress:
        quantized_through(given.model, request, progress, ready)
    return presentation.deliver(str(given.output))
