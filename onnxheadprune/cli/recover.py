"""`onnxheadprune recover`."""

from __future__ import annotations

from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.settings.cutting import Recovering, Resume
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.writing import Checking, Json, Model, Output, Pruned, Report, Storing


@command(implies="recover", makes=("recovered", "pruned"))
def recover(
    model: Model,
    pruned: Pruned,
    recovering: Recovering,
    running: Running,
    checking: Checking,
    output: Output = None,
    resume: Resume = False,
    storing: Storing = Storing(),
    report: Report = None,
    as_json: Json = False,
) -> int:
    """Train the remaining weights of PRUNED to match the outputs of MODEL on your data, prove and write the result.

    PRUNED is what prune made of MODEL, and OUT is again a cut of MODEL with other weights. A twentieth of the data is
    set aside, and the weights that do best on it are taken.
    """
    from onnxheadprune.reporting.console import err
    from onnxheadprune.workflow.recover import recovery_request
    from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

    request = Request(
        Choice.training(recovering, resume=resume),
        run=Run(running.provider, running.seed, read_data(model, running)),
        proving=Proving(checking.validate, checking.accept_inconclusive),
        writing=Writing(output, storing),
    )
    with err().status("validating"):
        request = recovery_request(model, pruned, request)
    return carry_out(model, request, Showing(report, None, as_json), dry_run=False)
