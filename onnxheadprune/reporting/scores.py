"""Scores as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnxheadprune.attention.sites.kinds import called
from onnxheadprune.choosing.scoring.scores import HeadScores, SiteScores
from onnxheadprune.reporting.choice import by_reason, first_of
from onnxheadprune.reporting.layout import heading, many, row, table

SHOWN = 4
"""Heads to name at each end of a site."""


def score_rows(scores: HeadScores) -> Iterator[RenderableType]:
    """What was measured; of each site the heads that are worth least and most, of each block how its neurons spread."""
    yield heading(f"{scores.model}: {scores.kinds} scored by {scores.method}")
    if scores.heads:
        yield ""
        yield _heads(scores.heads)
    if scores.blocks:
        yield ""
        yield _blocks(scores.blocks)
    yield ""
    yield row("unit", scores.unit)
    if scores.data is not None:
        yield row("data", f"{many(scores.samples or 0, 'sample')} of {scores.source} ({scores.data[:12]})")
    for reason, names in by_reason(scores.constant).items():
        yield row("constant", f"{first_of(names)}: {reason}", "yellow")


def _heads(sites: Sequence[SiteScores]) -> RenderableType:
    made = table("#", "site", "heads", "least", "most", numeric=("heads",), wraps=("least", "most"))
    for site in sites:
        order = sorted((value, head) for head, value in enumerate(site.scores) if value is not None)
        made.add_row(
            called(site.index),
            site.name,
            str(len(order)),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[:SHOWN]),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[::-1][:SHOWN]),
        )
    return made


def _blocks(blocks: Sequence[SiteScores]) -> RenderableType:
    columns = (
        " and ".join(dict.fromkeys(block.kind.UNITS for block in blocks)),
        "least",
        "a quarter below",
        "half below",
        "most",
    )
    made = table("#", "block", *columns, numeric=columns)
    for block in blocks:
        order = sorted(value for value in block.scores if value is not None)
        shown = (order[0], order[len(order) // 4], order[len(order) // 2], order[-1])
        made.add_row(block.key, block.name, str(len(order)), *(f"{value:.2g}" for value in shown))
    return made
