"""Scores as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.cli.report.layout import heading, many, row, table
from onnxheadprune.selection.scoring.scores import HeadScores

SHOWN = 4
"""Heads to name at each end of a site."""


def score_rows(scores: HeadScores) -> Iterator[RenderableType]:
    """What was measured, then for each site the heads that are worth least and most."""
    yield heading(f"{scores.model}: heads scored by {scores.method}")
    yield ""
    made = table("#", "site", "heads", "least", "most", numeric=("#", "heads"), grows="site")
    for site in scores.sites:
        known = [(value, head) for head, value in enumerate(site.scores) if value is not None]
        order = sorted(known)
        made.add_row(
            str(site.index),
            site.name,
            str(len(known)),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[:SHOWN]),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[::-1][:SHOWN]),
        )
    yield made
    yield ""
    yield row("unit", scores.unit)
    if scores.data is not None:
        yield row("data", f"{many(scores.samples or 0, 'sample')} of {scores.source} ({scores.data[:12]})")
