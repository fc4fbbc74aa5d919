"""`onnxheadprune validate`."""

from __future__ import annotations

from typing import Annotated

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.pairs import apart_from_same, joined, pairs_of, require_for_each
from onnxheadprune.cli.presenting import run_record
from onnxheadprune.settings.cutting import Drift
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.measuring import Metric, Timing
from onnxheadprune.settings.rules import requires
from onnxheadprune.settings.setting import BENCHMARK, NotNegative, Positive, Setting, Text
from onnxheadprune.settings.writing import FollowLinks, Json, Model, Pruned

SIZES = "batch seq past dims repeats time_budget threads"


@command(rules={SIZES: requires("min_speedup")})
def validate(
    model: Model,
    pruned: Pruned,
    running: Running,
    timing: Timing,
    heads: Annotated[
        Text | None,
        Setting("The removed heads, if the metadata of PRUNED does not specify them.", metavar="H"),
    ] = None,
    metric: Metric = None,
    max_drift: Annotated[
        NotNegative | None,
        Setting(
            "End with exit code 1 if the drift of the main output from the unmasked MODEL, on {data} if given, is"
            " larger; see {drift}.",
            metavar="X",
        ),
    ] = None,
    drift: Drift = None,
    min_speedup: Annotated[
        Positive | None,
        Setting(
            "Also measure latency as `bench` does; end with exit code 1 unless PRUNED is X times as fast at every"
            " size.",
            metavar="X",
            section=BENCHMARK,
        ),
    ] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift.

    The sizes, repeats and threads are those of --min-speedup. Of folders as exporters write them every model is checked
    against its like, and whether all of them lost the same heads.
    """
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.reporting.console import err, out
    from onnxheadprune.reporting.layout import row
    from onnxheadprune.reporting.validation import gate_rows, validation_report
    from onnxheadprune.validation.claim import require_recorded
    from onnxheadprune.validation.headline import headline_of
    from onnxheadprune.validation.proof import prove
    from onnxheadprune.validation.request import ValidationRequest
    from onnxheadprune.validation.result import drift_gate
    from onnxheadprune.workflow.requests import measure_of

    effect = measure_of(drift)
    pairs = pairs_of(model, (pruned,), follow_links=follow_links)
    if running.data is not None:
        from onnxheadprune.data.sources import with_own_tokenizer

        running = with_own_tokenizer(model, running)
    require_for_each(pairs, heads, running)
    pairs, same = apart_from_same(pairs)
    documents, accepted = [], True
    for pair in pairs:
        (other,) = pair.others
        data = pair.data_of(running)
        request = ValidationRequest(heads, data, running.provider, running.seed, metric, effect)
        with err().status("validating"):
            if heads is not None:
                require_recorded(pair.model, other, heads)
            result = prove(pair.model, other, request)
        gates = [] if max_drift is None else [drift_gate(result.drift, max_drift)]
        document = result.to_dict()
        if min_speedup is not None and result.passed:
            from onnxheadprune.benchmarking.measure import BenchRequest
            from onnxheadprune.benchmarking.runner import run_benchmark

            bench = BenchRequest(timing, result.provider, running.seed, memory=False)
            with err().status("measuring") as status:
                measured = run_benchmark((pair.model, other), bench, status.update)
            gates += measured.gates(min_speedup)
            document["benchmark"] = measured.to_dict()
        good = result.passed and all(gate.passed for gate in gates)
        accepted = accepted and good
        headline = headline_of([document], gates)
        document["headline"] = headline.to_dict()
        documents.append(
            document | {"gates": [gate.to_dict() for gate in gates], "accepted": good, "run": run_record()}
        )
        if not as_json:
            out().print(*validation_report(result, headline), *gate_rows(gates), sep="\n")
    if as_json:
        emit_json(joined(pairs, documents) | ({"same": same} if same else {}) | {"accepted": accepted})
    elif same:
        out().print(row("the same", f"to the last byte, as nothing was cut there: {', '.join(same)}"))
    return 0 if accepted else ValidationFailedError.exit_code
