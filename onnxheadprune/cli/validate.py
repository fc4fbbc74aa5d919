"""`onnxheadprune validate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.pairs import Pair, joined, pairs_of
from onnxheadprune.cli.presenting import run_record
from onnxheadprune.settings.cutting import Drift
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.measuring import Metric, Strict, Timing
from onnxheadprune.settings.setting import BENCHMARK, NotNegative, Positive, Setting, Text, requires
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
    strict: Strict = False,
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
    from onnxheadprune.reporting.console import err, out, row, rows_of
    from onnxheadprune.reporting.validation import provider_rows
    from onnxheadprune.validation.claim import require_recorded
    from onnxheadprune.validation.headline import headline_of
    from onnxheadprune.validation.proof import prove
    from onnxheadprune.validation.request import ValidationRequest
    from onnxheadprune.validation.result import drift_gate, strict_gate
    from onnxheadprune.workflow.requests import measure_of

    effect = measure_of(drift)
    pairs = pairs_of(model, (pruned,), follow_links=follow_links)
    if running.data is not None:
        from onnxheadprune.data.sources import with_own_tokenizer

        running = with_own_tokenizer(model, running)
    _require_for_each(pairs, heads, running)
    pairs, same = _apart_from_same(pairs)
    documents, accepted = [], True
    for pair in pairs:
        (other,) = pair.others
        data = pair.data_of(running)
        request = ValidationRequest(
            heads, data, running.provider, running.seed, metric, effect, strict=strict
        )
        with err().status("validating"):
            if heads is not None:
                require_recorded(pair.model, other, heads)
            result = prove(pair.model, other, request)
        gates = [] if max_drift is None else [drift_gate(result.drift, max_drift)]
        gates += [strict_gate(result.pruned, result.exact)] if strict else []
        document = result.to_dict()
        if min_speedup is not None and result.passed:
            from onnxheadprune.benchmarking.measure import BenchRequest
            from onnxheadprune.benchmarking.runner import run_benchmark

            bench = BenchRequest(**vars(timing), provider=result.provider, seed=running.seed, memory=False)
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
            facts = result.judged(headline, gates)
            out().print(*provider_rows(result.provider), *rows_of(facts), sep="\n")
    if as_json:
        emit_json(joined(pairs, documents) | ({"same": same} if same else {}) | {"accepted": accepted})
    elif same:
        out().print(row("the same", f"to the last byte, as nothing was cut there: {', '.join(same)}"))
    return 0 if accepted else ValidationFailedError.exit_code


def _apart_from_same(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """Pairs whose models differ, and the names of files that a cut of their folder left unchanged.

    Args:
        pairs: two models each. Where all are the same none is left out, and whoever compares them says so.
    """
    same = [pair for pair in pairs if pair.is_same]
    if len(same) == len(pairs):
        return list(pairs), []
    return [pair for pair in pairs if pair not in same], [str(pair.file) for pair in same]


def _require_for_each(pairs: Sequence[Pair], heads: str | None, running: Running) -> None:
    """Check whether what is said about two models can be said about folders."""
    if pairs[0].file is None:
        return
    if heads is not None:
        raise click.UsageError(
            "--heads is for two models; the files of a folder say themselves what they lost",
            click.get_current_context(),
        )
    if running.data is not None:
        reasons = [pair.misfit(running) for pair in pairs]
        if all(reason is not None for reason in reasons):
            from onnxheadprune.errors import UsageError

            raise UsageError(f"the data fits none of the models: {reasons[0]}")
