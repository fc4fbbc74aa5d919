"""The report of `inspect`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.attention.sites.site import AttentionSite, Sites
from onnxheadprune.cli.report.layout import count, heading, heads, item, many, table


def sites_report(sites: Sites) -> Iterator[RenderableType]:
    """Table of the sites, then why some cannot lose heads, then near misses."""
    total = sum(site.num_heads for site in sites)
    yield heading(f"{sites.model}: {many(len(sites), 'attention site')}, {many(total, 'head')}")
    if sites:
        yield ""
        yield _table(sites)
    blocked = [site for site in sites if site.reason is not None]
    if blocked:
        yield Text("\nno head can be removed from", style="bold")
        for site in blocked:
            yield item(f"{site.index} {site.name}: {site.reason}", "yellow")
    yield from near_misses(sites)


def near_misses(sites: Sites) -> Iterator[RenderableType]:
    """What looks like attention and is no site, with the reasons."""
    lists = (
        ("near misses (they look like attention, but)", sites.near_misses),
        ("no heads to tell (one map of weights for all channels)", sites.no_heads),
    )
    for title, missed in lists:
        if missed:
            yield Text(f"\n{title}", style="bold")
        for miss in missed:
            yield item(f"{miss.node}: {miss.reason.sentence}", "yellow")


def _table(sites: Sites) -> RenderableType:
    removed_before = any(site.removed for site in sites)
    columns = ["#", "site", "kind", "heads", "kv", "size", "params", "removable"]
    columns += ["removed before"] * removed_before
    made = table(*columns, numeric=("#", "heads", "kv", "size", "params"), grows="site")
    for site in sites:
        cells = [
            str(site.index),
            site.name,
            site.kind,
            str(site.num_heads),
            str(site.kv_num_heads),
            _head_size(site),
            count(site.params),
        ]
        status = Text("yes", "green") if site.removable else Text("no", "red")
        made.add_row(*cells, status, *([heads(site.removed) or "-"] * removed_before))
    return made


def _head_size(site: AttentionSite) -> str:
    if site.head_size is None:
        return str(site.v_head_size)
    same = site.head_size == site.v_head_size
    return str(site.head_size) if same else f"{site.head_size}/{site.v_head_size}"
