"""`onnxheadprune sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import click

from onnxheadprune.cli.belonging import SWEEP, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, dask_option, read_data
from onnxheadprune.cli.choosing import (
    Refitting,
    Respecting,
    read_effect,
    read_recover,
    read_requirements,
    refitting_options,
    respecting_options,
)
from onnxheadprune.cli.options import FILE, OUTPUT, Running, json_option, run_options
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.repeating import run_record

Against = Literal["heads", "operations", "parameters", "speedup"]


@dataclass(frozen=True)
class SweepOptions:
    """What `sweep` is given."""

    model: Path
    ratios: str
    output: Path | None
    respecting: Respecting
    refitting: Refitting
    running: Running
    samples: Samples
    jobs: int
    dask: str | None
    as_json: bool
    x: Against | None = None


@click.command(
    cls=LawfulCommand, laws=SWEEP, in_sections=True, short_help="Draw the curve of drift, accuracy and speed."
)
@click.argument("model", type=FILE)
@click.argument("ratios", metavar="A:B:STEP")
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    metavar="OUT",
    help="Where to write the curve: a picture (.png, .svg) with the JSON beside it, or the reverse.",
)
@click.option(
    "--x",
    type=click.Choice(get_args(Against)),
    default=None,
    help="The horizontal axis of the picture: heads or operations removed, parameters left, or measured speed"
    " [default: what the ratios are of: heads, with other --units operations].",
)
@respecting_options
@refitting_options
@run_options
@calibration_options
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Points worked on at once."
)
@dask_option
@json_option
@bundled(SweepOptions)
def sweep(given: SweepOptions) -> int:
    """Measure cuts of MODEL of many sizes on your data: drift, accuracy and speed over the ratio that goes.

    A:B:STEP are the ratios, as in 0:0.7:0.05: of all heads, with other --units of the operations of all blocks. For
    each, units are chosen, and what is left is refitted, and trained with --recover, as by prune --ratio.
    """
    return run_sweep(given)


def run_sweep(given: SweepOptions) -> int:
    """Measures the curve and writes it: JSON, or a picture with the JSON beside it.

    Returns:
        The exit code.

    Raises:
        click.UsageError: if options contradict each other.
    """
    from onnxheadprune.attention.branched import first_tokens
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.cli.report.curve import curve_files, curve_rows, save_curve
    from onnxheadprune.cli.report.figure import check_picture
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.cutting import Cutter, Trying
    from onnxheadprune.selection.recovery import Recovering
    from onnxheadprune.selection.scoring.executors import open_executor
    from onnxheadprune.workflow.sweep import parse_sweep, sweep_ratios

    ratios = parse_sweep(given.ratios)
    document, picture = (None, None) if given.output is None else curve_files(given.output)
    if picture is not None:
        check_picture(picture)
    requirements = read_requirements(given.respecting)
    effect = read_effect(given.refitting.drift)
    budget = read_recover(given.refitting.recover)
    recovering = None if budget is None else Recovering(budget, given.running.seed)
    data = read_data(given.model, given.samples, given.running)
    provider = resolve_provider(given.running.provider)
    with open_executor(given.jobs, given.dask) as executor, progress_on(err()) as progress:
        trying = Trying(given.refitting.compensate, effect, recovering=recovering)
        loaded = open_structure(given.model)
        subject = loaded if data is None else first_tokens(loaded) or loaded
        cutter = Cutter(subject, data, provider, trying, progress)
        curve = sweep_ratios(cutter, requirements, ratios, executor)
    presentation, record = Presentation(), run_record()
    with presentation.prepared():
        if document is not None and picture is not None:
            curve.write(document, record)
            save_curve(curve, picture, given.x)
    if given.as_json:
        presentation.json(curve.to_dict() | {"run": record})
    else:
        presentation.rows(*curve_rows(curve))
    return presentation.deliver()
