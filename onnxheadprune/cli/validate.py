"""`onnxheadprune validate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import VALIDATE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.choosing import drift_option, read_effect
from onnxheadprune.cli.deploying import follow_links_option
from onnxheadprune.cli.measuring import Timing, measuring_options, read_measuring
from onnxheadprune.cli.options import FILE, Running, json_option, run_options
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.pairs import apart_from_same, joined, pairs_of, require_for_each
from onnxheadprune.cli.repeating import run_record


@dataclass(frozen=True)
class ValidateOptions:
    """What `validate` is given."""

    model: Path
    pruned: Path
    heads: str | None
    running: Running
    metric: str | None
    max_drift: float | None
    drift: str | None
    min_speedup: float | None
    timing: Timing
    follow_links: bool
    as_json: bool


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
@bundled(ValidateOptions)
def validate(given: ValidateOptions) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift.

    The sizes, repeats and threads are those of --min-speedup. Of folders as exporters write them every model is checked
    against its like, and whether all of them lost the same heads.
    """
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.cli.report.gates import gate_rows
    from onnxheadprune.cli.report.layout import row
    from onnxheadprune.cli.report.validation import validation_report
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.validation import ValidationRequest, prove
    from onnxheadprune.validation.claim import require_recorded
    from onnxheadprune.validation.gates import drift_gate
    from onnxheadprune.validation.headline import headline_of

    running = given.running
    effect = read_effect(given.drift)
    pairs = pairs_of(given.model, (given.pruned,), follow_links=given.follow_links)
    require_for_each(pairs, given.heads, running)
    pairs, same = apart_from_same(pairs)
    documents, accepted = [], True
    for pair in pairs:
        (other,) = pair.others
        data = pair.data_of(running)
        request = ValidationRequest(given.heads, data, running.provider, running.seed, given.metric, effect)
        with err().status("validating"):
            if given.heads is not None:
                require_recorded(pair.model, other, given.heads)
            result = prove(pair.model, other, request)
        gates = [] if given.max_drift is None else [drift_gate(result.drift, given.max_drift)]
        document = result.to_dict()
        if given.min_speedup is not None and result.passed:
            from onnxheadprune.benchmarking import BenchRequest, run_benchmark
            from onnxheadprune.benchmarking.gates import speed_gates

            timing = BenchRequest(read_measuring(given.timing), result.provider, running.seed, memory=False)
            with err().status("measuring") as status:
                measured = run_benchmark((pair.model, other), timing, status.update)
            gates += speed_gates(measured, given.min_speedup)
            document["benchmark"] = measured.to_dict()
        good = result.passed and all(gate.passed for gate in gates)
        accepted = accepted and good
        headline = headline_of([document], gates)
        document["headline"] = headline.to_dict()
        documents.append(
            document | {"gates": [gate.to_dict() for gate in gates], "accepted": good, "run": run_record()}
        )
        if not given.as_json:
            out().print(*validation_report(result, headline), *gate_rows(gates), sep="\n")
    if given.as_json:
        emit_json(joined(pairs, documents) | ({"same": same} if same else {}) | {"accepted": accepted})
    elif same:
        out().print(row("the same", f"to the last byte, as nothing was cut there: {', '.join(same)}"))
    return 0 if accepted else ValidationFailedError.exit_code
