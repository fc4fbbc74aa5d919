"""`onnxheadprune fuse`."""

from __future__ import annotations

from onnxheadprune.cli.cutting import Showing, carry_out
from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.settings.calls import FuseMode
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.writing import Checking, DryRun, Json, Model, Report, Storing, Target


@command(makes=("fused", "model"))
def fuse(
    model: Model,
    target: Target,
    running: Running,
    checking: Checking,
    mode: FuseMode = "contrib",
    dry_run: DryRun = False,
    report: Report = None,
    as_json: Json = False,
) -> int:
    """Write the attention of every site of MODEL as one fused operator, prove the result equal, then write it to OUT.

    No head is removed. Sites that cannot be fused exactly stay unchanged, with the reason.
    """
    from onnxheadprune.workflow.requests import Proving, Request, Run, Writing

    place = model if target.in_place else target.output
    request = Request(
        fuse=mode,
        run=Run(running.provider, running.seed, read_data(model, running)),
        proving=Proving(checking.validate, checking.accept_inconclusive),
        writing=Writing(place, part_of(Storing, target), target.backup),
    )
    return carry_out(model, request, Showing(report, None, as_json), dry_run=dry_run)
