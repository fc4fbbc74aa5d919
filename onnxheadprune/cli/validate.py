"""`onnxheadprune validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxheadprune.cli.belonging import VALIDATE, LawfulCommand
from onnxheadprune.cli.choosing import drift_option, read_effect
from onnxheadprune.cli.deploying import follow_links_option
from onnxheadprune.cli.measuring import measuring_options
from onnxheadprune.cli.options import FILE, json_option, run_options
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.pairs import joined, pairs_of, require_for_each

MEASURING = ("batch", "seq", "past", "dims", "repeats", "time_budget", "threads")


@click.command(
    cls=LawfulCommand, laws=VALIDATE, short_help="Compare a pruned model with the masked original."
)
@click.argument("model", type=FILE)
@click.argument("pruned", type=FILE)
@click.option("--heads", metavar="H", help="The removed heads, if the metadata of PRUNED does not say.")
@run_options
@click.option(
    "--metric",
    metavar="M:F",
    help="Your own measure on --data, before and after: module:function, called with (outputs, feed) per feed"
    " or once with (outputs, feeds).",
)
@click.option(
    "--max-drift",
    type=click.FloatRange(min=0),
    metavar="X",
    help="End with exit code 1 if the drift of the main output from the unmasked MODEL, on --data if given, is"
    " larger; see --drift.",
)
@drift_option
@click.option(
    "--min-speedup",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Also measure latency as bench does; end with exit code 1 unless PRUNED is X times as fast at every size.",
)
@measuring_options
@follow_links_option
@json_option
def validate(
    model: Path,
    pruned: Path,
    as_json: bool,
    max_drift: float | None,
    min_speedup: float | None,
    follow_links: bool,
    **settings: Any,
) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift.

    The sizes, repeats and threads are those of --min-speedup. Of folders as exporters write them every model is checked
    against its like, and whether all of them lost the same heads.
    """
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.cli.report.gates import gate_rows
    from onnxheadprune.cli.report.validation import validation_report
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.validation.gates import drift_gate
    from onnxheadprune.workflow.prune import validate as run_validate

    measuring = {name: settings.pop(name) for name in MEASURING}
    settings["effect"] = read_effect(settings.pop("drift"))
    pairs = pairs_of(model, (pruned,), follow_links=follow_links)
    require_for_each(pairs, settings["heads"], settings["data"])
    documents, accepted = [], True
    for pair in pairs:
        (other,) = pair.others
        with err().status("validating"):
            result = run_validate(pair.model, other, **settings | {"data": pair.data_of(settings["data"])})
        gates = [] if max_drift is None else [drift_gate(result.drift, max_drift)]
        document = result.to_dict()
        if min_speedup is not None and result.passed:
            from onnxheadprune.benchmarking import benchmark
            from onnxheadprune.benchmarking.gates import speed_gates

            with err().status("measuring") as status:
                measured = benchmark(
                    pair.model,
                    other,
                    provider=result.provider,
                    seed=settings["seed"],
                    memory=False,
                    progress=status.update,
                    **measuring,
                )
            gates += speed_gates(measured, min_speedup)
            document["benchmark"] = measured.to_dict()
        good = result.passed and all(gate.passed for gate in gates)
        accepted = accepted and good
        documents.append(document | {"gates": [gate.to_dict() for gate in gates], "accepted": good})
        if not as_json:
            out().print(*validation_report(result), *gate_rows(gates), sep="\n")
    if as_json:
        emit_json(joined(pairs, documents) | {"accepted": accepted})
    return 0 if accepted else ValidationFailedError.exit_code
