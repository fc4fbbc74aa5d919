"""The report of `quantize`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.reporting.layout import change, heading, many, row, size
from onnxheadprune.runtime.quantizing import Quantizing
from onnxheadprune.workflow.quantize import QuantizeResult


def quantize_report(result: QuantizeResult) -> Iterator[RenderableType]:
    """Yield what became of the weights, and what it costs."""
    stored, done = result.matrices
    before, after = result.before.bytes, result.after.bytes
    yield heading(f"{result.name}: {done} of {many(stored, 'stored float tensor')} to {result.how.to}")
    yield ""
    yield row("settings", settings_of(result.how))
    yield row("weights", f"{size(before)} -> {size(after)} ({change(before, after)})")
    if result.drift is not None:
        yield row(
            "drift", f"{result.drift:.3g} ({result.unit}) on {result.measured_on}, as a deployment runs both"
        )
    for note in result.notes:
        yield row("note", note, "yellow")
    if result.output is not None:
        yield row("written", result.output)


def settings_of(how: Quantizing) -> str:
    """The settings in words."""
    if how.to == "int4":
        return f"blocks of {how.block_size} inputs, symmetric"
    scales = "a scale per output" if how.per_channel else "a scale per tensor"
    return f"{scales}, {'seven' if how.reduce_range else 'eight'} bits"
