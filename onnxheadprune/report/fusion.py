"""The rows about fusion in the report of `prune`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.fusion import Fusion
from onnxheadprune.fusion.result import spell_reasons
from onnxheadprune.report.layout import bullet, row


def fusion_rows(fusion: Fusion | None) -> Iterator[RenderableType]:
    """How many sites run in which fused operator, and why the others do not."""
    if fusion is None:
        return
    yield row("fusion", fusion.summary, "" if fusion.made else "yellow")
    for reason in spell_reasons(fusion.sites):
        yield bullet(reason, "yellow")
