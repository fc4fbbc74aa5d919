"""`onnxheadprune sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.presenting import Presentation, run_record
from onnxheadprune.settings.cutting import Recover, Selecting, Time
from onnxheadprune.settings.inputs import Dask, Jobs, Running
from onnxheadprune.settings.setting import OUTPUT, Setting, requires
from onnxheadprune.settings.writing import Json, Model


@command(implies="ratio", rules={"seed": requires("data=random recover time")})
def sweep(
    model: Model,
    ratios: Annotated[str, Setting("The ratios to remove.", metavar="A:B:STEP", argument=True)],
    selecting: Selecting,
    running: Running,
    recover: Recover = None,
    time: Time = None,
    output: Annotated[
        Path | None,
        Setting(
            "Where to write the curve: a plot (.png, .svg) with the JSON beside it, or the reverse.",
            metavar="OUT",
            flags="-o --output",
            creates=".png .svg .pdf .json",
            section=OUTPUT,
        ),
    ] = None,
    x: Annotated[
        Literal["heads", "operations", "bytes", "parameters", "speedup"] | None,
        Setting(
            "The horizontal axis of the plot: heads or operations removed, parameters left, or measured speed [default:"
            " what the ratios are of: heads, with other {units} operations].",
            rules=(requires("output"),),
        ),
    ] = None,
    jobs: Jobs = 1,
    dask: Dask = None,
    as_json: Json = False,
) -> int:
    """Measure cuts of MODEL of many sizes on your data: drift, accuracy and speed over the ratio that is removed.

    A:B:STEP are the ratios, as in 0:0.7:0.05: of all heads, with other --units of the operations of all blocks. For
    each, units are selected, and the remaining weights are adjusted, and trained with --recover or --time, as in one
    cut.
    """
    from onnxheadprune.attention.main_graph_copy import first_tokens
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.reporting.console import err, rows_of
    from onnxheadprune.reporting.curve import curve_files, save_curve
    from onnxheadprune.reporting.pictures import check_picture
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.training.recover import Recovering
    from onnxheadprune.workflow.choice.cutting import Cutter, Trying
    from onnxheadprune.workflow.executors import open_executor
    from onnxheadprune.workflow.requests import budget_of, measure_of, requirements_of
    from onnxheadprune.workflow.sweep import parse_sweep, sweep_ratios

    wanted = parse_sweep(ratios)
    document, picture = (None, None) if output is None else curve_files(output)
    if picture is not None:
        check_picture(picture)
    requirements, budget = requirements_of(selecting), budget_of(recover, time)
    recovering = None if budget is None else Recovering(budget, running.seed)
    trying = Trying(selecting.refit, measure_of(selecting.drift), recovering=recovering)
    data = read_data(model, running)
    provider = resolve_provider(running.provider)
    with open_executor(jobs, dask) as executor, progress_on(err()) as progress:
        loaded = open_structure(model)
        subject = loaded if data is None else first_tokens(loaded) or loaded
        curve = sweep_ratios(
            Cutter(subject, data, provider, trying, progress), requirements, wanted, executor, jobs
        )
    presentation, record = Presentation(), run_record()
    with presentation.prepared():
        if document is not None and picture is not None:
            curve.write(document, record)
            save_curve(curve, picture, x)
    if as_json:
        presentation.json(curve.to_dict() | {"run": record})
    else:
        presentation.rows(*rows_of(curve.facts()))
    return presentation.deliver()
