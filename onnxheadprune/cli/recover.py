"""`onnxheadprune recover`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import RECOVER, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, read_data
from onnxheadprune.cli.choosing import (
    drift_option,
    read_effect,
    read_recover,
    resume_option,
)
from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.options import (
    FILE,
    OUTPUT,
    Beside,
    Checking,
    Running,
    checking_options,
    external_data_option,
    json_option,
    report_option,
    run_options,
)


@dataclass(frozen=True)
class RecoverOptions:
    """What `recover` is given."""

    model: Path
    pruned: Path
    output: Path
    budget: str
    resume: bool
    drift: str | None
    running: Running
    samples: Samples
    checking: Checking
    external_data: Beside
    report: Path | None
    as_json: bool


@click.command(
    cls=LawfulCommand,
    laws=RECOVER,
    in_sections=True,
    short_help="Train what is left of a pruned model on your data.",
)
@click.argument("model", type=FILE)
@click.argument("pruned", type=FILE)
@click.option(
    "-o", "--output", type=OUTPUT, required=True, metavar="OUT", help="Where to write the recovered model."
)
@click.option(
    "--budget",
    default="10",
    show_default=True,
    metavar="N|Ts",
    help="How long to train: N epochs, or a time like 90s or 5m.",
)
@resume_option
@drift_option
@run_options
@calibration_options
@checking_options
@external_data_option
@report_option
@json_option
@bundled(RecoverOptions)
def recover(given: RecoverOptions) -> int:
    """Train what is left of PRUNED to give what MODEL gives on your data, prove the result exact, write it to OUT.

    PRUNED is what prune made of MODEL, and OUT is again a cut of MODEL with other weights. A twentieth of the data is
    set aside, and the weights that do best on it are taken.
    """
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.workflow.recover import recovery_request
    from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

    effect = read_effect(given.drift)
    data = read_data(given.model, given.samples, given.running)
    request = Request(
        Choice(effect=effect, recover=read_recover(given.budget), resume=given.resume),
        run=Run(given.running.provider, given.running.seed, data),
        proving=Proving(not given.checking.no_validate, given.checking.accept_inconclusive),
        writing=Writing(given.output, given.external_data),
    )
    with err().status("validating"):
        request = recovery_request(given.model, given.pruned, request)
    return carry_out(given.model, request, Showing(given.report, None, given.as_json), dry_run=False)
