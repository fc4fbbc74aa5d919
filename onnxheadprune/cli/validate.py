"""`onnxheadprune validate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.pairs import Pair, joined, pairs_of
from onnxheadprune.cli.presenting import run_record
from onnxheadprune.settings.calls import SIZES, ValidateCall
from onnxheadprune.settings.setting import requires
from onnxheadprune.settings.writing import Json, Model, Pruned


@command(rules={SIZES: requires("min_speedup")})
def validate(model: Model, pruned: Pruned, given: ValidateCall, as_json: Json = False) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift.

    The exit code is 1 where it is rejected. The sizes, repeats and threads are those of --min-speedup. Of folders as
    exporters write them every model is checked against its like, and whether all of them lost the same heads.
    """
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.reporting.console import err, out, row, rows_of
    from onnxheadprune.reporting.validation import provider_rows
    from onnxheadprune.workflow.validate import run_validation

    pairs = pairs_of(model, (pruned,), follow_links=given.follow_links)
    if given.data is not None:
        from onnxheadprune.data.sources import with_own_tokenizer

        given = with_own_tokenizer(model, given)
    _require_for_each(pairs, given)
    pairs, same = _apart_from_same(pairs)
    documents = []
    for pair in pairs:
        with err().status("validating") as status:
            result = run_validation(pair.model, pair.others[0], given, pair.data_of(given), status.update)
        document = result.to_dict()
        if result.benchmark is not None:
            document["benchmark"] = result.benchmark.to_dict()
        document["headline"] = result.headline.to_dict()
        documents.append(
            document
            | {
                "gates": [gate.to_dict() for gate in result.gates],
                "accepted": result.passed,
                "run": run_record(),
            }
        )
        if not as_json:
            facts = result.facts()
            if pair.file is not None:
                facts = replace(facts, title=str(pruned / pair.file))
            out().print(*provider_rows(result.provider), *rows_of(facts), sep="\n")
    accepted = all(document["accepted"] for document in documents)
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


def _require_for_each(pairs: Sequence[Pair], given: ValidateCall) -> None:
    """Check whether what is said about two models can be said about folders."""
    if pairs[0].file is None:
        return
    if given.heads is not None:
        raise click.UsageError(
            "--heads is for two models; the files of a folder say themselves what they lost",
            click.get_current_context(),
        )
    if given.data is not None:
        reasons = [pair.misfit(given) for pair in pairs]
        if all(reason is not None for reason in reasons):
            from onnxheadprune.errors import UsageError

            raise UsageError(f"the data fits none of the models: {reasons[0]}")
