"""The reports on folders: `prune` and `inspect` of an export, and a `batch` of models."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.deploying.folders.card import CARD
from onnxheadprune.deploying.folders.matching import Match, SharedSite
from onnxheadprune.deploying.folders.types import FileResult, FolderResult
from onnxheadprune.model.spelling import change, count, escaped, many, size, spelled
from onnxheadprune.reporting.choice import choice_rows
from onnxheadprune.reporting.console import STYLES, bullet, heading, row, table
from onnxheadprune.reporting.plan import answer_report
from onnxheadprune.reporting.sites import block_rows, removable
from onnxheadprune.reporting.validation import provider_rows
from onnxheadprune.validation.result import Validation

if TYPE_CHECKING:
    from onnxheadprune.deploying.batch import BatchFile

_SHOWN = 8
"""Files that are listed by name."""


def folder_report(result: FolderResult, real: str, report: Path | None = None) -> Iterator[RenderableType]:
    """The answer; with --verbose also sites, files, choices and configuration.

    Args:
        real: the command that writes what a dry run showed.
    """
    for validation in [item.result.validation for item in result.files if item.result.validation][:1]:
        yield from provider_rows(validation.provider)
    measured = () if result.output is None else ("onnxheadprune", "bench", result.folder, result.output)
    yield from answer_report(result.facts(), shlex.join(measured) or real, report, _details(result))


def _details(result: FolderResult) -> Iterator[RenderableType]:
    for kind in result.match.kinds:
        lost = [item for item in result.match.of_kind(kind) if result.heads.get(item.index)]
        if lost:
            yield ""
            yield _sites(kind, lost, result)
    yield ""
    yield _files(result)
    yield ""
    for item in result.files:
        if item.leads:
            yield from choice_rows(item.result.chosen, item.result.plan)
    yield from _interface(result)
    for index, field in enumerate(result.changes):
        yield row("config" if not index else "", str(field), "yellow")
    if result.output is not None:
        yield row("copied", _listed(result.copied))
        if result.card:
            yield row("model card", CARD)


def _sites(kind: type[Site], lost: Sequence[SharedSite], result: FolderResult) -> RenderableType:
    title, number = (kind.TITLE, ("removed",)) if kind.has_many_units() else (kind.BLOCK, ())
    made = table(
        "#", title, "removed", "left", "files", numeric=(*number, "left", "files"), wraps=("removed",)
    )
    for item in lost:
        site, removed = item.site, result.heads[item.index]
        left = f"{count(site.num_units - len(removed))} of {count(site.original_num_units)}"
        made.add_row(site.called(site.number), site.name, site.listed(removed), left, str(len(item.places)))
    return made


def _files(result: FolderResult) -> RenderableType:
    made = table("file", "weights", "", "validation", numeric=("weights", ""), wraps=("validation",))
    for item in result.files:
        before, after = item.result.before.bytes, item.result.after.bytes
        made.add_row(item.name, size(after), change(before, after), _verdict(item.result.validation))
    return made


def _verdict(validation: Validation | None) -> Text | str:
    if validation is None:
        return "-"
    style = "green" if validation.exact == "yes" else "yellow"
    return Text(f"{validation.verdict}: {_short(validation)}", style)


def _short(validation: Validation) -> str:
    error = validation.error
    return validation.reason.split(";")[0] if error is None else f"error {error:.1e}"


def _interface(result: FolderResult) -> Iterator[RenderableType]:
    """Changed inputs and outputs, those of a kind in one line."""
    for item in result.files:
        lines = _grouped(item)
        if lines:
            yield row("interface", f"inputs and outputs of {item.name} change:", "yellow")
            for line in lines:
                yield bullet(line, "yellow")


def _grouped(item: FileResult) -> list[str]:
    kinds: dict[tuple[str, int | None, object, object], list[str]] = {}
    for found in item.result.plan.interface:
        kinds.setdefault((found.role, found.axis, found.before, found.after), []).append(found.name)
    return [
        f"{many(len(names), role)} ({names[0]}{', ...' if len(names) > 1 else ''}): {before} -> {after} on axis {axis}"
        for (role, axis, before, after), names in kinds.items()
    ]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing else"


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
