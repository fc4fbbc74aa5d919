"""The report of `prune` and `inspect` on a folder."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.cli.report.choice import choice_rows
from onnxheadprune.cli.report.layout import bullet, change, heading, heads, many, row, size, table
from onnxheadprune.validation.result import Validation
from onnxheadprune.workflow.folders.matching import Match
from onnxheadprune.workflow.folders.result import FileResult, FolderResult

_SHOWN = 8
"""Files that are listed by name."""


def folder_report(result: FolderResult) -> Iterator[RenderableType]:
    """What goes from which files, what it saves, what is proven, and what follows."""
    before = sum(item.site.num_heads for item in result.match.sites)
    gone = sum(len(removed) for removed in result.heads.values())
    told = f"{many(len(result.files), 'model')} of {result.folder}"
    yield heading(f"{told}: removing {gone} of {many(before, 'head')}")
    yield ""
    yield _sites(result)
    yield ""
    yield _files(result)
    yield ""
    for item in result.files:
        if item.leads:
            yield from choice_rows(item.result.chosen, item.result.plan)
    yield from _notes(result)
    yield from _interface(result)
    if result.client is not None and not result.changes:
        yield row("config", f"nothing has to follow for {result.client}")
    for index, field in enumerate(result.changes):
        yield row("config" if not index else "", str(field), "yellow")
    for warning in result.warnings:
        yield row("warning", warning, "bold yellow")
    if result.output is not None:
        yield row("copied", _listed(result.copied))
        yield row("written", result.output)


def _sites(result: FolderResult) -> RenderableType:
    made = table("#", "site", "removed", "left", "files", numeric=("#", "left", "files"), grows="site")
    for item in result.match.sites:
        if removed := result.heads.get(item.index):
            site = item.site
            left = f"{site.num_heads - len(removed)} of {site.original_num_heads}"
            made.add_row(str(item.index), site.name, heads(removed), left, str(len(item.places)))
    return made


def _files(result: FolderResult) -> RenderableType:
    made = table("file", "weights", "", "validation", numeric=("weights", ""), grows="validation")
    for item in result.files:
        before, after = item.result.before.bytes, item.result.after.bytes
        made.add_row(item.name, size(after), change(before, after), _verdict(item.result.validation))
    return made


def _verdict(validation: Validation | None) -> Text | str:
    if validation is None:
        return "-"
    style = "green" if validation.passed else "yellow"
    return Text(f"{validation.verdict}: {_short(validation)}", style)


def _short(validation: Validation) -> str:
    error = validation.error
    return validation.reason.split(";")[0] if error is None else f"error {error:.1e}"


def _notes(result: FolderResult) -> Iterator[RenderableType]:
    for item in result.files:
        gathers = item.result.plan.edge_gathers
        if gathers:
            number = many(len(gathers), "edge gather")
            yield row(
                "at run time", f"{item.name} has {number}, which cost something whenever it runs", "yellow"
            )
        for warning in item.result.warnings:
            yield row("warning", f"{item.name}: {warning}", "bold yellow")


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


def export_report(folder: str, match: Match) -> Iterator[RenderableType]:
    """The sites of a folder, and which files hold them."""
    total = sum(item.site.num_heads for item in match.sites)
    yield heading(f"{folder}: {many(len(match.sites), 'attention site')}, {many(total, 'head')}")
    yield ""
    made = table(
        "#",
        "site",
        "kind",
        "heads",
        "kv",
        "size",
        "removable",
        numeric=("#", "heads", "kv", "size"),
        grows="site",
    )
    for item in match.sites:
        site = item.site
        status = Text("yes", "green") if site.removable else Text("no", "red")
        kv, width = str(site.kv_num_heads), str(site.head_size or site.v_head_size)
        made.add_row(str(item.index), site.name, site.kind, str(site.num_heads), kv, width, status)
    yield made
    for number, network in enumerate(match.networks):
        held = [item.index for item in match.sites if item.network == number]
        yield ""
        yield row("sites", f"{heads(held)} are in {', '.join(file.name for file in network.files)}")
        yield row("", f"heads are chosen on {network.leader.name}")
    for item in match.sites:
        if item.site.reason is not None:
            yield row(f"site {item.index}", f"no head can be removed: {item.site.reason}", "yellow")
