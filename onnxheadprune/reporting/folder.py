"""The reports of `inspect` on a folder, and of `batch` on each model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.deploying.folders.matching import Match
from onnxheadprune.model.spelling import escaped, many, spelled
from onnxheadprune.reporting.console import STYLES, heading, row, table
from onnxheadprune.reporting.sites import block_rows, removable

if TYPE_CHECKING:
    from onnxheadprune.deploying.batch import BatchFile


def export_report(folder: str, match: Match, why: str | None = None) -> Iterator[RenderableType]:
    """The sites of a folder, and which files hold them.

    Args:
        why: where its files disagree in other kinds than heads, None where they do not.
    """
    sites = match.as_sites(folder)
    total = sum(site.num_heads for site in sites)
    yield heading(f"{folder}: {many(len(sites), 'attention site')}, {many(total, 'head')}")
    yield ""
    made = table(
        "#",
        "site",
        "kind",
        "heads",
        "kv",
        "size",
        "removable",
        numeric=("heads", "kv", "size"),
    )
    for site in sites:
        kv, width = site.kv_count, str(site.head_size)
        made.add_row(
            site.called(site.number), site.name, site.kind, str(site.num_heads), kv, width, removable(site)
        )
    yield made
    for kind in match.kinds[1:]:
        if blocks := sites.of(kind.UNITS):
            yield from block_rows(kind, blocks)
    for number, network in enumerate(match.networks):
        yield ""
        yield from _where(number, match)
        yield row("", f"units are chosen on {network.leader.name}")
    for site in sites:
        if site.reason is not None:
            yield row(site.called(site.number), f"no head can be removed: {site.reason}", "yellow")
    if why is not None:
        yield row("heads alone", f"can be removed from all files: {why}", "yellow")


def _where(number: int, match: Match) -> Iterator[RenderableType]:
    """The files of a network by their sites: sites that the same files hold are in one line."""
    network = match.networks[number]
    for kind in match.kinds:
        held: dict[tuple[str, ...], list[int]] = {}
        for item in match.of_kind(kind):
            if item.network == number:
                files = tuple(file.name for file in network.files if file.name in item.places)
                held.setdefault(files, []).append(item.site.number)
        for files, numbers in held.items():
            yield row(f"{kind.BLOCK}s", f"{kind.KEY}{spelled(numbers)} are in {', '.join(files)}")


def item_line(item: BatchFile) -> Text:
    """One line about one model."""
    line = Text(f"{item.status:8}", style=STYLES[item.word.state])
    return line.append(f" {escaped(item.file)} ({item.seconds:.1f} s)", style="default")
