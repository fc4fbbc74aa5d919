"""Limits of a pipeline, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.cli.report.layout import row

_SENTENCES = {
    "max_drift": "drift of {subject} is {value}{measure}, at most {limit:.4g} was asked for",
    "min_speedup": "{subject} is {value} times as fast, at least {limit:.4g} was asked for",
}


def gate_rows(gates: Sequence[Gate]) -> Iterator[RenderableType]:
    """One line per limit, red where it was broken."""
    for gate in gates:
        value = "unknown" if gate.value is None else f"{gate.value:.4g}"
        text = _SENTENCES[gate.name].format(
            subject=gate.subject,
            value=value,
            limit=gate.limit,
            measure="" if gate.measure is None else f" ({gate.measure})",
        )
        yield row(
            "limit", f"{'kept' if gate.passed else 'broken'}: {text}", "green" if gate.passed else "red"
        )
