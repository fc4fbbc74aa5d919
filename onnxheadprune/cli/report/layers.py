"""The layers of a model, as `inspect` shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.layout import many, share, table
from onnxheadprune.workflow.layers import LayerSummary


def layers_report(layers: Sequence[LayerSummary]) -> Iterator[RenderableType]:
    """Yield a table of the layers; nothing where there are none."""
    if not layers:
        return
    yield Text(f"\n{many(len(layers), 'layer')} (--layers)", style="bold")
    made = table(
        "#", "layer", "holds", "params", "operations", numeric=("params", "operations"), wraps=("holds",)
    )
    for layer in layers:
        operations = "?" if layer.operations_share is None else share(layer.operations_share)
        made.add_row(
            layer.key, layer.name or "-", " ".join(layer.sites), share(layer.params_share), operations
        )
    yield made
