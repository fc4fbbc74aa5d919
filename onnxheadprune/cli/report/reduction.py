"""The report of `reduce`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.cli.report.layout import many, row
from onnxheadprune.workflow.reducing.ending import told
from onnxheadprune.workflow.reducing.reduce import Reduction


def reduction_report(found: Reduction) -> Iterator[RenderableType]:
    """What is left, how it fails, and what a reader should know of it."""
    (nodes, nodes_left), (elements, elements_left) = found.nodes, found.elements
    yield row(
        "reduced",
        f"{many(nodes_left, 'node')} of {nodes:,}, {many(elements_left, 'stored element')} of {elements:,}, after"
        f" {many(found.trials, 'trial')}",
    )
    yield row("fails", told(found.ending) + (f": {found.ending.sentence}" if found.ending.sentence else ""))
    yield row("with", found.command)
    yield row("written", found.output)
    for sentence in warnings_of(found):
        yield row("warning", sentence, "bold yellow")


def warnings_of(found: Reduction) -> Iterator[str]:
    """What makes a reduced model less than one wants, one sentence each."""
    if found.stopped:
        yield f"{found.stopped}, so more could go"
    if found.numbers:
        yield (
            f"{many(found.numbers, 'tensor')} with numbers of the original: the failure goes away without them, or that"
            " was not tried yet; look at them before you hand the file on"
        )
    if not found.valid:
        yield "it is no valid ONNX model, as the original is none"
    if not found.confirmed:
        yield "in a fresh process it does not fail in the same way: the failure comes and goes"
