"""The early exits of a model, as `inspect` shows them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.layout import count, item, many, share, table
from onnxheadprune.workflow.exits import EarlyExit, EarlyExits


def exits_report(found: EarlyExits) -> Iterator[RenderableType]:
    """Table of the exits with what lies behind each, then Loops that cannot be fixed; nothing without either."""
    if found.exits:
        yield Text(f"\n{many(len(found.exits), 'early exit')} (--exit)", style="bold")
        made = table(
            "exit",
            "decided by",
            "heads behind",
            "params",
            "operations",
            numeric=("heads behind", "params", "operations"),
            wraps=("decided by",),
        )
        for entry in found.exits:
            made.add_row(
                f"{entry.number}{' and on' if entry.endless else ''}",
                _decider(entry),
                f"{count(entry.heads)} ({share(entry.heads_share)})",
                share(entry.elements_share),
                "?" if entry.operations_share is None else share(entry.operations_share),
            )
        yield made
    for node, reason in found.refused.items():
        yield item(f"{node} ends early and cannot be fixed: {reason}", "yellow")


def _decider(entry: EarlyExit) -> str:
    turns = "" if entry.turns is None else f", after {many(entry.turns, 'turn')}"
    return f"{entry.condition} at {entry.node}{turns}"
