"""Limits of a pipeline, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.cli.report.layout import row


def gate_rows(gates: Sequence[Gate]) -> Iterator[RenderableType]:
    """One line per limit, red where it was broken."""
    for gate in gates:
        kept = "kept" if gate.passed else "broken"
        yield row("limit", f"{kept}: {gate.sentence}", "green" if gate.passed else "red")
