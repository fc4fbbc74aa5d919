"""The obstacle to the use of a GPU, printed before any result."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.reporting.console import row
from onnxheadprune.runtime import Provider


def provider_rows(provider: Provider) -> Iterator[RenderableType]:
    """Yield what keeps a GPU from being used, before everything that ran without it."""
    if provider.warning is not None:
        yield row("warning", provider.warning, "bold yellow")
