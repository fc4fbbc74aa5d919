"""The rows about fusion in the report of `prune`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.fusion.result import Fusion, spell_reasons
from onnxheadprune.reporting.layout import bullet, row


def fusion_rows(fusion: Fusion | None) -> Iterator[RenderableType]:
    """Yield how many sites run in which fused operator, and why the others do not."""
    if fusion is None:
        return
    yield row("fusion", fusion.summary, "" if fusion.made else "yellow")
    if fusion.trials:
        kept = "the model unfused" if fusion.chosen == "none" else f"the {fusion.chosen} form"
        yield bullet(f"measured here, as a ratio to the unfused model; kept is {kept}:")
        for trial in fusion.trials:
            yield bullet(str(trial), "" if trial.ratios else "yellow")
    for reason in spell_reasons(fusion.sites):
        yield bullet(reason, "yellow")
