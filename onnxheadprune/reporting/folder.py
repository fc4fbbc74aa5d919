"""The reports of `inspect` on a folder, and of `batch` on each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.deploying.folders.matching import Match
from onnxheadprune.model.spelling import escaped, first_few, spelled
from onnxheadprune.reporting.console import STYLES, row
from onnxheadprune.reporting.sites import (
    exits_report,
    layers_report,
    near_misses,
    not_analysed,
    sites_report,
    vocabulary_report,
)
from onnxheadprune.workflow.inspection import Inspection, LayerSummary

if TYPE_CHECKING:
    from onnxheadprune.deploying.batch import BatchFile


def export_report(
    folder: str,
    match: Match,
    found: Mapping[str, Inspection],
    layers: Sequence[LayerSummary],
    further: Sequence[RenderableType],
    *,
    why: str | None = None,
    has_text: bool = False,
) -> Iterator[RenderableType]:
    """All that is known of the structure of the models of a folder.

    Args:
        found: of each file, by its name.
        layers: of all files.
        further: what else there is to say.
        why: where its files disagree in other kinds than heads, None where they do not.
    """
    leaders = [found[network.leader.name] for network in match.networks]
    elements = sum(item.sites.elements or 0 for item in leaders)
    rows: list[RenderableType] = []
    for number, network in enumerate(match.networks):
        rows += ["", *_where(number, match), row("", f"units are chosen on {network.leader.name}")]
    if why is not None:
        rows.append(row("heads alone", f"can be removed from all files: {why}", "yellow"))
    rows += _near_misses(found)
    rows += layers_report(layers)
    rows += [line for item in leaders for line in exits_report(item.exits)]
    tables = (item for item in found.values() if item.vocabularies)
    first = next(tables, None)
    rows += vocabulary_report([] if first is None else [v.to_dict(first.bytes) for v in first.vocabularies])
    rows += [line for name, item in found.items() for line in not_analysed(item.failed, name)]
    sites = replace(match.as_sites(folder), elements=elements)
    yield from sites_report(sites, [*rows, *further], has_text=has_text, output="smaller")


def _near_misses(found: Mapping[str, Inspection]) -> Iterator[RenderableType]:
    """The notes on nodes that look like a site and are none; files with the same notes share one."""
    said: dict[str, list[str]] = {}
    for name, item in found.items():
        said.setdefault("\n".join(map(str, near_misses(item.sites))), []).append(name)
    for names in said.values():
        yield from near_misses(found[names[0]].sites, f" of {first_few(names, 3)}")


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
            yield row(f"{kind.block}s", f"{kind.key}{spelled(numbers)} are in {', '.join(files)}")


def item_line(item: BatchFile) -> Text:
    """One line about one model."""
    line = Text(f"{item.status:8}", style=STYLES[item.word.state])
    return line.append(f" {escaped(item.file)} ({item.seconds:.1f} s)", style="default")
