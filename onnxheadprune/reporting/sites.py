"""The report of `inspect`: sites, layers, early exits and vocabularies."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from onnxheadprune.attention.sites.all_sites import AttentionSite, Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.model.analysis_errors import NotAnalysed
from onnxheadprune.model.spelling import count, many, share, size, spelled
from onnxheadprune.reporting.console import heading, item, next_call, row, table
from onnxheadprune.settings.cutting import UNITS
from onnxheadprune.settings.units import SCORED, UnitKind
from onnxheadprune.workflow.inspection import EarlyExit, EarlyExits, Inspection, LayerSummary

WIDE, BAR = 90, 12
"""Columns of a terminal from which there is room for bars, and of the longest bar."""


def inspection_report(
    inspection: Inspection, unloadable: str | None, *, has_text: bool = False
) -> Iterator[RenderableType]:
    """All that is known of the structure of a model."""
    rows = [
        *exits_report(inspection.exits),
        *vocabulary_report([item.to_dict(inspection.bytes) for item in inspection.vocabularies]),
        *not_analysed(inspection.failed),
        *not_loaded(unloadable),
    ]
    if inspection.sites.known or inspection.vocabularies:
        further = [*layers_report(inspection.layers), *rows]
        yield from sites_report(inspection.sites, further, has_text=has_text)
    else:
        yield from near_misses(inspection.sites)
        yield from rows


def sites_report(
    sites: Sites,
    further: Sequence[RenderableType] = (),
    *,
    has_text: bool = False,
    output: str = "smaller.onnx",
) -> Iterator[RenderableType]:
    """Table of the sites, then why some cannot lose heads, then near misses, then what else there is to say."""
    total = sum(site.num_heads for site in sites)
    counts = f"{many(len(sites), 'attention site')}, {many(total, 'head')}" if sites else "no attention site"
    yield heading(f"{sites.model}: {counts}")
    if sites:
        yield ""
        yield _SiteTable(sites)
    blocked = [site for site in sites if site.reason is not None]
    if blocked:
        yield Text("\nno single head can be removed from", style="bold")
        for site in blocked:
            yield item(f"{site.label}: {site.reason}", "yellow")
    yield from near_misses(sites)
    for kind, find in sites.others.items():
        # Layers have a table of their own.
        if kind.scored_by and (sites_of_kind := find().sites):
            yield from _block_rows(kind, sites_of_kind)
    yield from further
    yield ""
    yield from _prospects(sites, has_text, output)


def _prospects(sites: Sites, has_text: bool, output: str) -> Iterator[RenderableType]:
    """Yield how much of the model can go, and what to type for it."""
    removable = [site for site in sites if site.removable]
    if not removable:
        return
    held = sum(site.params for site in removable)
    if sites.elements and held <= sites.elements:
        part = share(held / sites.elements)
        yield row("removable", f"{part} of the {count(sites.elements)} stored elements belong to these heads")
    spare = sum(site.num_heads - len(site.removed) for site in removable)
    if spare > 1:
        data = "YOURS.txt" if has_text else "YOURS.npz"
        cuttable = (
            kind for kind, find in sites.others.items() if any(site.removable for site in find().sites)
        )
        others = [kind.units for kind in cuttable if kind.units in SCORED]
        units = f" --units {','.join(('heads', *others))}" if others else ""
        model = shlex.quote(sites.model)
        yield ""
        yield next_call(f"onnxheadprune prune {model} --ratio 0.25{units} --data {data} -o {output}")


def _block_rows(kind: UnitKind, sites: Sequence[Site]) -> Iterator[RenderableType]:
    """Table of the sites of one kind, then why some cannot lose units."""
    total = sum(site.num_units for site in sites)
    option = f" (--{kind.units})" if kind.units in UNITS.split() else ""
    # Of what is its own only unit the number is known.
    several = (kind.units,) if any(site.original_num_units > 1 for site in sites) else ()
    units = f", {many(total, kind.unit)}{option}" if several else ""
    yield Text(f"\n{many(len(sites), kind.title)}{units}", style="bold")
    details = tuple(dict.fromkeys(name for site in sites for name in site.details))
    numeric = *several, *details, "params"
    sorts = ("kind",) if any(site.kind for site in sites) else ()
    listing = table("#", kind.block, *sorts, *numeric, "removable", numeric=numeric)
    for site in sites:
        number = f"{count(site.num_units)}"
        if site.removed:
            number += f" of {count(site.original_num_units)}"
        known = (site.details.get(name, "-") for name in details)
        cells = chain((site.kind for _ in sorts), (number for _ in several), known)
        listing.add_row(site.tag, site.name, *cells, count(site.params), _removable(site))
    yield listing
    for site in sites:
        if site.reason is not None:
            yield item(f"{site.label}: {site.reason}", "yellow")


def _removable(site: Site) -> Text:
    """Return whether units of a site can be removed: "yes", "whole" where only all of them can, "no"."""
    if site.removable:
        return Text("yes", "green")
    return Text("whole", "yellow") if site.removable_whole else Text("no", "red")


def near_misses(sites: Sites, where: str = "") -> Iterator[RenderableType]:
    """Yield what looks like a site and is none, with the reasons, and declared shapes that are contradicted.

    Args:
        where: the files of a folder that hold it, where there are several.
    """
    lists = [
        ("near misses (they look like attention, but heads cannot be removed)", sites.near_misses),
        ("no heads (one attention map for all channels)", sites.no_heads),
        *(
            (f"near misses (they look like a {kind.title}, but cannot lose {kind.units})", find().near_misses)
            for kind, find in sites.others.items()
        ),
    ]
    for title, missed in lists:
        if missed:
            yield Text(f"\n{title}{where}", style="bold")
        for miss in missed:
            yield item(f"{miss.node}: {miss.reason.sentence}", "yellow")
    if sites.ignored_declarations:
        yield Text(f"\ndeclared shapes that the operators contradict{where}", style="bold")
        yield from (item(sentence, "yellow") for sentence in sites.ignored_declarations)


@dataclass(frozen=True)
class _SiteTable:
    """One line per site; where the terminal is wide enough, with a bar for its share of what heads hold."""

    sites: Sites

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the columns that fit the width of the console."""
        sites, wide = self.sites, options.max_width >= WIDE
        removed_before = any(site.removed for site in sites)
        columns = ["#", "site", "kind", "heads", "kv", "size", "params"]
        if wide:
            columns.append("share")
        columns.append("removable")
        if removed_before:
            columns.append("removed before")
        listing = table(*columns, numeric=("heads", "kv", "size", "params"))
        most = max(site.params for site in sites) or 1
        for site in sites:
            cells: list[str | Text] = [
                site.tag,
                site.name,
                site.kind,
                str(site.num_heads),
                site.kv_count,
                _head_size(site),
                count(site.params),
            ]
            if wide:
                cells.append(Text("█" * max(round(BAR * site.params / most), 1), "cyan"))
            cells.append(_removable(site))
            if removed_before:
                cells.append(spelled(site.removed) or "-")
            listing.add_row(*cells)
        yield listing


def _head_size(site: AttentionSite) -> str:
    same = site.head_size == site.v_head_size
    return str(site.head_size) if same else f"{site.head_size}/{site.v_head_size}"


def layers_report(layers: Sequence[LayerSummary]) -> Iterator[RenderableType]:
    """Yield a table of the layers; nothing where there are none."""
    if not layers:
        return
    yield Text(f"\n{many(len(layers), 'layer')} (--layers)", style="bold")
    listing = table(
        "#", "layer", "holds", "params", "operations", numeric=("params", "operations"), wraps=("holds",)
    )
    for layer in layers:
        operations = "?" if layer.operations_share is None else share(layer.operations_share)
        held = " ".join(layer.sites)
        if layer.lacks:
            held += f" (no {', no '.join(layer.lacks)})"
        listing.add_row(layer.key, layer.name or "-", held, share(layer.params_share), operations)
    yield listing
    for layer in layers:
        if layer.reason is not None:
            yield Text(f"  - layer {layer.key} cannot be removed as a whole: {layer.reason}")


def not_analysed(failed: Sequence[NotAnalysed], where: str = "") -> Iterator[RenderableType]:
    """Yield the searches that ended in an unexpected error."""
    if failed:
        yield ""
    for search in failed:
        yield item(f"{where}: {search}" if where else str(search), "bold yellow")


def not_loaded(why: str | None, where: str = "") -> Iterator[RenderableType]:
    """Yield that ONNX Runtime does not load a model."""
    if why is not None:
        yield ""
        yield item(f"{where + ': ' if where else ''}does not load in ONNX Runtime: {why}", "bold yellow")


def exits_report(exits: EarlyExits) -> Iterator[RenderableType]:
    """Table of the exits with what lies after each, then Loops that cannot be fixed; nothing without either."""
    if exits.exits:
        yield Text(f"\n{many(len(exits.exits), 'early exit')} (--exit)", style="bold")
        listing = table(
            "exit",
            "decided by",
            "heads behind",
            "params",
            "operations",
            numeric=("heads behind", "params", "operations"),
            wraps=("decided by",),
        )
        for entry in exits.exits:
            listing.add_row(
                f"{entry.number}{' and on' if entry.endless else ''}",
                _decider(entry),
                f"{count(entry.heads)} ({share(entry.heads_share)})",
                share(entry.elements_share),
                "?" if entry.operations_share is None else share(entry.operations_share),
            )
        yield listing
    for node, reason in exits.refused.items():
        yield item(f"{node} ends early and cannot be fixed: {reason}", "yellow")


def _decider(entry: EarlyExit) -> str:
    turns = "" if entry.turns is None else f", after {many(entry.turns, 'turn')}"
    return f"{entry.condition} at {entry.node}{turns}"


def vocabulary_report(vocabularies: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Table of the tensors with a row or a column per token, by the inputs that hold token ids."""
    if not vocabularies:
        return
    yield Text("\nvocabulary (--vocab, --vocab-size)", style="bold")
    listing = table(
        "token ids", "tensor", "tokens", "size", "of weights", numeric=("tokens", "size", "of weights")
    )
    for entry in vocabularies:
        for held in entry["tables"]:
            listing.add_row(
                ", ".join(entry["inputs"]),
                held["tensor"],
                count(entry["rows"]),
                size(held["bytes"]),
                share(held["share"]),
            )
    yield listing
