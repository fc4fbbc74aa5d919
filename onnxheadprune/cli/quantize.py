"""`onnxheadprune quantize`."""

from __future__ import annotations

import shlex

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.presenting import Presentation, run_record
from onnxheadprune.settings.cutting import Drift
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.measuring import Rounding
from onnxheadprune.settings.setting import requires
from onnxheadprune.settings.writing import Json, Model, Output, Storing


@command(  # Nothing runs but where drift is measured.
    makes=("quantized", "model"), rules={"drift provider": requires("data"), "seed": requires("data=random")}
)
def quantize(
    model: Model,
    rounding: Rounding,
    running: Running,
    output: Output = None,
    drift: Drift = None,
    storing: Storing = Storing(),
    as_json: Json = False,
) -> int:
    """Quantize MODEL with ONNX Runtime's own quantizer, try the result, then write it to OUT.

    With data the drift is reported, as a deployment runs both.
    """
    from onnxheadprune.reporting.console import err, next_call, rows_of
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.workflow.quantize import QuantizeRequest, QuantizeResult, quantized_through
    from onnxheadprune.workflow.requests import Run, Writing, measure_of

    request = QuantizeRequest(
        rounding,
        Run(running.provider, running.seed, read_data(model, running)),
        Writing(output, storing),
        measure_of(drift),
    )
    presentation = Presentation()

    def ready(result: QuantizeResult) -> None:
        if as_json:
            presentation.json({**result.to_dict(), "run": run_record()})
        else:
            call = shlex.join(("onnxheadprune", "bench", str(model), str(output)))
            presentation.rows(*rows_of(result.facts()), "", next_call(call))

    with progress_on(err()) as progress:
        quantized_through(model, request, progress, ready)
    return presentation.deliver(str(output))
