"""Limits of a pipeline, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.cli.report.layout import row

_SENTENCES = {
    "max_drift": "drift of {subject} is {value}{measure}, at most {limit} was asked for",
    "min_speedup": "{subject} is {value} times as fast, at least {limit} was asked for",
    "min_accuracy": "accuracy at {subject} is {value}, at least {limit} was asked for",
    "max_accuracy_drop": "accuracy at {subject} falls by {value}, at most {limit} was asked for",
    "min_metric": "{subject} gives {value}, at least {limit} was asked for",
    "max_metric": "{subject} gives {value}, at most {limit} was asked for",
    "max_metric_drop": "{subject} falls by {value}, at most {limit} was asked for",
    "max_file_bytes": "{subject} takes {value} bytes, at most {limit} was asked for",
    "max_size_ratio": "{subject} takes {value} of the original's bytes, at most {limit} was asked for",
    "max_operations_ratio": "{subject} takes {value} of the original's operations, at most {limit} was asked for",
}


def gate_sentence(gate: Gate) -> str:
    """What was found, and what was asked for."""
    return _SENTENCES[gate.name].format(
        subject=gate.subject,
        value="unknown" if gate.value is None else _number(gate.value),
        limit=_number(gate.limit),
        measure="" if gate.measure is None else f" ({gate.measure})",
    )


def gate_rows(gates: Sequence[Gate]) -> Iterator[RenderableType]:
    """One line per limit, red where it was broken."""
    for gate in gates:
        kept = "kept" if gate.passed else "broken"
        yield row("limit", f"{kept}: {gate_sentence(gate)}", "green" if gate.passed else "red")


def _number(value: float) -> str:
    """Counts in full, measures in four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
